package guardtest_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/guard/guardtest"
)

// incidents is a guard.IncidentStore in a map. guard.Raised and guard.Resolved
// say what is stored, so a store has only to make each call one transaction.
type incidents struct {
	mu   sync.Mutex
	rows map[string]incidentRow
}

type incidentRow struct {
	version int
	guard.Incident
}

// read fails where a newer library wrote the row. mu is held.
func (s *incidents) read(id string) (guard.Incident, error) {
	r := s.rows[id]
	if r.version > guard.RecordVersion {
		return guard.Incident{}, fmt.Errorf("incident %q has version %d: %w", id, r.version, guard.ErrNewerFormat)
	}
	r.Evidence = maps.Clone(r.Evidence) // the caller may change what it gets
	return r.Incident, nil
}

func (s *incidents) Raise(_ context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if inc.ID == "" {
		return guard.Incident{}, false, guard.ErrNoID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := s.read(inc.ID)
	if err != nil {
		return guard.Incident{}, false, err
	}
	now, opened := guard.Raised(before, inc)
	s.rows[inc.ID] = incidentRow{guard.RecordVersion, now}
	now, err = s.read(inc.ID)
	return now, opened, err
}

func (s *incidents) Resolve(_ context.Context, id string, at time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := s.read(id)
	if err != nil {
		return false, err
	}
	now, closed := guard.Resolved(before, at)
	if closed {
		s.rows[id] = incidentRow{guard.RecordVersion, now}
	}
	return closed, nil
}

// List gives what can be read beside the error about the rest.
func (s *incidents) List(context.Context) (all []guard.Incident, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.rows {
		if inc, unread := s.read(id); unread != nil {
			err = unread
		} else {
			all = append(all, inc)
		}
	}
	guard.Sort(all)
	return all, err
}

// testIncidentsConform tests an IncidentStore.
func testIncidentsConform(t *testing.T) {
	guardtest.Run(t, func(t *testing.T) guardtest.Account {
		s := &incidents{rows: map[string]incidentRow{}}
		return guardtest.Account{Store: s, PlantNewer: func(t *testing.T, id string) {
			r := s.rows[id]
			r.version = guard.RecordVersion + 1
			s.rows[id] = r
		}}
	})
}

// In a test of your own: func TestIncidentsConform(t *testing.T) { testIncidentsConform(t) }
func ExampleRun() {
	_ = testIncidentsConform
}
