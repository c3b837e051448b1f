package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestByHandOneEndHasOneDecisionWhichABetterReasonImproves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		h.mute.Store(true)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return h.status().WA != reconnect.StatusConnected })
		tell := func(cause any) reconnect.Decision {
			d, err := h.m.HandleDisconnected(t.Context(), cause)
			require.NoError(t, err)
			return d
		}
		first := tell(&events.Disconnected{})
		require.Equal(t, reconnect.ReasonConnectionClosed, first.Reason)
		require.Equal(t, 1, first.RetryCount)
		for range 3 {
			require.Equal(t, first, tell(&events.Disconnected{}))
			require.Equal(t, first, tell(nil))
			require.Equal(t, first, tell("what is this"), "what is no cause changes nothing")
		}
		better := tell(&events.StreamError{Code: "500"})
		require.Equal(t, reconnect.ReasonBadSession, better.Reason)
		require.Equal(t, 1, better.RetryCount, "still one end")
		require.Equal(t, better, tell(&events.Disconnected{}))
		best := tell(&events.LoggedOut{Reason: events.ConnectFailureLoggedOut})
		require.Equal(t, reconnect.ReasonLoggedOut, best.Reason)
		require.False(t, best.ShouldReconnect)
		require.Equal(t, best, tell(&events.StreamError{Code: "500"}))
		h.finish()
	})
}

// byHandOff is a paired account whose connection has ended, which a host by hand
// has just reported. Its handlers are mute: no event is reported by itself.
func (w *world) byHandOff() (*byHand, reconnect.Decision) {
	w.t.Helper()
	h := w.byHand().activate()
	h.pair()
	time.Sleep(2 * time.Minute)
	h.mute.Store(true)
	w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
	w.await("it is off", func() bool { return h.status().WA != reconnect.StatusConnected })
	d, err := h.m.HandleDisconnected(w.t.Context(), &events.Disconnected{})
	require.NoError(w.t, err)
	return h, d
}

// An attempt that the host has planned waits for a ban that becomes known later.
func TestByHandABanThatComesLateMovesThePlannedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h, d := w.byHandOff()
		time.Sleep(100 * time.Millisecond) // the connection is brought to its very end
		h.m.ScheduleReconnect(d, h.connect)
		tries := h.tries.Load()
		d, err := h.m.HandleDisconnected(t.Context(), &events.TemporaryBan{Expire: time.Hour})
		require.NoError(t, err)
		require.Equal(t, reconnect.ReasonTemporaryBan, d.Reason)
		require.Equal(t, d.NextRetryAt, h.status().NextRetryAt)
		time.Sleep(59 * time.Minute)
		require.Equal(t, tries, h.tries.Load(), "no attempt in the ban")
		h.mute.Store(false)
		h.ready()
		require.Equal(t, tries+1, h.tries.Load())
		h.finish()
	})
}

// The context that a host connects with is the connection's own: its end is an
// end like any other.
func TestByHandAContextThatTheHostEndsIsAnEndOfTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h, d := w.byHandOff()
		var end context.CancelFunc
		h.m.ScheduleReconnect(d, func(ctx context.Context) error {
			ctx, end = context.WithCancel(ctx)
			return h.client.ConnectContext(ctx)
		})
		h.ready()
		h.mute.Store(false)
		time.Sleep(2 * time.Minute)
		h.forget()
		logins := w.logins()
		end()
		e := h.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionClosed, e.Reason)
		require.True(t, e.Decision.ShouldReconnect)
		h.ready()
		require.Equal(t, logins+1, w.logins())
		end()
		h.finish()
	})
}

// whatsmeow tells nobody of some ends, and a host may not listen.
func TestByHandAnEndThatNobodyReportedIsFollowedAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		// A first reconnect tells the Manager how the host connects.
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return h.status().WA != reconnect.StatusConnected })
		h.ready()
		time.Sleep(2 * time.Minute)
		h.mute.Store(true)
		for _, f := range []wasim.Fault{wasim.FIN(), wasim.Replaced(), wasim.StreamEnd(), wasim.StreamError("503")} {
			h.forget()
			logins := w.logins()
			w.sim.Fault(f).For(w.account.JID()).Now()
			h.reached(1, stability.EventConnected)
			time.Sleep(10 * time.Minute)
			require.Equal(t, logins+1, w.logins(), f.String())
		}
		h.finish()
	})
}

func TestByHandATerminalCauseCancelsAScheduledReconnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, c := range []struct {
			why    reconnect.Reason
			status reconnect.Status
		}{
			{reconnect.ReasonLoggedOut, reconnect.StatusNeedsPairing}, // the client is of no more use
			{reconnect.ReasonUntrustedServer, reconnect.StatusDisconnected},
			{reconnect.ReasonIntentional, reconnect.StatusDisconnected},
		} {
			w := newWorld(t)
			h := w.byHand().activate()
			h.pair()
			time.Sleep(2 * time.Minute)
			h.forget()
			h.tries.Store(0)
			w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			h.reached(5, stability.EventDisconnected)
			require.False(t, h.status().NextRetryAt.IsZero())
			tries := h.tries.Load()
			d := h.ended(c.why)
			require.False(t, d.ShouldReconnect)
			require.Equal(t, c.status, d.Status)
			require.Zero(t, h.status().NextRetryAt)
			// The Decision of before is worth nothing any more.
			h.m.ScheduleReconnect(h.history(stability.EventDisconnected)[4].Decision, h.connect)
			time.Sleep(time.Hour)
			require.Equal(t, tries, h.tries.Load())
			require.Equal(t, c.status, h.status().WA)
			h.finish()
		}
	})
}
