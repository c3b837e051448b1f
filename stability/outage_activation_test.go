package stability_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Ending a term takes a moment, and as long as the budget allows when a handler
// does not return. A lock that is lost is lost at once all the same.
func TestFromTheLossOfTheLockOnNoStatusSaysActive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a")
		time.Sleep(time.Minute)
		a.run().pair()
		time.Sleep(time.Minute)
		require.Equal(t, a.reached(1, stability.EventActivated).Time, a.status().ModeSince)
		busy, free := make(chan struct{}), make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				close(busy)
				<-free
			}
		})
		_, err := w.say("hold on")
		require.NoError(t, err)
		<-busy
		a.wire.fail(lockCalls)
		until := a.status().TrustedUntil
		for time.Now().Before(until) {
			require.Equal(t, stability.ModeActive, a.status().Mode)
			time.Sleep(100 * time.Millisecond)
		}
		ending := 0
		for time.Sleep(time.Millisecond); len(a.history(stability.EventDeactivated)) == 0; time.Sleep(100 * time.Millisecond) {
			st := a.status()
			require.Equal(t, stability.ModePassive, st.Mode, st.Summary)
			require.False(t, st.ModeSince.Before(until), "since the loss, not since the term began")
			require.NotEqual(t, reconnect.StatusConnected, st.WA)
			require.False(t, st.TrustedUntil.After(st.At))
			require.Nil(t, st.Auth, "what the store holds is another's by now")
			active, err := a.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.False(t, active)
			ending++
		}
		require.Greater(t, ending, 20, "it took its time")
		require.Equal(t, stability.ModePassive, a.status().Mode)
		close(free)
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

// A backend that does not answer is asked soon at first, then every five
// seconds, in each outage anew.
func TestWhatCouldNotBeSavedIsTriedAgainWithGrowingPauses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		for range 2 {
			time.Sleep(5 * time.Minute)
			var saves []time.Time
			a.wire.set(func(call string) error {
				if call != "save state" {
					return nil
				}
				saves = append(saves, time.Now())
				return errNoRoute
			})
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			time.Sleep(19 * time.Second)
			a.wire.heal()
			var pauses []time.Duration
			for i := range saves[1:] {
				pauses = append(pauses, saves[i+1].Sub(saves[i]))
			}
			require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}, pauses)
			a.ready()
		}
		a.stop()
		w.close()
	})
}

// A long first pause is meant for WhatsApp's service, not for the backend.
func TestLongFirstPauseDoesNotDelayTheBackend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithReconnect(reconnect.Policy{InitialDelay: 40 * time.Second}))
		var calls []string
		var at []time.Time
		failing := func(call string) error {
			if call != "acquire" && call != "save state" {
				return nil
			}
			calls, at = append(calls, call), append(at, time.Now())
			return errNoRoute
		}
		within := func(call string) {
			t.Helper()
			time.Sleep(time.Minute)
			a.wire.heal()
			require.Greater(t, len(calls), 10)
			for i := range calls {
				require.Equal(t, call, calls[i])
				require.LessOrEqual(t, at[i].Sub(at[max(i-1, 0)]), 7*time.Second, "its pause is 5 s")
			}
			calls, at = nil, nil
		}
		a.wire.set(failing)
		a.run()
		within("acquire")
		a.pair()
		time.Sleep(time.Minute)
		a.wire.set(failing)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		within("save state")
		a.ready()
		a.stop()
		w.close()
	})
}

// The state is where a term that is over shows first, if the lock is silent.
func TestASaveThatIsFencedEndsTheTermAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		a.wire.set(func(call string) error {
			if call == "save state" {
				return reconnect.ErrFenced
			}
			return nil
		})
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(time.Second)
		over := a.history(stability.EventDeactivated)
		require.NotEmpty(t, over)
		require.Equal(t, reconnect.ReasonLockLost, over[0].Reason)
		require.Empty(t, a.history(stability.EventStoreDown), "the backend has answered")
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

// A Manager that stops waits for no save that hangs, and the end of that save is no
// outage of the backend.
func TestAStopBreaksOffASaveThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		a.wire.hang(only("save state"))
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(time.Second)
		start := time.Now()
		a.stop()
		require.Less(t, time.Since(start), 7*time.Second, "the last save has five")
		require.Empty(t, a.history(stability.EventStoreDown))
		w.close()
	})
}

// Without the state nobody knows what may be done: the lock is not kept for it,
// and whoever can read the state may have it.
func TestWhoCannotReadTheStateLeavesTheLockToOthers(t *testing.T) {
	for _, hang := range []bool{false, true} {
		t.Run(fmt.Sprintf("hang=%v", hang), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.named("a").run().pair().stop()
				a := w.named("a")
				if hang {
					a.wire.hang(only("load state"))
				} else {
					a.wire.fail(only("load state"))
				}
				dials := w.sim.Dials()
				a.run()
				down := a.reached(1, stability.EventStoreDown)
				require.Equal(t, reconnect.ReasonStoreUnavailable, down.Reason)
				time.Sleep(time.Hour)
				st := a.status()
				require.Equal(t, stability.ModePassive, st.Mode)
				require.ErrorIs(t, st.StoreUnavailable, map[bool]error{false: errNoRoute, true: context.DeadlineExceeded}[hang])
				require.Equal(t, down.Time, st.StoreUnavailableSince)
				require.Contains(t, st.Summary, "The backend does not answer")
				require.Equal(t, dials, w.sim.Dials())
				require.Len(t, a.history(stability.EventStoreDown), 1)
				require.Empty(t, a.history(stability.EventActivated))

				b := w.named("b").run()
				start := time.Now()
				b.ready()
				require.Less(t, time.Since(start), time.Minute)

				// The lock answers that another has it, and that is all that
				// standing by needs.
				a.reached(1, stability.EventStandby)
				require.NoError(t, a.status().StoreUnavailable)
				require.Zero(t, a.status().StoreUnavailableSince)
				require.Len(t, a.history(stability.EventStoreUp), 1)
				a.wire.heal()
				b.stop()
				a.ready()
				require.NoError(t, a.status().StoreUnavailable)
				a.stop()
				w.close()
			})
		})
	}
}

// ending is what Run returns by itself.
func (n *named) ending() error {
	select {
	case err := <-n.result:
		return err
	case <-time.After(time.Hour):
		return errors.New("Run goes on")
	}
}

// Run returns errors that waiting cannot fix.
func TestAStateOfANewerFormatEndsRunWithItsError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.named("a").run().pair().stop()
		a := w.named("a")
		a.wire.set(func(call string) error {
			if call == "load state" {
				return reconnect.ErrNewerFormat
			}
			return nil
		})
		a.run()
		require.ErrorIs(t, a.ending(), reconnect.ErrNewerFormat)
		require.NoError(t, a.m.Close(t.Context()))
		w.named("b").run().ready().stop() // and the lock is free
		w.close()
	})
}

// That the backend can be read says little: it answers when the state could be
// saved, also where nothing else would save it yet.
func TestAnOutageAtTheActivationIsOverWhenTheStateWasSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand()
		h.wire.fail(only("load state"))
		active := make(chan error, 1)
		go func() { active <- h.m.Activate(t.Context()) }()
		h.reached(1, stability.EventStoreDown)
		time.Sleep(time.Minute)
		h.wire.fail(only("save state"))
		require.NoError(t, <-active)
		time.Sleep(time.Minute)
		require.Equal(t, stability.ModeActive, h.status().Mode)
		require.Error(t, h.status().StoreUnavailable)
		require.Empty(t, h.history(stability.EventStoreUp))
		h.wire.heal()
		time.Sleep(10 * time.Second)
		require.NoError(t, h.status().StoreUnavailable)
		require.Len(t, h.history(stability.EventStoreUp), 1)
		require.Len(t, h.history(stability.EventStoreDown), 1)
		require.Zero(t, w.sim.Dials())
		h.finish()
	})
}

// The same for the device, which is read once the lock is held.
func TestAnOutageWhileTheDeviceIsReadIsToldAndEndsByItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.named("a").run().pair().stop()
		a := w.named("a")
		a.wire.fail(only("get", "scan"))
		dials := w.sim.Dials()
		a.run()
		a.reached(1, stability.EventActivated)
		a.reached(1, stability.EventStoreDown)
		time.Sleep(10 * time.Minute)
		st := a.status()
		require.Equal(t, stability.ModeActive, st.Mode, "the lock can be kept")
		require.ErrorIs(t, st.StoreUnavailable, errNoRoute)
		require.Contains(t, st.Summary, "no attempt begins before it does")
		require.Equal(t, dials, w.sim.Dials())
		a.wire.fail(only("save state"))
		time.Sleep(time.Minute)
		require.Error(t, a.status().StoreUnavailable)
		require.Equal(t, dials, w.sim.Dials())
		a.wire.heal()
		a.ready()
		require.NoError(t, a.status().StoreUnavailable)
		require.Len(t, a.history(stability.EventStoreDown), 1)
		require.Len(t, a.history(stability.EventStoreUp), 1)
		require.Empty(t, a.codes)
		a.stop()
		w.close()
	})
}

func TestCredentialsThatDoNotOpenEndRunWithTheirError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		right := stability.WithAEAD(authstore.NewAESGCM([32]byte{1}))
		w.named("a", right).run().pair().stop()
		dials := w.sim.Dials()
		b := w.named("b", stability.WithAEAD(authstore.NewAESGCM([32]byte{2}))).run()
		require.ErrorIs(t, b.ending(), authstore.ErrWrongKey)
		require.Empty(t, b.outages())
		require.NoError(t, b.m.Close(t.Context()))
		require.Equal(t, dials, w.sim.Dials())
		w.named("c", right).run().ready().stop()
		w.close()
	})
}

func TestWhatWaitingDoesNotCureEndsRun(t *testing.T) {
	for _, cause := range []error{
		authstore.ErrCorrupt, authstore.ErrNewerFormat, authstore.ErrTooLarge, authstore.ErrSealed, authstore.ErrNotSealed, authstore.ErrWrongKey, authstore.ErrOptions,
	} {
		t.Run(cause.Error(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a")
				a.wire.set(func(call string) error {
					if readCalls(call) && call != "load state" {
						return cause
					}
					return nil
				})
				a.run()
				require.ErrorIs(t, a.ending(), cause)
				require.NoError(t, a.status().StoreUnavailable, "it has answered")
				require.NoError(t, a.m.Close(t.Context()))
				w.close()
			})
		})
	}
}
