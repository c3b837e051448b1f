package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

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
		{"the credentials could not be saved", func(t *testing.T, w *world, a *named, q stability.QR) {
			a.wire.fail(only("commit"))
			scan()(t, w, a, q)
			time.Sleep(2 * time.Minute)
			a.wire.heal()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run().pair()
				_, err := w.peer().Send(t.Context(), w.account.JID(), "before")
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
				_, err = w.peer().Send(t.Context(), w.account.JID(), "after")
				require.NoError(t, err)
				w.await("it came", func() bool { return len(a.texts()) == 1 })
				require.Zero(t, device.Stats().RetryReceipts, "its sessions are the old ones")
				a.stop()
				w.close()
			})
		})
	}
}
