package authstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
)

// loadedRow is a stored row, opened. A damaged one has raw and err instead.
type loadedRow struct {
	row  row
	key  Key
	data []byte
	raw  []byte
	err  error
}

type caller func(op string, f func(context.Context) error) error

// reader makes the calls that a scan needs.
type reader struct {
	scan caller // for rows
	get  caller // for the parts of those that stand in some
}

// some is for few rows: it waits through an outage, and ends the term when that
// lasts.
func (s *deviceStore) some() reader {
	call := func(op string, f func(context.Context) error) error { return s.gate.run(op, false, f) }
	return reader{call, call}
}

// whole is for all rows of a table.
func (s *deviceStore) whole(ctx context.Context) reader {
	r := s.some()
	r.scan = func(op string, f func(context.Context) error) error { return s.gate.lookAgain(ctx, op, f) }
	return r
}

// scan reads rows of a table for a reader who is under way: it waits through
// an outage, and sets damaged rows aside.
func (s *deviceStore) scan(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	look, end := s.beginLook()
	defer end()
	rows, err := s.scanTable(by, op, t, idPrefix)
	if err != nil {
		return nil, err
	}
	var good, bad []loadedRow
	for _, r := range rows {
		switch {
		case r.err == nil:
			good = append(good, r)
		case errors.Is(r.err, ErrCorrupt):
			bad = append(bad, r)
		default:
			return nil, r.err
		}
	}
	s.quarantine(look, bad)
	return good, nil
}

// scanTable reads and opens the rows of t whose ids begin with idPrefix.
func (s *deviceStore) scanTable(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	rows, err := s.scanEvery(by, op, t, idPrefix)
	return s.onlyNewest(t, rows), err
}

// scanEvery is scanTable, and gives rows under their old names too.
func (s *deviceStore) scanEvery(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	sp := specOf(t)
	var entries []Entry
	for _, whole := range s.scanPrefixes(t, idPrefix) {
		var answer result[[]Entry]
		err := by.scan(op, func(ctx context.Context) error {
			return answer.of(scanAll(s.gate.kv.Scan(ctx, sp.kind, whole)))
		})
		if err != nil {
			return nil, err
		}
		entries = append(entries, answer.get()...)
	}
	return s.openRows(by.get, op, t, entries)
}

// openRows opens rows of t, many of them on all cores.
func (s *deviceStore) openRows(call caller, op string, t tableID, entries []Entry) ([]loadedRow, error) {
	const fewest = 256 // for one core
	prefix := s.genOf(specOf(t)) + "/"
	out := make([]loadedRow, len(entries))
	open := func(from, to int) {
		for i, e := range entries[from:to] {
			out[from+i] = s.openRow(call, op, t, e, strings.TrimPrefix(e.Key.ID, prefix))
		}
	}
	var wg sync.WaitGroup
	size := max(fewest, (len(entries)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := size; from < len(entries); from += size {
		wg.Go(func() { open(from, min(from+size, len(entries))) })
	}
	open(0, min(size, len(entries)))
	wg.Wait()
	for _, r := range out {
		if r.err != nil && !permanent(r.err) {
			return nil, r.err
		}
	}
	return out, nil
}

func (s *deviceStore) openRow(call caller, op string, t tableID, e Entry, id string) loadedRow {
	r := loadedRow{row: row{t, id}, key: e.Key, raw: e.Value}
	rec, err := s.cfg.codec.decode(e.Key, id, e.Value)
	if err == nil && rec.split != nil {
		m := *rec.split
		var raw []byte
		if raw, err = join(s.gate.kv, s.cfg.codec, call, op, e.Key, m); err == nil {
			if rec, err = s.cfg.codec.decode(e.Key, id, raw); err == nil && rec.split != nil {
				err = fmt.Errorf("%w: the parts of a split value make another split value", ErrCorrupt)
			}
		}
		s.mu.Lock()
		s.upkeep.loose.split(e.Key, m)
		s.mu.Unlock()
	}
	r.row.bucket, r.data, r.err = rec.id, rec.data, err
	if err != nil {
		r.row.bucket = id
	} else {
		r.raw = nil
	}
	return r
}

// join reads the parts of a split value.
func join(kv KV, cd codec, call caller, op string, k Key, m manifest) ([]byte, error) {
	keys := partKeys(k, m)
	var answer result[map[Key][]byte]
	err := call(op, func(ctx context.Context) error { return answer.of(kv.Get(ctx, keys...)) })
	if err != nil {
		return nil, err
	}
	got := answer.get()
	var b bytes.Buffer
	for _, pk := range keys {
		raw, ok := got[pk]
		if !ok {
			return nil, fmt.Errorf("%w: a part of a value of kind %s is missing", ErrCorrupt, k.Kind)
		}
		rec, err := cd.decode(pk, pk.ID, raw)
		if err != nil {
			return nil, err
		}
		b.Write(rec.data)
	}
	if b.Len() != m.size {
		return nil, fmt.Errorf("%w: the parts of a value of kind %s do not add up", ErrCorrupt, k.Kind)
	}
	return b.Bytes(), nil
}
