package authstore

import (
	"encoding/binary"
	"iter"
	"sync"
)

// result carries the answer of a call out of it. A call that was given up may
// still answer while a later one does.
type result[T any] struct {
	mu sync.Mutex
	v  T
}

// of keeps v, unless err.
func (r *result[T]) of(v T, err error) error {
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.v = v
	return nil
}

func (r *result[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.v
}

func scanAll(rows iter.Seq2[Entry, error]) ([]Entry, error) {
	var out []Entry
	for e, err := range rows {
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// fieldsOf writes numbers as varints and bytes as they are.
func fieldsOf(vs ...any) []byte {
	var b []byte
	for _, v := range vs {
		switch v := v.(type) {
		case int64:
			b = binary.AppendVarint(b, v)
		case byte:
			b = append(b, v)
		}
	}
	return b
}

func asByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
