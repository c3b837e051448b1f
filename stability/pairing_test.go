package stability_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAfterALogoutRunOffersANewCodeAndPairingWorksInTheSameProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		old := w.device()
		w.account.Phone().RemoveDevice(old)
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		require.Zero(t, a.status().NextRetryAt, "no timer")
		require.Equal(t, reconnect.ReasonLoggedOut, a.status().LastDisconnectReason)
		a.pair()
		require.NotEqual(t, old.JID(), w.device().JID())
		a.mu.Lock()
		require.Equal(t, 2, a.setups, "setup runs for the new client")
		a.mu.Unlock()
		_, err := w.say("hello again")
		require.NoError(t, err)
		w.await("messages flow", func() bool { return len(a.texts()) == 1 })
		a.stop()
	})
}

// deleted is why the device was deleted that is set aside.
func (i *instance) deleted() (reason string) {
	i.w.await("a device is set aside", func() bool {
		q, err := i.m.Quarantine(context.Background())
		if err == nil && q.Device != nil {
			reason = q.Device.Reason
		}
		return err == nil && q.Device != nil
	})
	return reason
}

func TestLogoutRemovesTheDeviceOnThePhoneAndOffersNewCodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		a.run().pair()
		require.NoError(t, a.m.Logout(t.Context()))
		w.await("it noticed", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		require.Empty(t, w.account.Devices(), "the phone's list is told")
		require.Equal(t, "logged out by the host", a.deleted())
		require.ErrorIs(t, a.m.Logout(t.Context()), stability.ErrNotPaired)
		a.pair()
		w.account.Phone().RemoveDevice(w.device())
		w.await("the phone has removed the next one", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		require.Equal(t, string(reconnect.ReasonLoggedOut), a.deleted())
		a.pair()
		a.stop()
	})
}

// A logout that failed is not the reason of what ends the device later.
func TestLogoutThatFailedIsNoReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithNewClient(func(d *store.Device, _ waLog.Logger) *whatsmeow.Client { return whatsmeow.NewClient(d, nil) }))
		a.run().pair()
		w.sim.Fault(wasim.QueryIgnored("md", "set")).For(w.account.JID()).Always().Now()
		require.Error(t, a.m.Logout(t.Context()))
		w.sim.Heal()
		w.account.Phone().RemoveDevice(w.device())
		w.await("the phone has removed it", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		require.NotEqual(t, "logged out by the host", a.deleted())
		a.stop()
	})
}

func TestAHostsOwnLogoutThroughTheClientIsUnderstood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		// whatsmeow's Logout disconnects a live socket, so in a bubble nothing
		// else may ask for it meanwhile.
		require.NoError(t, a.m.Client().Logout(context.Background()))
		w.await("it noticed", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		a.pair()
		a.stop()
	})
}

func TestPairingByPhoneCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := a.m.PairPhone(ctx, "+49 152 0000001")
		cancel()
		require.ErrorIs(t, err, stability.ErrNotActive, "no pairing without the lock")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, func() { a.run() })
		code, err := a.m.PairPhone(t.Context(), "+49 152 0000001")
		require.NoError(t, err, "it waits for Run's lock")
		require.NoError(t, w.account.Phone().EnterCode(code.Code))
		a.ready()
		_, err = a.m.PairPhone(t.Context(), "+49 152 0000001")
		require.ErrorIs(t, err, stability.ErrAlreadyPaired)
		a.stop()
	})
}

func TestCodesFollowEachOtherAndAfterSomeRoundsRunWaitsUntilAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithPairingRounds(2)).run()
		var shown []stability.QR
		for range 12 {
			select {
			case q := <-a.codes:
				shown = append(shown, q)
				now, ok := a.m.QR()
				require.True(t, ok)
				require.Equal(t, q, now)
			case <-time.After(2 * time.Minute):
				require.Fail(t, "too few codes", "%d", len(shown))
			}
		}
		for i := 1; i < len(shown); i++ {
			lasts := 20 * time.Second
			if i%6 == 0 {
				lasts = time.Minute
			}
			require.GreaterOrEqual(t, shown[i].ExpiresAt.Sub(shown[i-1].ExpiresAt), lasts)
			require.Less(t, shown[i].ExpiresAt.Sub(shown[i-1].ExpiresAt), lasts+5*time.Second)
		}
		time.Sleep(time.Hour)
		require.Empty(t, a.codes, "nobody scans: it waits")
		_, ok := a.m.QR()
		require.False(t, ok)
		require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
		a.m.Reconnect()
		a.pair()
		a.stop()
	})
}

// The service counts the life of the last code too, and may close just before
// we do: that is no failure of the connection.
func TestTheEndOfTheLastCodeIsTheSameFromEitherSide(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithPairingRounds(1)).run()
		var last stability.QR
		for range 6 {
			last = <-a.codes
		}
		time.Sleep(time.Until(last.ExpiresAt) - 100*time.Millisecond)
		w.sim.Fault(wasim.RefsExhausted()).Now()
		require.Equal(t, reconnect.ReasonQRExpired, a.reached(1, stability.EventDisconnected).Reason)
		time.Sleep(time.Hour)
		require.Empty(t, a.codes, "nobody scanned: it waits until somebody asks")
		require.True(t, a.status().Parked)
		a.stop()
	})
}

func TestAFailedPairingThrowsTheDeviceAwayAndOffersANewCode(t *testing.T) {
	for name, how := range map[string]wasim.ScanOption{"wrong HMAC": wasim.BadHMAC(), "wrong signature": wasim.BadSignature()} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance().run()
				require.NoError(t, w.account.Phone().Scan((<-a.codes).Code, how))
				e := a.reached(1, stability.EventDisconnected)
				w.await("the reason", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonPairingFailed })
				require.False(t, e.Decision.ShouldReconnect && e.Reason == reconnect.ReasonPairingFailed)
				a.forget()
				a.pair()
				a.stop()
			})
		})
	}
}

func TestAPhoneWithoutMultideviceLeavesTheCodeValid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run()
		q := <-a.codes
		require.NoError(t, w.account.Phone().ScanWithoutMultidevice(q.Code))
		time.Sleep(time.Second)
		require.NoError(t, w.account.Phone().Scan(q.Code))
		a.ready()
		a.stop()
	})
}

func TestAHandlerThatFailsOnceGetsTheMessageAgainAfterReconnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		var failures atomic.Int32
		a.refuse = func(*events.Message) bool { return failures.Add(1) == 1 }
		a.run().pair()
		_, err := w.say("once more, please")
		require.NoError(t, err)
		w.await("the handler failed", func() bool { return failures.Load() == 1 })
		time.Sleep(time.Second)
		require.Empty(t, a.texts())
		a.m.Reconnect()
		w.await("the message comes again", func() bool { return len(a.texts()) == 1 })
		require.Zero(t, w.peer().Undecryptable())
		a.stop()
	})
}
