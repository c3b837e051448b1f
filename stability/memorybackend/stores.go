package memorybackend

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
)

// keyValues implements authstore.KV.
type keyValues struct{ i *instance }

func (s keyValues) Limits() authstore.Limits { return s.i.m.limits }

func (s keyValues) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	if err := s.i.enter(ctx, "get"); err != nil {
		return nil, err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	got := make(map[authstore.Key][]byte, len(keys))
	for _, k := range keys {
		if v, ok := m.entries[k]; ok {
			got[k] = clone(v)
		}
	}
	return got, nil
}

// Scan yields what was there when it began.
func (s keyValues) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		if err := s.i.enter(ctx, "scan"); err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		var found []authstore.Entry
		s.i.m.mu.Lock()
		for k, v := range s.i.m.entries {
			if k.Kind == kind && strings.HasPrefix(k.ID, idPrefix) {
				found = append(found, authstore.Entry{Key: k, Value: v}) // values are replaced, never changed
			}
		}
		s.i.m.mu.Unlock()
		for _, e := range found {
			if err := s.i.enter(ctx, "scan"); err != nil {
				yield(authstore.Entry{}, err)
				return
			}
			e.Value = clone(e.Value)
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s keyValues) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := s.i.enter(ctx, "commit"); err != nil {
		return err
	}
	m := s.i.m
	if err := m.limits.Check(b); err != nil {
		return fmt.Errorf("memorybackend: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fenced("commit", epoch); err != nil {
		return err
	}
	for _, e := range b.Put {
		m.entries[e.Key] = clone(e.Value)
	}
	for _, k := range b.Delete {
		delete(m.entries, k)
	}
	return nil
}

// clone never returns nil: an empty value is a value.
func clone(v []byte) []byte { return append(make([]byte, 0, len(v)), v...) }

// stateStore implements reconnect.StateStore.
type stateStore struct{ i *instance }

func (s stateStore) Load(ctx context.Context) (reconnect.State, error) {
	if err := s.i.enter(ctx, "load the state"); err != nil {
		return reconnect.State{}, err
	}
	s.i.m.mu.Lock()
	data := s.i.m.state // replaced, never changed
	s.i.m.mu.Unlock()
	st, err := reconnect.DecodeState(data)
	if err != nil {
		return reconnect.State{}, fmt.Errorf("memorybackend: load the state: %w", err)
	}
	return st, nil
}

func (s stateStore) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if err := s.i.enter(ctx, "save the state"); err != nil {
		return err
	}
	data, err := reconnect.EncodeState(st)
	if err != nil {
		return fmt.Errorf("memorybackend: save the state: %w", err)
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fenced("save the state", epoch); err != nil {
		return err
	}
	if !bytes.Equal(m.state, m.saved) {
		if _, err := reconnect.DecodeState(m.state); err != nil {
			return fmt.Errorf("memorybackend: save over the old state: %w", err)
		}
	}
	m.state, m.saved = data, data
	return nil
}

// incidentStore implements guard.IncidentStore.
type incidentStore struct{ i *instance }

func (s incidentStore) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if err := s.i.enter(ctx, "raise an incident"); err != nil {
		return guard.Incident{}, false, err
	}
	if inc.ID == "" {
		return guard.Incident{}, false, fmt.Errorf("memorybackend: raise an incident: %w", guard.ErrNoID)
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	prev, err := m.incident(inc.ID)
	if err != nil {
		return guard.Incident{}, false, err
	}
	next, opened := guard.Raised(prev, inc)
	m.incidents[inc.ID] = stored[guard.Incident]{guard.RecordVersion, next}
	next.Evidence = maps.Clone(next.Evidence)
	return next, opened, nil
}

func (s incidentStore) Resolve(ctx context.Context, id string, at time.Time) (bool, error) {
	if err := s.i.enter(ctx, "resolve an incident"); err != nil {
		return false, err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	prev, err := m.incident(id)
	if err != nil {
		return false, err
	}
	next, closed := guard.Resolved(prev, at)
	if closed {
		m.incidents[id] = stored[guard.Incident]{guard.RecordVersion, next}
	}
	return closed, nil
}

func (s incidentStore) List(ctx context.Context) ([]guard.Incident, error) {
	if err := s.i.enter(ctx, "list incidents"); err != nil {
		return nil, err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	var (
		out     []guard.Incident
		problem error
	)
	for id := range m.incidents {
		inc, err := m.incident(id)
		if err != nil {
			problem = err
			continue
		}
		inc.Evidence = maps.Clone(inc.Evidence)
		out = append(out, inc)
	}
	guard.Sort(out)
	return out, problem
}

// incident reads one; the zero Incident when there is none. m.mu is held.
func (m *Memory) incident(id string) (guard.Incident, error) {
	s := m.incidents[id]
	if s.version > guard.RecordVersion {
		return guard.Incident{}, fmt.Errorf("memorybackend: incident %q, version %d: %w", id, s.version, guard.ErrNewerFormat)
	}
	return s.value, nil
}
