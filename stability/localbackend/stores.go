package localbackend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
)

// limits are what one commit can take: far above what authstore asks for, and
// a bound on the memory that one transaction takes.
var limits = authstore.Limits{MaxValue: 32 << 20, MaxBatch: 64 << 20, MaxKeys: 1 << 16}

const (
	maxIncidentID = 1500

	// A scan reads this much in one transaction, and holds none while it yields.
	scanEntries = 256
	scanBytes   = 1 << 20
)

// keyValues implements authstore.KV.
type keyValues struct{ b *backend }

func (s keyValues) Limits() authstore.Limits { return limits }

// dbKey is kind, NUL, id. A kind has no NUL, so kinds and prefixes do not mix.
func dbKey(kind authstore.Kind, id string) []byte {
	b := make([]byte, 0, len(kind)+1+len(id))
	return append(append(append(b, kind...), 0), id...)
}

func (s keyValues) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	var got map[authstore.Key][]byte
	err := s.b.view(ctx, "get", func(r *reader) error {
		got = make(map[authstore.Key][]byte, len(keys))
		for _, k := range keys {
			v, err := r.get(bucketAuth, dbKey(k.Kind, k.ID))
			if err != nil {
				return fmt.Errorf("%s: %w", k.Kind, err)
			}
			if v != nil {
				got[k] = clone(v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// clone copies what is valid in a transaction only, and never returns nil.
func clone(v []byte) []byte { return append(make([]byte, 0, len(v)), v...) }

// slab is where a page's values are copied to: one allocation for several, and
// few enough that one which is kept for long holds little beside it.
type slab []byte

func (s *slab) clone(v []byte) []byte {
	const size = 16 << 10
	if len(v) > size/4 {
		return clone(v)
	}
	if len(v) > cap(*s)-len(*s) {
		*s = make([]byte, 0, size)
	}
	at := len(*s)
	*s = append(*s, v...)
	return (*s)[at:len(*s):len(*s)]
}

// Scan yields in the order of ids. An entry that is written meanwhile may be
// seen or not; an entry that is there all the time is seen once.
func (s keyValues) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		prefix := dbKey(kind, idPrefix)
		from := prefix
		for from != nil {
			entries, next, err := s.page(ctx, kind, prefix, from)
			if err != nil {
				yield(authstore.Entry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			from = next
		}
	}
}

// page reads entries from a key on; next is nil after the last one.
func (s keyValues) page(ctx context.Context, kind authstore.Kind, prefix, from []byte) (entries []authstore.Entry, next []byte, err error) {
	err = s.b.view(ctx, "scan", func(r *reader) error {
		entries, next = make([]authstore.Entry, 0, scanEntries), nil
		size := 0
		var bad error
		var room slab
		ids, ends := make([]byte, 0, scanEntries*24), make([]int, 0, scanEntries) // one string holds all ids
		err := r.ascend(bucketAuth, prefix, from, func(k, stored []byte) bool {
			if len(entries) == scanEntries || size >= scanBytes {
				next = bytes.Clone(k)
				return false
			}
			v, err := unseal(bucketAuth, k, stored)
			if err != nil {
				bad = fmt.Errorf("%s: %w", kind, err)
				return false
			}
			size += len(v)
			entries = append(entries, authstore.Entry{Key: authstore.Key{Kind: kind}, Value: room.clone(v)})
			ids = append(ids, k[len(kind)+1:]...)
			ends = append(ends, len(ids))
			return true
		})
		all, from := string(ids), 0
		for i, end := range ends {
			entries[i].Key.ID, from = all[from:end], end
		}
		return errors.Join(err, bad)
	})
	return entries, next, err
}

func (s keyValues) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := limits.Check(b); err != nil {
		return fmt.Errorf("localbackend: %w", err)
	}
	return s.b.write(ctx, "commit", epoch, func(w *batch) error {
		for _, e := range b.Put {
			w.put(bucketAuth, dbKey(e.Key.Kind, e.Key.ID), e.Value)
		}
		for _, k := range b.Delete {
			w.delete(bucketAuth, dbKey(k.Kind, k.ID))
		}
		return nil
	})
}

// stateStore implements reconnect.StateStore.
type stateStore struct{ b *backend }

func (s stateStore) Load(ctx context.Context) (st reconnect.State, err error) {
	err = s.b.view(ctx, "load the state", func(r *reader) error {
		data, err := r.get(bucketState, keyState)
		if err == nil {
			st, err = reconnect.DecodeState(data)
		}
		return err
	})
	if err != nil {
		return reconnect.State{}, err
	}
	return st, nil
}

func (s stateStore) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	data, err := reconnect.EncodeState(st)
	if err != nil {
		return fmt.Errorf("localbackend: save the state: %w", err)
	}
	return s.b.write(ctx, "save the state", epoch, func(w *batch) error {
		old, err := w.get(bucketState, keyState)
		if err == nil {
			_, err = reconnect.DecodeState(old)
		}
		if err != nil {
			return fmt.Errorf("write over the old state: %w", err)
		}
		w.put(bucketState, keyState, data)
		return nil
	})
}

// incidentStore implements guard.IncidentStore.
type incidentStore struct{ b *backend }

type incidentRecord struct {
	Version int `json:"version"`
	guard.Incident
}

func decodeIncident(id string, data []byte) (guard.Incident, error) {
	if data == nil {
		return guard.Incident{}, nil
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return guard.Incident{}, damaged("incident %q: %v", id, err)
	}
	if version.Version > guard.RecordVersion {
		return guard.Incident{}, fmt.Errorf("incident %q, format %d: %w", id, version.Version, guard.ErrNewerFormat)
	}
	var r incidentRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return guard.Incident{}, damaged("incident %q: %v", id, err)
	}
	r.ID = id
	return r.Incident, nil
}

// change reads, changes and writes one incident; next says whether to write.
func (s incidentStore) change(ctx context.Context, op, id string, next func(prev guard.Incident) (guard.Incident, bool)) error {
	return s.b.write(ctx, op, anyEpoch, func(w *batch) error {
		data, err := w.get(bucketIncidents, []byte(id))
		if err != nil {
			return err
		}
		prev, err := decodeIncident(id, data)
		if err != nil {
			return err
		}
		inc, changed := next(prev)
		if !changed {
			return nil
		}
		if data, err = json.Marshal(incidentRecord{guard.RecordVersion, inc}); err != nil {
			return err
		}
		w.put(bucketIncidents, []byte(id), data)
		return nil
	})
}

func (s incidentStore) Raise(ctx context.Context, inc guard.Incident) (stored guard.Incident, opened bool, err error) {
	if inc.ID == "" {
		return guard.Incident{}, false, fmt.Errorf("localbackend: raise an incident: %w", guard.ErrNoID)
	}
	if len(inc.ID) > maxIncidentID {
		return guard.Incident{}, false, fmt.Errorf("localbackend: raise an incident: its id has %d bytes: use at most %d", len(inc.ID), maxIncidentID)
	}
	err = s.change(ctx, "raise an incident", inc.ID, func(prev guard.Incident) (guard.Incident, bool) {
		stored, opened = guard.Raised(prev, inc)
		return stored, true
	})
	if err != nil {
		return guard.Incident{}, false, err
	}
	stored.Evidence = maps.Clone(stored.Evidence)
	return stored, opened, nil
}

func (s incidentStore) Resolve(ctx context.Context, id string, at time.Time) (closed bool, err error) {
	if id == "" || len(id) > maxIncidentID {
		return false, nil // never raised
	}
	err = s.change(ctx, "resolve an incident", id, func(prev guard.Incident) (guard.Incident, bool) {
		var next guard.Incident
		next, closed = guard.Resolved(prev, at)
		return next, closed
	})
	return closed && err == nil, err
}

func (s incidentStore) List(ctx context.Context) ([]guard.Incident, error) {
	var (
		out     []guard.Incident
		problem error
	)
	err := s.b.view(ctx, "list incidents", func(r *reader) error {
		out, problem = nil, nil
		return r.ascend(bucketIncidents, nil, nil, func(k, stored []byte) bool {
			data, err := unseal(bucketIncidents, k, stored)
			if err == nil {
				var inc guard.Incident
				if inc, err = decodeIncident(string(k), data); err == nil {
					out = append(out, inc)
				}
			}
			problem = errors.Join(problem, err)
			return true
		})
	})
	guard.Sort(out)
	return out, errors.Join(err, problem)
}
