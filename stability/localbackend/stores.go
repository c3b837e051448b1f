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

	"go.etcd.io/bbolt"

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
	err := s.b.view(ctx, "get", func(tx *bbolt.Tx) error {
		got = make(map[authstore.Key][]byte, len(keys))
		for _, k := range keys {
			v, err := read(tx, bucketAuth, dbKey(k.Kind, k.ID))
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

// Scan yields in the order of ids. What is written meanwhile may be seen or
// not; what is there all the time is seen once.
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
	err = s.b.view(ctx, "scan", func(tx *bbolt.Tx) error {
		entries, next = nil, nil
		b := tx.Bucket(bucketAuth)
		if b == nil {
			return damaged("the bucket %s is missing", bucketAuth)
		}
		size := 0
		c := b.Cursor()
		for k, stored := c.Seek(from); bytes.HasPrefix(k, prefix); k, stored = c.Next() {
			if len(entries) == scanEntries || size >= scanBytes {
				next = bytes.Clone(k)
				return nil
			}
			v, err := unseal(bucketAuth, k, stored)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			size += len(v)
			entries = append(entries, authstore.Entry{
				Key: authstore.Key{Kind: kind, ID: string(k[len(kind)+1:])}, Value: clone(v),
			})
		}
		return nil
	})
	return entries, next, err
}

func (s keyValues) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := limits.Check(b); err != nil {
		return fmt.Errorf("localbackend: %w", err)
	}
	return s.b.write(ctx, "commit", epoch, func(w *writer) error {
		auth, err := w.bucket(bucketAuth)
		if err != nil {
			return err
		}
		for _, e := range b.Put {
			if err := w.put(auth, bucketAuth, dbKey(e.Key.Kind, e.Key.ID), e.Value); err != nil {
				return err
			}
		}
		for _, k := range b.Delete {
			if err := w.delete(auth, dbKey(k.Kind, k.ID)); err != nil {
				return err
			}
		}
		return nil
	})
}

// stateStore implements reconnect.StateStore.
type stateStore struct{ b *backend }

func (s stateStore) Load(ctx context.Context) (st reconnect.State, err error) {
	err = s.b.view(ctx, "load the state", func(tx *bbolt.Tx) error {
		data, err := read(tx, bucketState, keyState)
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
	return s.b.write(ctx, "save the state", epoch, func(w *writer) error {
		old, err := read(w.tx, bucketState, keyState)
		if err == nil {
			_, err = reconnect.DecodeState(old)
		}
		if err != nil {
			return fmt.Errorf("over the old one: %w", err)
		}
		b, err := w.bucket(bucketState)
		if err != nil {
			return err
		}
		return w.put(b, bucketState, keyState, data)
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
	return s.b.write(ctx, op, anyEpoch, func(w *writer) error {
		data, err := read(w.tx, bucketIncidents, []byte(id))
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
		b, err := w.bucket(bucketIncidents)
		if err != nil {
			return err
		}
		return w.put(b, bucketIncidents, []byte(id), data)
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
	err := s.b.view(ctx, "list incidents", func(tx *bbolt.Tx) error {
		out, problem = nil, nil
		b := tx.Bucket(bucketIncidents)
		if b == nil {
			return damaged("the bucket %s is missing", bucketIncidents)
		}
		return b.ForEach(func(k, stored []byte) error {
			data, err := unseal(bucketIncidents, k, stored)
			if err == nil {
				var inc guard.Incident
				if inc, err = decodeIncident(string(k), data); err == nil {
					out = append(out, inc)
				}
			}
			problem = errors.Join(problem, err)
			return nil
		})
	})
	guard.Sort(out)
	return out, errors.Join(err, problem)
}
