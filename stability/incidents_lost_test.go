package stability_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
)

// noReply is a server that does what it is asked about incidents, and of which
// some replies are lost or late.
type noReply struct {
	server
	resolves atomic.Int32 // as many of the next replies are lost
	late     atomic.Pointer[chan struct{}]
	listing  atomic.Int32
}

var errNoReply = errors.New("the reply was lost")

func (s *noReply) Backend() stability.Backend {
	b := s.server.Backend()
	b.Incidents = noReplyIncidents{b.Incidents, s}
	return b
}

type noReplyIncidents struct {
	guard.IncidentStore
	s *noReply
}

func (i noReplyIncidents) Resolve(ctx context.Context, id string, at time.Time) (bool, error) {
	closed, err := i.IncidentStore.Resolve(ctx, id, at)
	if i.s.resolves.Add(-1) >= 0 {
		return false, errNoReply
	}
	return closed, err
}

func (i noReplyIncidents) List(ctx context.Context) ([]guard.Incident, error) {
	list, err := i.IncidentStore.List(ctx)
	if late := i.s.late.Load(); late != nil {
		i.s.listing.Add(1)
		select {
		case <-*late:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return list, err
}

func TestEndOfAnIncidentIsToldThoughTheReplyWasLost(t *testing.T) {
	t.Parallel()
	for name, newTerm := range map[string]bool{"asked once more": false, "found by the next term": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const id = "wa_disconnect_stuck_active"
				w := newWorld(t)
				s := &noReply{server: w.memory}
				w.memory = s
				a := w.tended("a", stability.WithAutoHeal(noHeal), keepsTheLock).run().pair() // one instance tells
				for round := 1; round <= 2; round++ {
					time.Sleep(5 * time.Minute)
					stop := w.loops()
					time.Sleep(11 * time.Minute)
					require.Equal(t, opened, a.book.last(id).Change)
					s.resolves.Store(1)
					stop()
					a.ready()
					time.Sleep(time.Second)
					require.False(t, w.incident(id).Active, "it has landed")
					require.Len(t, a.book.of(id), 2*round-1)
					if newTerm {
						a.cancel()
						require.NoError(t, <-a.result)
						a.run().ready()
					}
					time.Sleep(5 * time.Minute)
					require.Len(t, a.book.of(id), 2*round)
					require.Equal(t, resolved, a.book.last(id).Change)
				}
				a.stop()
				w.close()
			})
		})
	}
}

// Another instance may open an incident anew behind an end whose reply was lost.
func TestIncidentDoesNotEndBeforeItBegan(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const id = "wa_disconnect_stuck_active"
		w := newWorld(t)
		s := &noReply{server: w.memory}
		w.memory = s
		a := w.tended("a", stability.WithAutoHeal(noHeal), keepsTheLock).run().pair()
		time.Sleep(5 * time.Minute)
		stop := w.loops()
		time.Sleep(11 * time.Minute)
		s.resolves.Store(1)
		stop()
		a.ready()
		time.Sleep(time.Second)
		anew := w.incident(id)
		require.False(t, anew.Active, "it has landed")
		time.Sleep(time.Second)
		anew.Active, anew.ResolvedAt, anew.DetectedAt = true, time.Time{}, time.Now()
		_, again, err := w.look().Incidents.Raise(t.Context(), anew)
		require.NoError(t, err)
		require.True(t, again)
		time.Sleep(5 * time.Minute)
		end := w.incident(id)
		require.False(t, end.Active)
		require.False(t, end.ResolvedAt.Before(end.DetectedAt), "%v, %v", end.DetectedAt, end.ResolvedAt)
		a.stop()
		w.close()
	})
}

// The list of incidents that an instance reads may be older than the removal of
// the damaged rows that one of them is about.
func TestPurgeIsNotUndoneByAnOlderListOfIncidents(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		hurt := &hurtServer{server: w.memory}
		s := &noReply{server: hurt}
		w.memory = s
		a := w.tended("a").run().pair()
		_, _, err := a.m.Client().Store.Contacts.PutPushName(t.Context(), types.NewJID("1", types.DefaultUserServer), "One")
		require.NoError(t, err)
		a.stop()
		hurt.damage("contact")
		b := w.tended("b").run().ready()
		time.Sleep(time.Minute)
		hurt.heal()
		require.Equal(t, []guard.Change{opened}, b.book.of(damageID))
		b.stop()
		late := make(chan struct{})
		s.late.Store(&late)
		c := w.tended("c").run().ready()
		w.await("the list is under way", func() bool { return s.listing.Load() > 0 })
		require.NoError(t, c.m.PurgeRows(t.Context()))
		s.late.Store(nil)
		close(late)
		time.Sleep(5 * time.Minute)
		require.Equal(t, []guard.Change{resolved}, c.book.of(damageID))
		require.False(t, w.incident(damageID).Active)
		c.stop()
		w.close()
	})
}
