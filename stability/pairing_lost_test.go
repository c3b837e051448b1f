package stability_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestALoggedOutSessionIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		device := w.device()
		stop := w.loops() // a retry is queued
		w.await("a retry waits", func() bool { return a.status().RetryCount > 4 })
		w.account.Phone().RemoveDevice(device)
		stop()
		logins := device.Stats().Logins
		a.forget()
		w.await("it is known", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		end := a.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonLoggedOut, end.Reason)
		require.False(t, end.Decision.ShouldReconnect)
		require.Len(t, a.history(stability.EventNeedsPairing), 1)
		dials := w.sim.Dials()
		time.Sleep(24 * time.Hour)
		require.LessOrEqual(t, device.Stats().Logins-logins, 1)
		require.LessOrEqual(t, w.sim.Dials()-dials, 5, "only to offer codes, and not for ever")
		require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
		require.Zero(t, a.status().NextRetryAt)
		a.stop()
		w.close()
	})
}

func TestAFailedReadNeverAsksToPair(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.tended("a").run().pair().stop()
		for _, hang := range []bool{false, true} {
			b := w.tended("b" + map[bool]string{true: "hang"}[hang])
			if hang {
				b.wire.hang(only("get", "scan"))
			} else {
				b.wire.fail(only("get", "scan"))
			}
			b.run()
			time.Sleep(time.Hour)
			require.Empty(t, b.codes, "nobody is asked to pair")
			require.NotEqual(t, reconnect.StatusNeedsPairing, b.status().WA)
			require.Error(t, b.status().StoreUnavailable)
			b.wire.heal()
			b.ready()
			require.Empty(t, b.codes)
			require.Len(t, w.account.Devices(), 1, "the same device")
			b.kill()
		}
		w.close()
	})
}

// The other half: a session that the service refuses is set aside, with what
// was said, and comes back as it was; only what is removed by hand is gone.
func TestARefusedSessionIsSetAsideAndComesBack(t *testing.T) {
	for _, c := range []struct {
		code   int
		reason reconnect.Reason
	}{{401, reconnect.ReasonLoggedOut}, {403, reconnect.ReasonAccountLocked}, {406, reconnect.ReasonAccountBanned}} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			device := w.device()
			time.Sleep(5 * time.Minute)
			w.sim.Fault(wasim.Failure(c.code)).For(w.account.JID()).OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("it is refused", func() bool { return a.status().LastDisconnectReason == c.reason })
			at := time.Now()
			time.Sleep(time.Second)
			a.stop() // it outlives the process

			b := w.tended("b").run()
			w.await("b is active", func() bool { return b.status().Mode == stability.ModeActive })
			q, err := b.m.Quarantine(t.Context())
			require.NoError(t, err)
			require.NotNil(t, q.Device, "code %d: set aside", c.code)
			require.Equal(t, device.JID(), q.Device.JID)
			require.Equal(t, string(c.reason), q.Device.Reason)
			require.WithinDuration(t, at, q.Device.At, time.Minute)
			require.Empty(t, q.Rows)

			require.NoError(t, b.m.RestoreDevice(t.Context()))
			b.m.Reconnect() // after a ban nothing is tried before somebody asks
			b.ready()
			require.Equal(t, device.JID(), b.m.Client().Store.GetJID())
			require.Len(t, w.account.Devices(), 1, "nobody scanned")
			_, err = w.say("still there?")
			require.NoError(t, err)
			w.await("it came", func() bool { return slices.Contains(b.texts(), "still there?") })
			require.Zero(t, device.Stats().RetryReceipts, "its sessions are the old ones")
			q, err = b.m.Quarantine(t.Context())
			require.NoError(t, err)
			require.Nil(t, q.Device)
			b.stop()
			w.close()
		})
	}
}

func TestADeletedDeviceIsNotReadAnyMore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) { // -race is the judge
		for range stabilitytest.Pick(5, 50) {
			w := hasty(t)
			a := w.tended("a").run().pair()
			time.Sleep(time.Minute)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for ctx.Err() == nil {
					a.status()
					a.m.QR()
					time.Sleep(time.Millisecond)
				}
			})
			w.account.Phone().RemoveDevice(w.device())
			w.await("it is known", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
			time.Sleep(10 * time.Second)
			cancel()
			wg.Wait()
			a.stop()
			w.close()
		}
	})
}
