package stability_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// outages are what an instance told of its backend, in order.
func (n *named) outages() (out []stability.EventKind) {
	for _, e := range n.history(stability.EventStoreDown, stability.EventStoreUp) {
		out = append(out, e.Kind)
	}
	return out
}

const (
	storeDown = stability.EventStoreDown
	storeUp   = stability.EventStoreUp
)

func TestTheSecondRenewalThatFailsIsAnOutageAndTheNextThatWorksItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		var renewals []time.Time
		failing := true
		a.wire.set(func(call string) error {
			if call != "renew" {
				return nil
			}
			renewals = append(renewals, time.Now())
			if failing && len(renewals) > 3 {
				failing = false
			}
			if failing {
				return errNoRoute
			}
			return nil
		})
		down := a.reached(1, storeDown)
		st := a.status()
		require.ErrorIs(t, st.StoreUnavailable, errNoRoute)
		require.Equal(t, reconnect.StatusConnected, st.WA, "it is trusted still")
		require.Contains(t, st.Summary, "the lock could not be renewed for")
		require.Contains(t, st.Summary, "the connection is cut in")
		up := a.reached(1, storeUp)
		a.wire.heal()
		require.Equal(t, renewals[1], down.Time)
		require.Equal(t, renewals[3], up.Time)
		require.NoError(t, a.status().StoreUnavailable)
		require.Contains(t, a.status().Summary, "Connected for")
		require.NotContains(t, a.status().Summary, "renewed")

		// One that fails now and then is none.
		a.forget()
		for range 5 {
			a.wire.failOnce(1, only("renew"))
			time.Sleep(5 * time.Minute)
		}
		require.Empty(t, a.outages())
		a.stop()
		w.close()
	})
}

// An instance in standby asks for the lock only, and learns of an outage by that.
func TestAStandbyTellsThatTheLockDoesNotAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		b := w.named("b").run()
		b.reached(1, stability.EventStandby)
		time.Sleep(time.Minute)
		b.wire.fail(func(string) bool { return true })
		b.reached(1, storeDown)
		require.ErrorIs(t, b.status().StoreUnavailable, errNoRoute)
		require.Contains(t, b.status().Summary, "nobody knows who holds the lock")
		time.Sleep(time.Hour)
		b.wire.heal()
		b.reached(1, storeUp)
		require.NoError(t, b.status().StoreUnavailable)
		require.Contains(t, b.status().Summary, "Standing by")
		require.Equal(t, []stability.EventKind{storeDown, storeUp}, b.outages())
		b.stop()
		a.stop()
		w.close()
	})
}

// A lock that answers says nothing of a state that cannot be saved, whichever
// of the two failed first, and also after an outage of its own.
func TestTheLocksAnswersDoNotEndAnOutageOfTheState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		a.wire.fail(only("renew"))
		a.reached(1, storeDown)
		a.wire.heal()
		a.reached(1, storeUp)

		a.wire.fail(only("save state"))
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		a.reached(2, storeDown)
		time.Sleep(2 * time.Minute)
		require.Equal(t, []stability.EventKind{storeDown, storeUp, storeDown}, a.outages())

		fails := a.status().Heartbeats.Failures
		a.wire.fail(only("save state", "renew"))
		w.await("renewals fail too", func() bool { return a.status().Heartbeats.Failures >= fails+3 })
		a.wire.fail(only("save state"))
		time.Sleep(2 * time.Minute)
		require.Zero(t, a.status().Heartbeats.Failures, "the lock answers again")
		require.Equal(t, []stability.EventKind{storeDown, storeUp, storeDown}, a.outages())
		require.ErrorContains(t, a.status().StoreUnavailable, "save state")
		a.wire.heal()
		a.ready()
		require.Equal(t, []stability.EventKind{storeDown, storeUp, storeDown, storeUp}, a.outages())
		a.stop()
		w.close()
	})
}

// That the lock was lost is an answer too.
func TestTheAnswerThatTheLockIsLostEndsTheOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		fails := 0
		a.wire.set(func(call string) error {
			switch call {
			case "renew":
				if fails++; fails <= 2 {
					return errNoRoute
				}
				return lock.ErrLost
			case "acquire", "load lock":
				return errHang // nothing else has answered yet
			}
			return nil
		})
		over := a.reached(1, stability.EventDeactivated)
		require.Equal(t, reconnect.ReasonLockLost, over.Reason)
		require.Equal(t, []stability.EventKind{storeDown, storeUp}, a.outages())
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestWhoGivesUpWaitingForTheLockHasSeenNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand()
		h.wire.hang(only("acquire"))
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			_, err := h.m.TryActivate(ctx)
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Empty(t, h.outages())
		require.NoError(t, h.status().StoreUnavailable)
		h.wire.heal()
		h.finish()
	})
}

// stubborn is a lock that fails in its own way when it is told to give up.
type stubborn struct {
	server
	lock.Store
	lock.Watcher
	waiting atomic.Bool
}

func (s *stubborn) Backend() stability.Backend {
	b := s.server.Backend()
	s.Store, s.Watcher = b.Lock, b.Lock.(lock.Watcher)
	b.Lock = s
	return b
}

func (s *stubborn) Acquire(ctx context.Context, _, _ string, _ time.Duration) (lock.Record, bool, error) {
	if s.waiting.Load() {
		<-ctx.Done()
	}
	s.waiting.Store(true)
	return lock.Record{}, false, errNoRoute
}

func TestAfterCloseNoOutageIsToldAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		s := &stubborn{server: w.memory}
		w.memory = s
		a := w.named("a").run()
		w.await("the second call is under way", s.waiting.Load)
		time.Sleep(2 * time.Second)
		require.Empty(t, a.outages())
		_ = a.m.Close(t.Context())
		require.ErrorIs(t, <-a.result, stability.ErrClosed)
		require.Empty(t, a.outages())
		w.close()
	})
}

// Nobody waits to be asked any more while a term is being ended.
func TestParkedEndsWithTheTerm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithPairingRounds(1)).run()
		w.await("nobody scans", func() bool { return a.status().Parked })
		a.wire.hang(only("release"))
		a.cancel()
		time.Sleep(time.Second)
		require.Empty(t, a.history(stability.EventDeactivated), "the lock is being released")
		require.False(t, a.status().Parked)
		require.Equal(t, stability.ModePassive, a.status().Mode)
		require.NoError(t, <-a.result)
		require.ErrorContains(t, a.m.Close(t.Context()), "release")
		w.close()
	})
}

// A missing table or grant may be mended while instances wait. Run says what is
// missing, and goes on by itself then.
func TestRefusalOfTheLockIsNamedAndEndsWithItsCause(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]error{"at once": nil, "behind an outage": errNoRoute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const refuses = "the backend refuses requests, and a person must mend this; it is asked again until it accepts them"
				w := newWorld(t)
				w.named("a").run().pair().stop()
				missing := errors.New("there are no tables: run DB.Migrate")
				lines := &logLines{}
				b := w.named("b", stability.WithLogger(lines.logger()))
				if first != nil {
					b.wire.breakWith(lockCalls, first)
					b.run()
					time.Sleep(2 * time.Minute)
					require.Zero(t, lines.count(refuses))
					require.Equal(t, 1, lines.count("the backend does not answer; waiting for it"))
				}
				b.wire.breakWith(lockCalls, backoff.Permanent(missing))
				if first == nil {
					b.run()
				}
				time.Sleep(time.Hour)
				require.ErrorIs(t, b.status().StoreUnavailable, missing)
				require.Contains(t, b.status().Summary, missing.Error())
				require.Equal(t, 1, lines.count(refuses))
				require.Equal(t, []stability.EventKind{storeDown}, b.outages())
				b.wire.heal()
				b.ready()
				require.NoError(t, b.status().StoreUnavailable)
				b.stop()
				w.close()
			})
		})
	}
}
