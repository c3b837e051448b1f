package postgresbackend

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/wastability/wastability/authstore"
)

// keyValues implements authstore.KV.
type keyValues struct{ a *account }

var (
	_ authstore.KV           = keyValues{}
	_ authstore.RangeScanner = keyValues{}
)

// Limits leaves room in a message of the protocol, which ends at 1 GiB; the
// server keeps a batch in memory several times over.
func (s keyValues) Limits() authstore.Limits {
	return authstore.Limits{MaxValue: 32 << 20, MaxBatch: 64 << 20}
}

// Get is one round trip.
func (s keyValues) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	kinds, ids := make([]string, len(keys)), make([][]byte, len(keys))
	for i, k := range keys {
		kinds[i], ids[i] = string(k.Kind), []byte(k.ID)
	}
	found, err := s.read(ctx, "get", s.a.db.q.get, textArg(s.a.id), textsArg(kinds), bytesArg(ids))
	if err != nil {
		return nil, err
	}
	got := make(map[authstore.Key][]byte, len(found))
	for _, e := range found {
		got[e.Key] = e.Value
	}
	return got, nil
}

// Scan is one round trip. It reads everything before it yields the first entry,
// so that whoever writes meanwhile needs no second connection.
func (s keyValues) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return each(ctx, func() ([]authstore.Entry, error) {
		return s.read(ctx, "scan", s.a.db.q.scan, textArg(s.a.id), textArg(string(kind)), argument{[]byte(idPrefix), pgtype.ByteaOID}, argument{successor(idPrefix), pgtype.ByteaOID})
	})
}

// ScanRanges is Scan of several ranges, in one round trip.
func (s keyValues) ScanRanges(ctx context.Context, ranges ...authstore.Range) iter.Seq2[authstore.Entry, error] {
	kinds, lows, highs := make([]string, len(ranges)), make([][]byte, len(ranges)), make([][]byte, len(ranges))
	for i, r := range ranges {
		kinds[i], lows[i], highs[i] = string(r.Kind), []byte(r.IDPrefix), successor(r.IDPrefix)
	}
	return each(ctx, func() ([]authstore.Entry, error) {
		return s.read(ctx, "scan", s.a.db.q.ranges, textArg(s.a.id), textsArg(kinds), bytesArg(lows), bytesArg(highs))
	})
}

func each(ctx context.Context, read func() ([]authstore.Entry, error)) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		found, err := read()
		if err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		for _, e := range found {
			if err := ctx.Err(); err != nil {
				yield(authstore.Entry{}, fmt.Errorf("postgresbackend: scan: %w", err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// argument is one of a statement, and its type in Postgres.
type argument struct {
	value any
	oid   uint32
}

func textArg(s string) argument    { return argument{s, pgtype.TextOID} }
func textsArg(s []string) argument { return argument{s, pgtype.TextArrayOID} }
func bytesArg(b [][]byte) argument { return argument{b, pgtype.ByteaArrayOID} }

// read runs a statement that yields kind, id and data, in one round trip also
// when its connection is new: it is not prepared before. Reads are few, and of a
// cold start each way over the network counts.
func (s keyValues) read(ctx context.Context, op, sql string, args ...argument) (found []authstore.Entry, err error) {
	err = s.a.do(ctx, op, func(ctx context.Context) error {
		found = nil
		pooled, err := s.a.db.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer pooled.Release()
		conn := pooled.Conn()
		note := func(kind string, id, data []byte) { // pgx reuses its buffers, and an empty value is a value
			found = append(found, authstore.Entry{
				Key: authstore.Key{Kind: authstore.Kind(kind), ID: string(id)}, Value: append(make([]byte, 0, len(data)), data...)})
		}
		if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
			plain := make([]any, len(args))
			for i, a := range args {
				plain[i] = a.value
			}
			rows, err := conn.Query(ctx, sql, plain...)
			if err != nil {
				return err
			}
			var kind string
			var id, data []byte
			_, err = pgx.ForEachRow(rows, []any{&kind, &id, &data}, func() error {
				note(kind, id, data)
				return nil
			})
			return err
		}
		values, types, binary := make([][]byte, len(args)), make([]uint32, len(args)), make([]int16, len(args))
		for i, a := range args {
			if values[i], err = conn.TypeMap().Encode(a.oid, pgx.BinaryFormatCode, a.value, make([]byte, 0, 64)); err != nil {
				return err
			}
			types[i], binary[i] = a.oid, pgx.BinaryFormatCode
		}
		reader := conn.PgConn().ExecParams(ctx, sql, values, types, binary, []int16{pgx.BinaryFormatCode})
		for reader.NextRow() {
			row := reader.Values()
			note(string(row[0]), row[1], row[2])
		}
		_, err = reader.Close()
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// successor is the first id behind all that begin with prefix; nil when there
// is none.
func successor(prefix string) []byte {
	p := []byte(prefix)
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			p[i]++
			return p[:i+1]
		}
	}
	return nil
}

// Commit is one statement and one round trip, whatever its size.
func (s keyValues) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := s.Limits().Check(b); err != nil {
		return fmt.Errorf("postgresbackend: %w", err)
	}
	n := len(b.Put)
	kinds, ids, values := make([]string, n), make([][]byte, n), make([][]byte, n)
	for i, e := range b.Put {
		kinds[i], ids[i], values[i] = string(e.Key.Kind), []byte(e.Key.ID), e.Value
		if e.Value == nil {
			values[i] = []byte{} // nil would be NULL
		}
	}
	deletedKinds, deletedIDs := make([]string, len(b.Delete)), make([][]byte, len(b.Delete))
	for i, k := range b.Delete {
		deletedKinds[i], deletedIDs[i] = string(k.Kind), []byte(k.ID)
	}
	return s.a.underFence(ctx, "commit", epoch, func(ctx context.Context, t term) (bool, error) {
		var passed int
		err := s.a.db.pool.QueryRow(ctx, s.a.db.q.commit, s.a.id, t.epoch, t.nonce, t.token, kinds, ids, values, deletedKinds, deletedIDs).Scan(&passed)
		return passed == 1, err
	})
}
