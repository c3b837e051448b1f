package stability_test

import (
	"context"
	"strings"
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

func TestCloseDoesNotWaitForASinkThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithSink(slowSink{time.Hour}), stability.WithSink(slowSink{time.Second}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorContains(t, a.m.Close(ctx), "a sink is still busy")
		require.Less(t, time.Since(start), 10*time.Second)
		w.close()
		time.Sleep(time.Hour) // the sink comes back in the end
	})
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
