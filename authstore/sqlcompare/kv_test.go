package sqlcompare

import (
	"context"
	"iter"
	"maps"
	"strings"
	"sync"

	"github.com/wastability/wastability/authstore"
)

// mapKV is a KV in memory, fenced by epoch.
type mapKV struct {
	mu    sync.Mutex
	data  map[authstore.Key]string
	epoch int64
}

func (m *mapKV) Get(_ context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[authstore.Key][]byte)
	for _, k := range keys {
		if v, ok := m.data[k]; ok {
			out[k] = []byte(v)
		}
	}
	return out, nil
}

func (m *mapKV) Scan(_ context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	m.mu.Lock()
	data := maps.Clone(m.data)
	m.mu.Unlock()
	return func(yield func(authstore.Entry, error) bool) {
		for k, v := range data {
			if k.Kind == kind && strings.HasPrefix(k.ID, prefix) && !yield(authstore.Entry{Key: k, Value: []byte(v)}, nil) {
				return
			}
		}
	}
}

func (m *mapKV) Commit(_ context.Context, epoch int64, b authstore.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch != m.epoch {
		return authstore.ErrFenced
	}
	for _, e := range b.Put {
		m.data[e.Key] = string(e.Value)
	}
	for _, k := range b.Delete {
		delete(m.data, k)
	}
	return nil
}

func (m *mapKV) Limits() authstore.Limits { return authstore.Limits{} }
