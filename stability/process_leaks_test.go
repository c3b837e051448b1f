package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// In real time, over TLS on a loopback port: nothing of this is in a bubble,
// where a goroutine that is left would only be noticed if it were blocked.
func TestAfterCloseNoGoroutineIsLeftAtAnyStageOfLife(t *testing.T) {
	connected := func(t *testing.T, w *world, a *named) {
		a.run().pair()
	}
	for name, stage := range map[string]func(t *testing.T, w *world, a *named){
		"new": func(*testing.T, *world, *named) {},
		"standby": func(t *testing.T, w *world, a *named) {
			other := w.named("other")
			ok, err := other.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.True(t, ok)
			a.run().reached(1, stability.EventStandby)
			t.Cleanup(func() { _ = other.m.Close(context.Background()) })
		},
		"dialing": func(_ *testing.T, w *world, a *named) {
			w.sim.Fault(wasim.DialHang()).Always().OnNextLogin()
			a.run().reached(1, stability.EventConnecting)
		},
		"TLS": func(_ *testing.T, w *world, a *named) {
			w.sim.Fault(wasim.TLSHang()).Always().OnNextLogin()
			a.run().reached(1, stability.EventConnecting)
		},
		"upgrading": func(_ *testing.T, w *world, a *named) {
			w.sim.Fault(wasim.UpgradeHang()).Always().OnNextLogin()
			a.run().reached(1, stability.EventConnecting)
		},
		"shaking hands": func(_ *testing.T, w *world, a *named) {
			w.sim.Fault(wasim.HelloDelay(time.Hour)).Always().OnNextLogin()
			a.run().reached(1, stability.EventConnecting)
		},
		"pairing":   func(_ *testing.T, _ *world, a *named) { a.run().reached(1, stability.EventQR) },
		"connected": connected,
		"connected by hand": func(_ *testing.T, w *world, a *named) {
			(&byHand{named: a}).activate().pair()
		},
		"streaming": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			w.flood(2000, 0)
		},
		"logging in": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			w.sim.Fault(wasim.Silence()).Always().OnNextLogin()
			a.m.Reconnect()
			a.reached(2, stability.EventDisconnected)
		},
		"waiting": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			w.sim.Fault(wasim.StreamError("503")).For(w.account.JID()).Now()
			a.reached(2, stability.EventDisconnected)
			require.Equal(t, reconnect.ReasonServiceUnavailable, a.status().LastDisconnectReason)
		},
		"logged out": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			require.NoError(t, a.m.Logout(t.Context()))
		},
		"store down": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			a.wire.fail(anyCall)
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			a.reached(1, stability.EventStoreDown)
		},
		"store silent": func(t *testing.T, w *world, a *named) {
			connected(t, w, a)
			a.wire.hang(anyCall)
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			a.reached(2, stability.EventDisconnected)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if stabilitytest.Race && name == "streaming" {
				t.Skip("whatsmeow's own race shows on real sockets with stanzas streaming; link proves the same in bubbles")
			}
			before := goleak.IgnoreCurrent()
			for range stabilitytest.Pick(1, 20) {
				func() {
					w := listening(t)
					w.memory = memorybackend.New() // a Firestore client has goroutines, and they are its host's
					a := w.named("a", stability.WithShutdownTimeout(300*time.Millisecond))
					stage(t, w, a)
					time.Sleep(5 * time.Millisecond)
					start := time.Now()
					ctx, cancel := context.WithCancel(context.Background())
					if name == "store silent" {
						cancel() // what waits for the store is cut short
					}
					err := a.m.Close(ctx)
					cancel()
					if a.cancel != nil {
						require.ErrorIs(t, <-a.result, stability.ErrClosed)
						a.cancel()
					}
					if name != "store down" && name != "store silent" { // the lock cannot be released
						require.NoError(t, err)
					}
					require.Less(t, time.Since(start), 8*time.Second, "nothing waits for dial and handshake")
					w.close()
				}()
			}
			if name == "standby" {
				return // the other one is closed later; the package's own check sees it
			}
			require.NoError(t, goleak.Find(before))
		})
	}
}
