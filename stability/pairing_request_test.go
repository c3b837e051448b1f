package stability_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestNoCodeIsOfferedBeforeSomebodyAsks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithPairingOnRequest(), stability.WithPairingRounds(1)).run()
		silent := func() {
			t.Helper()
			dials := w.sim.Dials()
			time.Sleep(time.Hour)
			require.Empty(t, a.codes)
			require.Equal(t, dials, w.sim.Dials(), "and no connection is made")
			st := a.status()
			require.True(t, st.Parked)
			require.Equal(t, reconnect.StatusNeedsPairing, st.WA)
			require.Contains(t, st.Summary, "Nothing happens until somebody asks for a code to scan.")
		}
		silent()
		q, err := a.m.WaitQR(t.Context())
		require.NoError(t, err)
		require.Greater(t, time.Until(q.ExpiresAt), 50*time.Second)
		require.Equal(t, q, <-a.codes)
		time.Sleep(10 * time.Minute)
		require.Len(t, a.codes, 5, "one set of six")
		for range 5 {
			<-a.codes
		}
		silent()
		q, err = a.m.WaitQR(t.Context())
		require.NoError(t, err)
		require.NoError(t, w.account.Phone().Scan(q.Code))
		a.ready()
		<-a.codes
		_, err = a.m.WaitQR(t.Context())
		require.ErrorIs(t, err, stability.ErrAlreadyPaired)
		a.m.Reconnect()
		time.Sleep(time.Minute)
		a.ready()

		w.account.Phone().RemoveDevice(w.device())
		w.await("logged out", func() bool { return a.status().Parked })
		silent() // that somebody asked for a new connection is no wish for codes
		a.m.Reconnect()
		a.pair()
		a.stop()
	})
}

func TestCallsWaitForTheLockAndSayWhenItNeverCame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithPairingOnRequest()).run()
		w.await("it holds the lock", func() bool { return a.status().Mode == stability.ModeActive })
		b := w.tended("b", stability.WithPairingOnRequest()).run()
		for name, call := range map[string]func(context.Context) error{
			"WaitQR":    func(ctx context.Context) error { _, err := b.m.WaitQR(ctx); return err },
			"PairPhone": func(ctx context.Context) error { _, err := b.m.PairPhone(ctx, "491520000001"); return err },
			"Logout":    b.m.Logout,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := call(ctx)
			cancel()
			require.ErrorIs(t, err, stability.ErrNotActive, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
		}
		require.Zero(t, w.sim.Dials())
		time.AfterFunc(time.Minute, a.stop)
		q, err := b.m.WaitQR(t.Context())
		require.NoError(t, err)
		require.NoError(t, w.account.Phone().Scan(q.Code))
		b.ready()
		b.stop()
	})
}

func TestCodeToTypeLastsTwoMinutesAtLeast(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 30 * time.Second, 100 * time.Second, 150 * time.Second} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance().run()
			w.await("codes are offered", func() bool { return a.status().QRAvailable })
			time.Sleep(after)
			dials := w.sim.Dials()
			code, err := a.m.PairPhone(t.Context(), "491520000001")
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Until(code.ExpiresAt), 2*time.Minute)
			require.Equal(t, after > 40*time.Second, w.sim.Dials() > dials, "a new connection only if it is needed")
			st := a.status()
			require.Equal(t, code.ExpiresAt, st.PhoneCodeUntil)
			require.Contains(t, st.Summary, "Type the code that was asked for into the phone")
			time.Sleep(time.Until(code.ExpiresAt) - time.Second)
			require.NoError(t, w.account.Phone().EnterCode(code.Code), "until its end")
			a.ready()
			require.Zero(t, a.status().PhoneCodeUntil)
			a.stop()
		})
	}
}

func TestCodeLastsExactlyUntilItsEnd(t *testing.T) {
	for _, nth := range []int{1, 2, 6} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithPairingRounds(1)).run()
			var q stability.QR
			for range nth {
				q = <-a.codes
			}
			time.Sleep(time.Until(q.ExpiresAt) - time.Second)
			shown, ok := a.m.QR()
			require.True(t, ok)
			require.Equal(t, q, shown)
			require.NoError(t, w.account.Phone().Scan(q.Code))
			a.ready()
			a.stop()
		})
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithPairingRounds(1)).run()
			var q stability.QR
			for range nth {
				q = <-a.codes
			}
			time.Sleep(time.Until(q.ExpiresAt))
			shown, ok := a.m.QR()
			require.False(t, ok && shown.Code == q.Code)
			a.stop()
		})
	}
}

func TestExpiredCodeToTypeIsNotShownAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithPairingOnRequest(), stability.WithPairingRounds(1)).run()
		code, err := a.m.PairPhone(t.Context(), "491520000001")
		require.NoError(t, err, "to ask for a code is to ask for an offer")
		time.Sleep(time.Until(code.ExpiresAt) + 5*time.Second)
		require.Zero(t, a.status().PhoneCodeUntil)
		require.Error(t, w.account.Phone().EnterCode(code.Code))
		require.True(t, a.status().Parked)
		a.stop()
	})
}

func TestLogoutWithoutAConnectionRemovesTheDeviceHere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(time.Minute)
		heal := w.sim.Partition("a")
		w.await("it is offline", func() bool { return a.status().WA == reconnect.StatusDisconnected })
		time.Sleep(time.Minute)
		require.ErrorIs(t, a.m.Logout(t.Context()), stability.ErrStillListed)
		w.await("nothing is left here", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		require.Len(t, w.account.Devices(), 1, "the phone was not told")
		q, err := a.m.Quarantine(t.Context())
		require.NoError(t, err)
		require.Equal(t, "logged out by the host", q.Device.Reason)
		require.ErrorIs(t, a.m.Logout(t.Context()), stability.ErrNotPaired)
		heal()
		a.pair()
		require.Len(t, w.account.Devices(), 2)
		a.stop()
	})
}

func TestLogoutWaitsForTheLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		a.stop()
		b := w.instance()
		time.AfterFunc(time.Minute, func() { b.run() })
		err := b.m.Logout(t.Context())
		w.await("it noticed", func() bool { return b.status().WA == reconnect.StatusNeedsPairing })
		if len(w.account.Devices()) == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, stability.ErrStillListed, "it came before the connection")
		}
		b.pair()
		b.stop()
	})
}

// The phone removes the device, and another number is paired. What the handlers did
// not take of the first one's messages is not the other's.
func TestMessagesOfAnotherAccountAreSetAside(t *testing.T) {
	for name, restarts := range map[string]bool{"in one process": false, "in the next process": true} {
		t.Run(name, func(t *testing.T) { otherAccount(t, restarts) })
	}
}

func otherAccount(t *testing.T, restarts bool) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		var down atomic.Bool
		down.Store(true)
		a.refuse = func(*events.Message) bool {
			if down.Load() {
				panic("down")
			}
			return false
		}
		a.run().pair()
		a.m.Client().AutomaticMessageRerequestFromPhone = false
		w.getMessage("kept")
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost"))
		require.NoError(t, err)
		w.await("both wait", func() bool { return len(a.m.Messages()) == 2 })
		w.account.Phone().RemoveDevice(w.device())
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		for len(a.codes) > 0 {
			<-a.codes
		}
		down.Store(false)
		if restarts {
			a.stop()
			a = w.tended("b", stability.WithAutoHeal(noHeal)).run()
		}
		w.account = w.sim.NewAccount("491520000099")
		a.pair()
		time.Sleep(time.Hour)
		require.Empty(t, a.texts())
		require.Equal(t, 2, a.balanced().SetAside.Count)
		for _, msg := range a.m.Messages() {
			require.Equal(t, "another account received it, which was paired before", msg.Why)
			if msg.HasContent {
				require.NoError(t, a.m.Redeliver(t.Context(), msg.Entry))
			}
		}
		w.await("it is handed over on request", func() bool { return len(a.texts()) == 1 })
		a.stop()
	})
}

// The program refuses a message, and the new connection that is made for it finds
// that the phone has removed the device. Nobody has asked for a code.
func TestRedeliveryIsNoWishForCodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal), stability.WithPairingOnRequest())
		a.refuse = func(e *events.Message) bool { return e.Message.GetConversation() == "no" }
		a.run()
		q, err := a.m.WaitQR(t.Context())
		require.NoError(t, err)
		require.NoError(t, w.account.Phone().Scan(q.Code))
		a.ready()
		time.Sleep(10 * time.Minute)
		for len(a.codes) > 0 {
			<-a.codes
		}
		w.getMessage("no")
		time.Sleep(10 * time.Second)
		w.sim.Fault(wasim.Failure(401)).For(w.account.JID()).OnNextLogin()
		w.await("logged out", func() bool { return a.status().Parked })
		time.Sleep(10 * time.Minute)
		require.True(t, a.status().Parked)
		require.Empty(t, a.codes)
		a.stop()
	})
}
