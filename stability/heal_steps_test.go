package stability_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAnExitFunctionMayReturnOrCloseOrAsk(t *testing.T) {
	for _, c := range []struct {
		name string
		exit func(m *stability.Manager)
		goes bool // the instance goes on
	}{
		{"returns", func(*stability.Manager) {}, true},
		{"asks", func(m *stability.Manager) { m.Status(); m.Incidents(); m.QR(); m.Reconnect() }, true},
		{"closes", func(m *stability.Manager) {
			if err := m.Close(context.Background()); err != nil {
				panic(err)
			}
		}, false},
		{"activates", func(m *stability.Manager) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _ = m.TryActivate(ctx)
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var a *tended
				exits := make(chan struct{}, 8)
				a = w.tended("a", stability.WithExit(func(int) { c.exit(a.m); exits <- struct{}{} }))
				a.run().pair()
				time.Sleep(5 * time.Minute)
				stop := w.loops()
				<-exits
				stop()
				if c.goes {
					a.ready()
					require.EqualValues(t, 2, a.status().LeaseEpoch, "a term of its own")
					a.stop()
				} else {
					require.ErrorIs(t, <-a.result, stability.ErrClosed)
					a.cancel = nil
				}
				w.close()
			})
		})
	}
}

func TestHealInProcessBeginsANewTerm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(autoheal.Policy{InProcess: true})).run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		stop := w.loops()
		a.reached(1, stability.EventHealing)
		a.reached(1, stability.EventActivated)
		stop()
		a.ready()
		require.EqualValues(t, 2, a.status().LeaseEpoch)
		require.Equal(t, 2, a.setups, "a client of its own")
		require.False(t, a.exited())
		told := w.incident("wa_reconnect_loop_active")
		require.Contains(t, told.Runbook, "The process goes on")
		require.NotContains(t, told.Instructions+told.Runbook, "process ended")
		a.stop()
		w.close()
	})
}

func TestAStandbyTakesOverAfterAHeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		exits, gone := make(chan time.Time, 1), make(chan struct{})
		// Else it had given the lock up before its attempts are a loop.
		a := w.tended("a", keepsTheLock, stability.WithExit(func(int) { exits <- time.Now(); <-gone })).run().pair()
		b := w.tended("b").run()
		b.reached(1, stability.EventStandby)
		time.Sleep(5 * time.Minute)
		refused := w.sim.Fault(wasim.Refused()).From("a").Always().OnNextLogin() // its own network is broken
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		exited := <-exits
		b.ready()
		require.Less(t, time.Since(exited), 3*time.Second, "the start jitter, and the login")
		require.Empty(t, b.book.of("wa_reconnect_loop_active"), "it was told already")
		time.Sleep(3 * time.Minute)
		require.Equal(t, []guard.Change{resolved}, b.book.of("wa_reconnect_loop_active"))
		require.False(t, b.exited())
		refused.Stop()
		b.stop()
		close(gone)
		a.kill()
		w.close()
	})
}

func TestEachStepOfAHealIsBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		which func(string) bool
		exits bool
	}{
		{"the state is not saved", only("save state"), false},
		{"the incident is not raised", only("raise", "incidents"), true},
		{"the store is not flushed", only("commit"), true},
		{"the lock is not released", only("release"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				time.Sleep(5 * time.Minute)
				a.forget()
				stop := w.loops()
				a.reached(9, stability.EventDisconnected)
				time.Sleep(time.Second)
				saves := 0
				a.wire.set(func(call string) error {
					if call == "save state" {
						saves++ // the first is of the tenth attempt, the second of the heal
					}
					if c.which(call) && (call != "save state" || saves > 1) {
						return errHang
					}
					return nil
				})
				tenth := a.reached(10, stability.EventDisconnected)
				if c.exits {
					require.Equal(t, 1, <-a.exits)
					require.Less(t, time.Since(tenth.Time), 4*autoheal.StepTimeout)
				} else {
					time.Sleep(10 * time.Minute)
					require.False(t, a.exited())
				}
				nowait(t, "Status", func() { a.status() })
				a.wire.heal()
				stop()
				a.ready()
				a.stop()
				w.close()
			})
		})
	}
}

func TestWhatWasQueuedIsToldBeforeTheExit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		f := &flushing{flushed: make(chan struct{})}
		var heard []stability.EventKind
		var before bool
		exits := make(chan int, 1)
		var mu sync.Mutex
		a := w.tended("a", stability.WithSink(f), stability.WithObserver(func(e stability.Event) {
			time.Sleep(10 * time.Millisecond) // observers may be slow
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, e.Kind)
		}), stability.WithExit(func(code int) {
			select {
			case <-f.flushed:
				mu.Lock()
				defer mu.Unlock()
				before = slices.Contains(heard, stability.EventHealing) && slices.Contains(heard, stability.EventDeactivated)
			default:
			}
			exits <- code
		}))
		a.run().pair()
		time.Sleep(5 * time.Minute)
		stop := w.loops()
		<-exits
		require.True(t, before)
		stop()
		a.ready()
		a.stop()
		w.close()
	})
}
