package stability_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// flood is an instance whose handler takes its time for each of many messages,
// which a phone sends at once.
func flood(w *world, opts ...stability.Option) (a *instance, log *logText, messages int, each time.Duration) {
	w.t.Helper()
	log = &logText{}
	a = w.instance(append(opts, stability.WithLogger(slog.New(slog.NewTextHandler(log, nil))))...).run().pair()
	messages, each = stabilitytest.Pick(350, 3500), stabilitytest.Pick(500*time.Millisecond, 50*time.Millisecond)
	texts := make([]string, messages)
	for i := range texts {
		texts[i] = fmt.Sprint("m", i)
	}
	a.forget()
	a.heed(func(evt any) {
		if _, ok := evt.(*events.Message); ok {
			time.Sleep(each)
		}
	})
	_, err := w.sim.NewAccount("491520000007").Phone().Send(w.account.JID(), texts...)
	require.NoError(w.t, err)
	return a, log, messages, each
}

// Together they take longer than one handler may, and none of them does.
func TestBacklogIsNoStuckHandler(t *testing.T) {
	for name, c := range map[string]struct {
		policy keepalive.Policy
		slow   bool // it is told that they wait for too long
	}{
		"that is worked off in time": {keepalive.Policy{}, false},
		"that waits for too long":    {keepalive.Policy{HandlerAfter: 20 * time.Second, BacklogAfter: time.Minute}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a, log, messages, each := flood(w, stability.WithKeepalive(c.policy))
				time.Sleep(130 * time.Second)
				st := a.status()
				rate := float64(time.Second) / float64(each)
				require.InDelta(t, float64(messages)-130*rate, st.Probes.Waiting, 10*rate)
				require.InEpsilon(t, rate, st.Probes.PerSecond, 0.25)
				require.WithinDuration(t, time.Now().Add(-130*time.Second), st.Probes.WaitingSince, 2*time.Second)
				require.LessOrEqual(t, st.Probes.HandlerAge, each)
				require.Contains(t, st.Probes.Text, "wait to be handled, the oldest for 2m")
				require.Contains(t, st.Summary, "wait to be handled, the oldest for 2m")
				require.NotContains(t, st.Probes.Text, "has been running")
				require.Equal(t, 1, log.count("received messages, receipts and notices wait to be handled\" waiting="), "once")
				require.Equal(t, c.slow, st.Probes.Health == keepalive.Degraded)
				if c.slow {
					inc := a.incident("wa_degraded_active")
					require.True(t, inc.Active)
					require.Contains(t, inc.Runbook, "the event handlers get on, but they are slow")
				}

				w.await("all of it", func() bool { return len(a.texts()) == messages })
				time.Sleep(time.Minute)
				st = a.status()
				require.Equal(t, keepalive.OK, st.Probes.Health)
				require.Zero(t, st.Probes.Waiting)
				require.NotContains(t, st.Summary, "wait")
				require.Equal(t, 1, log.count("nothing waits to be handled any more"))
				require.Zero(t, log.count("has been running"))
				require.Len(t, a.history(stability.EventIncidentOpened), map[bool]int{true: 1}[c.slow])
				w.await("the incident's end", func() bool { return !a.incident("wa_degraded_active").Active })
				a.stop()
			})
		})
	}
}

func TestStuckHandlerInABacklogIsToldAsSuch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a, log, messages, each := flood(w)
		time.Sleep(20 * each)
		stuck := make(chan struct{})
		a.heed(func(any) { <-stuck })
		began := time.Now()
		e := a.reached(1, stability.EventHealth)
		require.Equal(t, keepalive.Degraded, e.Health)
		require.WithinDuration(t, began.Add(2*time.Minute), time.Now(), 2*time.Second)
		st := a.status()
		require.Contains(t, st.Probes.Text, "an event handler of this program has been running for 2m")
		require.WithinDuration(t, began, st.Probes.Since, 2*time.Second)
		require.Greater(t, st.Probes.Waiting, messages/2, "and this is what waits behind it")
		require.Contains(t, a.incident("wa_degraded_active").Runbook, "has been running")
		require.Equal(t, 1, log.count("has been running"))
		a.heed(nil)
		close(stuck)
		require.Equal(t, keepalive.OK, a.reached(2, stability.EventHealth).Health)
		w.await("all of it", func() bool { return len(a.texts()) == messages })
		a.stop()
	})
}

// A Manager that cannot see the handlers sees that events come.
func TestUnseenBacklogIsNoStuckHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a, _, messages, _ := flood(w, stability.Without(stability.RelyTable))
		w.await("all of it", func() bool { return len(a.texts()) == messages })
		require.Empty(t, a.history(stability.EventHealth, stability.EventIncidentOpened))

		if _, marked := any(a.m.Client().DangerousInternals()).(interface {
			HandleFrame(ctx context.Context, data []byte)
		}); marked { // else nothing is seen at all
			stuck := make(chan struct{})
			a.heed(func(any) { <-stuck })
			_, err := w.say("stick")
			require.NoError(t, err)
			require.Equal(t, keepalive.Degraded, a.reached(1, stability.EventHealth).Health)
			require.Contains(t, a.status().Probes.Text, "has been running")
			a.heed(nil)
			close(stuck)
		}
		a.stop()
	})
}
