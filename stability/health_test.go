package stability_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// noticing is how long a dead link may be called connected.
const noticing = 90 * time.Second

func TestAQuietDayTearsNothingDownAndAsksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(10 * time.Minute)
		a.forget()
		began, logins := w.device().Stats().Pings, w.logins()
		hours := stabilitytest.Pick(24, 24*7)
		for range hours {
			time.Sleep(time.Hour)
			st := a.status()
			require.Equal(t, reconnect.StatusConnected, st.WA)
			require.Equal(t, keepalive.Quiet, st.Probes.Health)
			require.Greater(t, st.At.Sub(st.Probes.Since), 5*time.Minute)
			require.Less(t, st.At.Sub(st.Probes.LastReadAt), time.Minute)
			require.Zero(t, st.Probes.LastProbeAt, "whatsmeow's own pings are answered: no others are sent")
			require.Zero(t, st.RetryCount)
		}
		require.Empty(t, a.history(stability.EventDisconnected, stability.EventConnecting, stability.EventHealth))
		require.Equal(t, logins, w.logins())
		pings := w.device().Stats().Pings - began
		require.InDelta(t, hours*3600/25, pings, float64(hours*3600/25)/10, "every 20 to 30 s, and no more")
		a.stop()
		w.close()
	})
}

// halfDead is a way to the service of which each direction can be silenced.
type halfDead struct{ up, down atomic.Bool }

func (h *halfDead) transport(t *http.Transport) *http.Transport {
	t = t.Clone()
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &halfDeadConn{Conn: c, h: h, closed: make(chan struct{})}, nil
	}
	return t
}

type halfDeadConn struct {
	net.Conn
	h      *halfDead
	closed chan struct{}
	once   atomic.Bool
}

func (c *halfDeadConn) Write(p []byte) (int, error) {
	if c.h.up.Load() {
		return len(p), nil // into the void
	}
	return c.Conn.Write(p)
}

func (c *halfDeadConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.h.down.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *halfDeadConn) Close() error {
	if c.once.CompareAndSwap(false, true) {
		close(c.closed)
	}
	return c.Conn.Close()
}

func TestADeadLinkIsNoticedInTimeAndCutAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		strike func(w *world, h *halfDead) (heal func())
	}{
		{"black hole", func(w *world, _ *halfDead) func() {
			return w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now().Stop
		}},
		{"stanzas are swallowed", func(w *world, _ *halfDead) func() {
			return w.sim.Fault(wasim.Silence()).For(w.account.JID()).Now().Stop
		}},
		{"what we send is lost", func(_ *world, h *halfDead) func() {
			h.up.Store(true)
			return func() { h.up.Store(false) }
		}},
		{"what we send is lost while messages come in", func(w *world, h *halfDead) func() {
			h.up.Store(true)
			stop := w.chatter(5 * time.Second)
			return func() { h.up.Store(false); stop() }
		}},
		{"what is sent to us is lost", func(_ *world, h *halfDead) func() {
			h.down.Store(true)
			return func() { h.down.Store(false) }
		}},
		{"one direction, then both", func(w *world, h *halfDead) func() {
			h.up.Store(true)
			time.Sleep(20 * time.Second)
			h.down.Store(true)
			return func() { h.up.Store(false); h.down.Store(false) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				for _, phase := range stabilitytest.Pick([]time.Duration{0, 11 * time.Second}, []time.Duration{0, 3 * time.Second, 7 * time.Second, 11 * time.Second, 19 * time.Second}) {
					w := newWorld(t)
					h := &halfDead{}
					l := &lines{}
					a := w.instance(stability.WithTransport(l.record(h.transport(w.sim.Transport())))).run().pair()
					w.peer()
					time.Sleep(2*time.Minute + phase)
					a.forget()
					start := time.Now()
					heal := c.strike(w, h)
					e := a.reached(1, stability.EventDisconnected)
					heal()
					require.Equal(t, reconnect.ReasonConnectionLost, e.Reason)
					require.NotEmpty(t, e.Detail)
					require.LessOrEqual(t, e.Time.Sub(start), noticing)
					var cut time.Time
					for _, n := range l.times() {
						if n.closed.After(cut) {
							cut = n.closed
						}
					}
					require.WithinDuration(t, e.Time, cut, time.Second, "cut at once")
					stale := a.history(stability.EventHealth)
					require.NotEmpty(t, stale)
					require.Equal(t, keepalive.Stale, stale[0].Health)
					require.Less(t, e.Decision.Delay, time.Second, "a link that was dead for a while is replaced at once")
					a.ready()
					a.stop()
					w.close()
				}
			})
		})
	}
}

func TestStaleAfterIsTheSlowWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		// Unanswered pings alone are not believed here.
		a := w.instance(stability.WithKeepalive(keepalive.Policy{MaxFailures: 1000, StaleAfter: 3 * time.Minute})).run().pair()
		time.Sleep(2 * time.Minute)
		a.forget()
		start := time.Now()
		f := w.sim.Fault(wasim.Silence()).For(w.account.JID()).Now()
		e := a.reached(1, stability.EventDisconnected)
		f.Stop()
		require.Equal(t, reconnect.ReasonConnectionLost, e.Reason)
		require.InDelta(t, 3*time.Minute, e.Time.Sub(start), float64(31*time.Second), "since the last byte")
		a.ready()
		a.stop()
		w.close()
	})
}

func TestAProbeOfOursIsSentOnlyWhereSilenceLasts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		// Pings of whatsmeow's come every 20 to 30 s; 10 s of silence are enough here.
		a := w.instance(stability.WithKeepalive(keepalive.Policy{ProbeAfter: 10 * time.Second})).run().pair()
		time.Sleep(10 * time.Minute)
		st := a.status()
		require.Less(t, st.At.Sub(st.Probes.LastProbeAt), time.Minute)
		require.Zero(t, st.Probes.ProbesFailed)
		require.Equal(t, keepalive.Quiet, st.Probes.Health)
		pings := w.device().Stats().Pings
		stop := w.chatter(5 * time.Second) // bytes: no silence
		time.Sleep(10 * time.Minute)
		stop()
		require.InDelta(t, 24, w.device().Stats().Pings-pings, 8, "whatsmeow's own")
		require.Equal(t, keepalive.OK, a.status().Probes.Health)
		a.stop()
		w.close()
	})
}

// nowait fails when f takes any time at all.
func nowait(t *testing.T, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	require.Zero(t, time.Since(start), "%s must not wait", what)
}

func TestAStuckHandlerIsDegradedSinceItBeganAndBlocksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		peer := w.peer()
		time.Sleep(2 * time.Minute)
		a.forget()
		stuck := make(chan struct{})
		a.heed(func(evt any) {
			if m, ok := evt.(*events.Message); ok && m.Message.GetConversation() == "stick" {
				<-stuck
			}
		})
		began := time.Now()
		_, err := peer.Send(t.Context(), w.account.JID(), "stick")
		require.NoError(t, err)
		e := a.reached(1, stability.EventHealth)
		require.Equal(t, keepalive.Degraded, e.Health)
		st := a.status()
		require.Equal(t, keepalive.Degraded, st.Probes.Health)
		require.Equal(t, reconnect.StatusConnected, st.WA, "the link is alive")
		require.WithinDuration(t, began, st.Probes.Since, 31*time.Second)
		require.GreaterOrEqual(t, st.Probes.HandlerAge, 2*time.Minute-time.Second)
		require.Contains(t, st.Probes.Text, "handler")
		require.LessOrEqual(t, time.Since(began), 3*time.Minute)
		nowait(t, "Status", func() { a.status() })
		nowait(t, "Incidents", func() { a.m.Incidents() })
		nowait(t, "Client", func() { a.m.Client() })
		nowait(t, "QR", func() { a.m.QR() })
		require.NoError(t, a.send(peer.JID(), "still sends"))
		inc := a.incident("wa_degraded_active")
		require.True(t, inc.Active)

		close(stuck)
		w.await("it gets on", func() bool {
			return a.status().Probes.Health == keepalive.OK || a.status().Probes.Health == keepalive.Quiet
		})
		require.Zero(t, a.status().Probes.HandlerAge)
		w.await("the incident is over", func() bool { return !a.incident("wa_degraded_active").Active })
		require.Empty(t, a.history(stability.EventDisconnected), "never torn down for it")
		a.stop()
		w.close()
	})
}

func TestPilingDecryptionFailuresAreDegradedAndPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(2 * time.Minute)
		a.forget()
		in := a.m.Client().DangerousInternals()
		first := time.Now()
		for i := range 10 {
			in.DispatchEvent(&events.UndecryptableMessage{IsUnavailable: true})
			if i == 9 {
				require.NotEqual(t, keepalive.Degraded, a.status().Probes.Health)
			}
			for range 2 { // sent again, it fails again: it is one message all the same
				in.DispatchEvent(&events.UndecryptableMessage{Info: types.MessageInfo{ID: fmt.Sprint(i)}})
			}
			time.Sleep(10 * time.Second)
		}
		st := a.status()
		require.Equal(t, keepalive.Degraded, st.Probes.Health)
		require.Equal(t, 10, st.Probes.Undecrypted)
		require.WithinDuration(t, first, st.Probes.Since, time.Second)
		require.Contains(t, st.Probes.Text, "decrypt")
		require.Equal(t, reconnect.StatusConnected, st.WA)
		time.Sleep(10 * time.Minute)
		require.NotEqual(t, keepalive.Degraded, a.status().Probes.Health)
		require.Zero(t, a.status().Probes.Undecrypted)
		require.Empty(t, a.history(stability.EventDisconnected))
		a.stop()
		w.close()
	})
}

func TestAnUnansweredPingOfAnOldConnectionDoesNotCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(2 * time.Minute)
		old := time.Now()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		a.reached(2, stability.EventDisconnected)
		a.ready()
		a.forget()
		in := a.m.Client().DangerousInternals()
		for n := 2; n < 6; n++ {
			in.DispatchEvent(&events.KeepAliveTimeout{ErrorCount: n, LastSuccess: old.Add(-time.Second)})
			time.Sleep(time.Second)
		}
		require.Zero(t, a.status().Probes.ProbesFailed)
		time.Sleep(10 * time.Minute)
		require.Empty(t, a.history(stability.EventDisconnected))

		// One of this connection does.
		in.DispatchEvent(&events.KeepAliveTimeout{ErrorCount: 2, LastSuccess: time.Now().Add(-time.Minute)})
		require.Equal(t, reconnect.ReasonConnectionLost, a.reached(1, stability.EventDisconnected).Reason)
		a.ready()
		a.stop()
		w.close()
	})
}
