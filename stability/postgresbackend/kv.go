package postgresbackend

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/wastability/wastability/authstore"
)

// keyValues implements authstore.KV.
type keyValues struct{ a *account }

var _ authstore.KV = keyValues{}

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
	var got map[authstore.Key][]byte
	err := s.a.do(ctx, "get", func(ctx context.Context) error {
		got = make(map[authstore.Key][]byte, len(keys))
		rows, err := s.a.db.pool.Query(ctx, s.a.db.q.get, s.a.id, kinds, ids)
		if err != nil {
			return err
		}
		var kind string
		var id, data []byte
		_, err = pgx.ForEachRow(rows, []any{&kind, &id, &data}, func() error {
			got[authstore.Key{Kind: authstore.Kind(kind), ID: string(id)}] = owned(data)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// owned copies: pgx reuses its buffers, and an empty value is a value.
func owned(data []byte) []byte { return append(make([]byte, 0, len(data)), data...) }

// Scan is one round trip. It reads everything before it yields the first entry,
// so that whoever writes meanwhile needs no second connection.
func (s keyValues) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		var found []authstore.Entry
		err := s.a.do(ctx, "scan", func(ctx context.Context) error {
			found = nil
			rows, err := s.a.db.pool.Query(ctx, s.a.db.q.scan, s.a.id, string(kind), []byte(idPrefix), successor(idPrefix))
			if err != nil {
				return err
			}
			var id, data []byte
			_, err = pgx.ForEachRow(rows, []any{&id, &data}, func() error {
				found = append(found, authstore.Entry{Key: authstore.Key{Kind: kind, ID: string(id)}, Value: owned(data)})
				return nil
			})
			return err
		})
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
	goneKinds, goneIDs := make([]string, len(b.Delete)), make([][]byte, len(b.Delete))
	for i, k := range b.Delete {
		goneKinds[i], goneIDs[i] = string(k.Kind), []byte(k.ID)
	}
	return s.a.underFence(ctx, "commit", epoch, func(ctx context.Context, t term) (bool, error) {
		var passed int
		err := s.a.db.pool.QueryRow(ctx, s.a.db.q.commit, s.a.id, t.epoch, t.nonce, t.token, kinds, ids, values, goneKinds, goneIDs).Scan(&passed)
		return passed == 1, err
	})
}
