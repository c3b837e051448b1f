package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

var nominal = []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}

// series checks that the i-th decision waits the i-th nominal delay, ±20 %.
func series(t *testing.T, ends []stability.Event) {
	t.Helper()
	for i, e := range ends {
		want := nominal[min(i, len(nominal)-1)] * time.Second
		require.InDelta(t, float64(want), float64(e.Decision.Delay), 0.2*float64(want), "retry %d: %v", i+1, e.Decision.Delay)
		require.Equal(t, i+1, e.Decision.RetryCount)
	}
}

func TestDelaysDoubleUpToAMinuteAndNextRetryAtSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		// One that gave the lock up would leave others two seconds before an attempt.
		a := w.instance(stability.WithAutoHeal(noHeal), keepsTheLock).run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		for n := 1; n <= 9; n++ {
			e := a.reached(n, stability.EventDisconnected)
			require.WithinDuration(t, e.Decision.NextRetryAt, a.status().NextRetryAt, 0)
			require.Equal(t, n, a.status().RetryCount)
			dials := w.sim.Dials()
			time.Sleep(time.Until(e.Decision.NextRetryAt) - time.Millisecond)
			require.Equal(t, dials, w.sim.Dials(), "no attempt before its time")
			time.Sleep(20 * time.Millisecond)
			require.Equal(t, dials+1, w.sim.Dials(), "one attempt at its time")
		}
		series(t, a.history(stability.EventDisconnected)[:9])
		refused.Stop()
		a.ready()
		require.Zero(t, a.status().NextRetryAt)
		a.stop()
	})
}

func TestAcceptThenDropIsThrottledAsMuchAsRefusing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		// Every connection lives for three seconds: long enough to log in.
		for n := 1; n <= 8; n++ {
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			a.reached(n, stability.EventConnected)
			time.Sleep(3 * time.Second)
		}
		series(t, a.history(stability.EventDisconnected)[:8])

		// After a stable connection the series begins anew.
		time.Sleep(2 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		a.reached(1, stability.EventConnected)
		series(t, a.history(stability.EventDisconnected))
		a.stop()
	})
}

func TestARestartResetsNeitherTheSeriesNorABan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.TemporaryBan(101, 3*time.Hour)).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("the ban", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonTemporaryBan })
		over := a.status().NextRetryAt
		a.stop()

		dials := w.sim.Dials()
		b := w.instance().run()
		w.await("it is active", func() bool { return b.status().Mode == stability.ModeActive && !b.status().NextRetryAt.IsZero() })
		require.WithinDuration(t, over, b.status().NextRetryAt, time.Microsecond)
		b.m.Reconnect() // not even when asked
		time.Sleep(time.Until(over) - time.Second)
		require.Equal(t, dials, w.sim.Dials())
		b.ready()
		b.stop()
	})
}

func TestThreeTimesReplacedIsParkedInsteadOfFighting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		first := a.reached(1, stability.EventDisconnected)
		require.Greater(t, first.Decision.Delay, time.Minute)
		a.reached(1, stability.EventConnected)
		time.Sleep(time.Minute)
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		second := a.reached(2, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionReplaced, second.Reason)
		require.Greater(t, second.Decision.Delay, 10*time.Minute)
		a.stop()
	})
}

func TestAnOperatorIsToldHowAnOutageBeganAlsoAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		require.Zero(t, a.status().State.FirstDisconnectReason)
		paired, err := w.look().State.Load(t.Context())
		require.NoError(t, err)
		require.Zero(t, paired.FirstDisconnectReason, "the restart that belongs to pairing is over")
		w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		w.sim.Fault(wasim.StreamError("500")).For(w.account.JID()).Now()
		began := a.reached(1, stability.EventDisconnected).Time
		a.reached(3, stability.EventDisconnected)
		tell := func(st stability.Status, now reconnect.Reason) {
			t.Helper()
			require.Equal(t, now, st.LastDisconnectReason)
			require.Equal(t, reconnect.ReasonBadSession, st.State.FirstDisconnectReason)
			require.Equal(t, 500, st.State.FirstDisconnectCode)
			require.WithinDuration(t, began, st.State.FirstDisconnectAt, time.Second)
			require.Contains(t, st.Summary, "It began with bad_session.")
		}
		tell(a.status(), reconnect.ReasonNetworkUnreachable)
		a.stop()

		w.sim.Heal()
		w.sim.Fault(wasim.UpgradeStatus(503)).Always().OnNextLogin()
		b := w.instance(stability.WithAutoHeal(noHeal)).run()
		b.reached(2, stability.EventDisconnected)
		tell(b.status(), reconnect.ReasonServiceUnavailable)
		w.sim.Heal()
		b.ready()
		require.Equal(t, reconnect.ReasonBadSession, b.status().State.FirstDisconnectReason, "it may be flapping")
		time.Sleep(2 * time.Minute)
		require.Zero(t, b.status().State.FirstDisconnectReason, "it is stable")
		saved, err := w.look().State.Load(t.Context())
		require.NoError(t, err)
		require.Zero(t, saved.FirstDisconnectReason)
		b.stop()
	})
}
