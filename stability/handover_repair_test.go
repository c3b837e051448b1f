package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The repair calls the host's handlers in a goroutine of the Manager's. One
// that does not return holds up nothing of what may end a term.
func TestHandlerStuckInTheRepairHoldsNoTermUp(t *testing.T) {
	repairing := func(t *testing.T, f func(*world, *tended)) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			time.Sleep(2 * time.Minute)
			a.forget()
			busy, free := make(chan struct{}, 16), make(chan struct{})
			a.heed(func(evt any) {
				if _, ok := evt.(*events.AppStateSyncComplete); ok {
					busy <- struct{}{}
					<-free
				}
			})
			for n := 1; n <= 3; n++ {
				w.sim.Fault(wasim.StreamError("500")).For(w.account.JID()).Now()
				a.reached(n, stability.EventDisconnected)
				a.reached(n, stability.EventConnected)
				time.Sleep(time.Second)
			}
			<-busy
			f(w, a)
			close(free)
			a.kill()
			w.close()
		})
	}
	t.Run("Run's context ends", func(t *testing.T) {
		repairing(t, func(_ *world, a *tended) {
			start := time.Now()
			a.cancel()
			select {
			case err := <-a.result:
				require.NoError(t, err)
			case <-time.After(time.Hour):
				t.Error("Run does not return")
			}
			require.NoError(t, a.m.Close(context.Background()))
			require.LessOrEqual(t, time.Since(start), a.status().Settings.HandOver())
		})
	})
	t.Run("the lock is lost", func(t *testing.T) {
		repairing(t, func(w *world, a *tended) {
			a.forget()
			a.wire.fail(lockCalls)
			a.reached(1, stability.EventDeactivated)
			a.wire.heal()
			start := time.Now()
			a.ready()
			require.Less(t, time.Since(start), a.status().Settings.HandOver())
		})
	})
	t.Run("a heal", func(t *testing.T) {
		repairing(t, func(w *world, a *tended) {
			a.forget()
			for n := 1; len(a.history(stability.EventHealing)) == 0; n++ {
				w.sim.Fault(wasim.StreamError("500")).For(w.account.JID()).Now()
				a.reached(n, stability.EventDisconnected)
				w.await("it is back or heals", func() bool {
					return len(a.history(stability.EventConnected)) == n || len(a.history(stability.EventHealing)) > 0
				})
			}
			select {
			case code := <-a.exits:
				require.Equal(t, 1, code)
			case <-time.After(time.Hour):
				t.Error("the process does not end")
			}
		})
	})
}
