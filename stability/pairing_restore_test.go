package stability_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A session that was ended in error can be restored until another device is
// paired. A pairing that fails on its way has paired none.
func TestAPairingThatFailsHalfwayLeavesTheEarlierDeviceRestorable(t *testing.T) {
	scan := func(how ...wasim.ScanOption) func(*testing.T, *world, *named, stability.QR) {
		return func(t *testing.T, w *world, _ *named, q stability.QR) {
			require.NoError(t, w.account.Phone().Scan(q.Code, how...))
		}
	}
	for _, c := range []struct {
		name string
		fail func(t *testing.T, w *world, a *named, q stability.QR)
	}{
		{"wrong HMAC", scan(wasim.BadHMAC())},
		{"wrong signature", scan(wasim.BadSignature())},
		{"the host refuses", func(t *testing.T, w *world, a *named, q stability.QR) {
			a.m.Client().PrePairCallback = func(types.JID, string, string) bool { return false }
			scan()(t, w, a, q)
		}},
		{"the credentials were refused", func(t *testing.T, w *world, a *named, q stability.QR) {
			a.wire.set(refuseOne())
			scan()(t, w, a, q)
			time.Sleep(time.Minute)
			a.wire.heal()
		}},
		{"the credentials could not be saved", func(t *testing.T, w *world, a *named, q stability.QR) {
			a.wire.fail(only("commit"))
			scan()(t, w, a, q)
			time.Sleep(2 * time.Minute)
			a.wire.heal()
		}},
		{"the link breaks before the answer", func(t *testing.T, w *world, a *named, q stability.QR) {
			a.m.Client().PrePairCallback = func(types.JID, string, string) bool {
				w.sim.Fault(wasim.Reset()).Now()
				return true
			}
			scan()(t, w, a, q)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run().pair()
				_, err := w.say("before")
				require.NoError(t, err)
				w.await("it came", func() bool { return len(a.texts()) == 1 })
				device := w.device()
				time.Sleep(2 * time.Minute)
				a.forget()

				// The service refuses a login that it should have accepted.
				w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
				kept := func() {
					t.Helper()
					q, err := a.m.Quarantine(t.Context())
					require.NoError(t, err)
					require.NotNil(t, q.Device, "nothing can be restored")
					require.Equal(t, device.JID(), q.Device.JID)
				}
				q := <-a.codes
				kept()
				c.fail(t, w, a, q)
				time.Sleep(5 * time.Minute)
				require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
				kept()
				require.NoError(t, a.m.RestoreDevice(t.Context()))
				a.ready()
				require.Equal(t, device.JID(), a.m.Client().Store.GetJID())
				_, err = w.say("after")
				require.NoError(t, err)
				w.await("it came", func() bool { return len(a.texts()) == 1 })
				require.Zero(t, device.Stats().RetryReceipts, "its sessions are the old ones")
				a.stop()
				w.close()
			})
		})
	}
}

// refuseOne refuses one commit for good. The store makes it twice: with what
// waits beside it, and alone.
func refuseOne() func(string) error { return refuseFirst(2) }

// refuseFirst answers the first commits as a backend does that will never take
// them, and no others.
func refuseFirst(n int) func(string) error {
	refused := 0
	return func(call string) error {
		if call != "commit" || refused == n {
			return nil
		}
		refused++
		return authstore.ErrTooLarge
	}
}

// The remains of a failed pairing in its device are of no use: the next code
// shows keys of another.
func TestAfterAFailedPairingEverythingIsNew(t *testing.T) {
	for name, fail := range map[string]func(*testing.T, *world, *named, stability.QR){
		"wrong HMAC": func(t *testing.T, w *world, _ *named, q stability.QR) {
			require.NoError(t, w.account.Phone().Scan(q.Code, wasim.BadHMAC()))
		},
		"the credentials were refused": func(t *testing.T, w *world, a *named, q stability.QR) {
			a.wire.set(refuseOne())
			require.NoError(t, w.account.Phone().Scan(q.Code))
			time.Sleep(time.Second)
			a.wire.heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run()
				q := <-a.codes
				client := a.m.Client()
				fail(t, w, a, q)
				var next stability.QR
				w.await("a new code", func() bool {
					next, _ = a.m.QR()
					return next.Code != "" && a.m.Client() != client
				})
				// ref and keys; a newer client names its kind behind them
				old, now := strings.Split(q.Code, ","), strings.Split(next.Code, ",")
				for i, part := range now[:4] {
					require.NotEqual(t, old[i], part, "part %d", i)
				}
				a.forget()
				require.NoError(t, w.account.Phone().Scan(next.Code))
				a.ready()
				require.Len(t, w.account.Devices(), 1)
				a.stop()
				w.close()
			})
		})
	}
}

// whatsmeow deletes the device that the service has logged out. If it cannot,
// that device is set aside before a new one is offered, and asks for no login.
func TestALoggedOutDeviceThatWasNotDeletedDoesNotComeBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		device := w.device()
		out := w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).Always().OnNextLogin()
		refuse := refuseOne()
		a.wire.set(refuse)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		q := <-a.codes
		require.Equal(t, 1, out.Fired(), "one login, and no other with the same device")
		a.wire.heal()
		require.NoError(t, refuse("commit"), "the deletion was refused before")
		set, err := a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.NotNil(t, set.Device)
		require.Equal(t, device.JID(), set.Device.JID)
		out.Stop()
		require.NoError(t, w.account.Phone().Scan(q.Code))
		a.ready()
		a.stop()
		w.close()
	})
}

func TestByHandADeviceIsRestoredBeforeANewOneIsAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.named("a").run().pair().stop()
		device := w.device().JID()
		h := w.byHand().activate()
		h.ready()
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("logged out", func() bool { return h.status().WA == reconnect.StatusNeedsPairing })
		time.Sleep(time.Minute)
		require.NoError(t, h.m.RestoreDevice(t.Context()))
		h.activate()
		require.Equal(t, device, h.client.Store.GetJID())
		h.ready()
		require.Len(t, w.account.Devices(), 1)
		h.finish()
	})
}

// However long the host takes to set the next client up, status does not say
// that somebody must ask for it.
func TestRestoreWhileACodeIsShownAsksNobodyForAnything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		ctx, cancel := context.WithCancel(context.Background())
		a.cancel = cancel
		var takes atomic.Int64
		go func() {
			a.result <- a.m.Run(ctx, func(ctx context.Context, c *whatsmeow.Client) error {
				time.Sleep(time.Duration(takes.Load()))
				return a.setup(ctx, c)
			})
		}()
		a.pair()
		device := w.device()
		time.Sleep(2 * time.Minute)
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		<-a.codes
		asked := len(a.history(stability.EventNeedsPairing))
		takes.Store(int64(30 * time.Second))
		require.NoError(t, a.m.RestoreDevice(t.Context()))
		for range 25 {
			time.Sleep(time.Second)
			require.False(t, a.status().Parked)
			require.NotContains(t, a.status().Summary, "until somebody asks")
		}
		a.ready()
		require.Equal(t, device, w.device())
		require.Len(t, a.history(stability.EventNeedsPairing), asked)
		a.stop()
	})
}

// The account is so large that its device is not read within the time of other calls.
func TestALargeLoggedOutDeviceIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithPairingOnRequest()).run()
		_, err := a.m.WaitQR(t.Context())
		require.NoError(t, err)
		a.pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		a.wire.set(refuseOne())
		a.wire.delay("scan", 15*time.Second)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(10 * time.Minute)
		info, err := authstore.New(a.backend.Auth).Info(t.Context())
		require.NoError(t, err)
		require.True(t, info.Deleted)
		a.stop()
		w.close()
	})
}
