package stability_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// slowSink takes its time to close.
type slowSink struct{ takes time.Duration }

func (slowSink) Notify(guard.Notification) {}
func (s slowSink) Close() error            { time.Sleep(s.takes); return nil }

func TestCloseWaitsForNoSinkOrBackendThatHangs(t *testing.T) {
	for _, hangs := range []string{"a sink", "the backend"} {
		t.Run(hangs, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				takes := map[string]time.Duration{hangs: time.Hour}
				back := w.memory.Backend()
				down := back.Close
				back.Close = func() error { time.Sleep(takes["the backend"]); return down() }
				m, err := stability.New(stability.WithBackend(back), stability.WithLogger(logger()),
					stability.WithSink(slowSink{takes["a sink"]}), stability.WithSink(slowSink{time.Second}))
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				require.ErrorContains(t, m.Close(ctx), hangs+" is still busy")
				require.Less(t, time.Since(start), 10*time.Second)
				w.close()
				time.Sleep(time.Hour) // it comes back in the end
			})
		})
	}
}

func TestPanicOfSetupReachesTheCallerOfRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a")
		require.PanicsWithValue(t, "a bug in setup", func() {
			defer func() {
				got := fmt.Sprint(recover())
				require.Contains(t, got, "handover_bounds_test.go", "the place is named")
				what, _, _ := strings.Cut(got, " [in setup]")
				panic(what)
			}()
			_ = a.m.Run(t.Context(), func(context.Context, *whatsmeow.Client) error { panic("a bug in setup") })
		})
		b := w.named("b")
		ok, err := b.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok, "the lock is free")
		require.NoError(t, b.m.Close(t.Context()))
		require.ErrorContains(t, a.m.Run(t.Context(), func(context.Context, *whatsmeow.Client) error {
			runtime.Goexit()
			return nil
		}), "Goexit")
		require.NoError(t, a.m.Close(t.Context()))
		w.close()
	})
}

// stuckConn is a network connection whose writes can be made to wait.
type stuckConn struct {
	net.Conn
	stuck *atomic.Bool
	over  chan struct{}
	once  sync.Once
}

func (c *stuckConn) Write(p []byte) (int, error) {
	if c.stuck.Load() {
		<-c.over
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}

// In real time: whoever waits for whatsmeow's write lock stops a virtual clock.
func TestLogoutBehindAStuckWriteEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var stuck atomic.Bool
	transport := w.sim.Transport("a")
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &stuckConn{Conn: c, stuck: &stuck, over: make(chan struct{})}, nil
	}
	a := w.named("a", stability.WithTransport(transport)).run().pair()
	stuck.Store(true)
	for range 3 { // the first one waits in the write, the others for its lock
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, a.m.Logout(ctx), context.DeadlineExceeded)
		cancel()
	}
	stuck.Store(false)
	a.stop()
	w.close()
}

func TestBlockedSetupDoesNotKeepTheLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.named("a"), w.named("b")
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			result <- a.m.Run(ctx, func(context.Context, *whatsmeow.Client) error { <-release; return nil })
		}()
		time.Sleep(time.Minute)
		require.Equal(t, stability.ModeActive, a.status().Mode)
		cancel()
		start := time.Now()
		require.NoError(t, <-result)
		require.LessOrEqual(t, time.Since(start), 15*time.Second)
		ok, err := b.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok, "the lock is free")
		close(release)
		require.NoError(t, a.m.Close(t.Context()))
		require.NoError(t, b.m.Close(t.Context()))
		w.close()
	})
}

func TestSlowFirstPairingIsNoIncident(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run()
		time.Sleep(11 * time.Minute) // longer than an outage may last
		for len(a.codes) > 1 {
			<-a.codes
		}
		a.m.Reconnect()
		time.Sleep(time.Second)
		for len(a.codes) > 1 {
			<-a.codes
		}
		a.pair()
		time.Sleep(time.Minute)
		require.Empty(t, a.history(stability.EventIncidentOpened))
		require.Empty(t, a.m.Incidents())
		a.stop()
		w.close()
	})
}

func TestPairedDeviceIsNotToldToScanAfter411(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(2 * time.Minute)
		refused := w.sim.Fault(wasim.Failure(411)).For(w.account.JID()).Always()
		refused.OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		a.reached(3, stability.EventDisconnected)
		st := a.status()
		require.Equal(t, reconnect.ReasonConnectRejected, st.LastDisconnectReason)
		require.Equal(t, 411, st.State.LastDisconnectCode)
		require.False(t, strings.Contains(st.Summary, "scan"), st.Summary)
		refused.Stop()
		a.m.Reconnect()
		a.ready()
		a.stop()
		w.close()
	})
}
