package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestSilentLinkIsNoticedAndReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		start := time.Now()
		w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now()
		w.await("it is noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
		require.LessOrEqual(t, time.Since(start), noticing)
		a.ready()
		require.LessOrEqual(t, time.Since(start), noticing+time.Second, "and replaced at once")
		a.stop()
		w.close()
	})
}

func TestAConnectionOnWhichNothingCameIsCheckedToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
		a.ready()
		start := time.Now()
		w.sim.Fault(wasim.Silence()).For(w.account.JID()).Now()
		w.await("it is noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
		require.LessOrEqual(t, time.Since(start), noticing)
		a.ready()
		a.stop()
		w.close()
	})
}

func TestStatusSaysDownWithinMoments(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		for _, f := range []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.WebsocketClose(1001), wasim.StreamError("500"), wasim.StreamEnd()} {
			a.ready()
			time.Sleep(5 * time.Minute)
			refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(f).For(w.account.JID()).Now()
			time.Sleep(200 * time.Millisecond)
			st := a.status()
			require.Equal(t, reconnect.StatusDisconnected, st.WA, f.String())
			require.EqualValues(t, "down", st.Probes.Health)
			require.WithinDuration(t, st.At, st.DisconnectedSince, time.Second)
			require.True(t, st.NextRetryAt.After(st.At) || st.Connecting)
			refused.Stop()
		}
		a.ready()
		a.stop()
		w.close()
	})
}

func TestStatusReadsNothingAndNeverWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		calls := func() int {
			return a.wire.count("get", "scan", "commit", "load state", "save state", "load lock", "raise", "renew", "acquire")
		}
		before := calls()
		for range 1000 {
			a.status()
			a.m.Incidents()
		}
		require.Equal(t, before, calls())
		a.wire.hang(anyCall)
		nowait(t, "Status", func() { a.status() })
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestNothingWaitsForADialThatHangs(t *testing.T) {
	for _, f := range []wasim.Fault{wasim.DialHang(), wasim.TLSHang(), wasim.UpgradeHang(), wasim.HelloDelay(time.Hour)} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			time.Sleep(5 * time.Minute)
			w.sim.Fault(f).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("an attempt hangs", func() bool { return a.status().Connecting })
			time.Sleep(100 * time.Millisecond)
			require.True(t, a.status().Connecting)
			nowait(t, "Status", func() { a.status() })
			dials := w.sim.Dials()
			nowait(t, "Reconnect", a.m.Reconnect)
			nowait(t, "Client", func() { a.m.Client() })
			nowait(t, "QR", func() { a.m.QR() })
			time.Sleep(time.Second)
			require.Equal(t, dials+1, w.sim.Dials(), "%s: the hanging attempt gives way to another", f)
			start := time.Now()
			a.stop()
			require.Less(t, time.Since(start), time.Second, "%s: a step-down does not wait for the dial", f)
			w.sim.Heal()
			w.close()
		})
	}
}

func TestStatusKnowsBetterThanIsLoggedIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		time.Sleep(20 * time.Second)
		require.True(t, a.m.Client().IsLoggedIn(), "what whatsmeow says")
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA, "what is so")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := a.m.WaitReady(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		refused.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestALoginThatEndsAtOnceIsNeverConnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.DropAfterSuccess()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		ghost := a.reached(2, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionClosed, ghost.Reason)
		refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		for range 300 { // whatsmeow says Connected in this time
			time.Sleep(100 * time.Millisecond)
			require.NotEqual(t, reconnect.StatusConnected, a.status().WA)
		}
		require.Empty(t, a.history(stability.EventConnected))
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		refused.Stop()
		a.ready()

		// The same on the next connection, whose own login is still to come.
		a.forget()
		hello := w.sim.Fault(wasim.HelloDelay(10 * time.Second)).Always().OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("the next attempt", func() bool { return a.status().Connecting })
		time.Sleep(time.Second)
		require.NoError(t, a.m.HandleConnected(t.Context()))
		require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		require.Empty(t, a.history(stability.EventConnected))
		hello.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}
