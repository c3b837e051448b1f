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

// By hand a client is kept for as long as a handler of it runs: only the host
// can make a new one. At the end of the term that wait ends too.
func TestByHandStuckHostCodeHoldsTheEndOfATermUpNoLongerThanAStep(t *testing.T) {
	t.Parallel()
	stuckIn := map[string]func(t *testing.T, w *world, h *byHand) (free func()){
		"a handler": func(t *testing.T, w *world, h *byHand) func() {
			stuck := make(chan struct{})
			h.heed(func(evt any) {
				if _, ok := evt.(*events.Message); ok {
					<-stuck
				}
			})
			_, err := w.say("stick")
			require.NoError(t, err)
			time.Sleep(time.Second)
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			return func() { close(stuck) }
		},
		"the connect function": func(_ *testing.T, w *world, h *byHand) func() {
			stuck := make(chan struct{})
			h.connects = func() error { <-stuck; return context.Canceled }
			tries := h.tries.Load()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("it is called", func() bool { return h.tries.Load() > tries })
			return func() { close(stuck) }
		},
	}
	for name, stick := range stuckIn {
		for cause, end := range map[string]func(t *testing.T, h *byHand){
			"the lock is lost": func(t *testing.T, h *byHand) {
				until := h.status().TrustedUntil
				h.wire.fail(lockCalls)
				time.Sleep(time.Until(until) + time.Second)
				h.wire.heal()
				start := time.Now()
				require.NoError(t, h.m.Activate(t.Context()))
				require.Less(t, time.Since(start), h.status().Settings.HandOver())
			},
			"Close": func(t *testing.T, h *byHand) {
				start := time.Now()
				require.NoError(t, h.m.Close(t.Context()))
				require.LessOrEqual(t, time.Since(start), h.status().Settings.HandOver())
			},
		} {
			t.Run(name+", "+cause, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					var log, later logLines
					h := w.byHand(stability.WithLogger(log.logger())).activate()
					h.pair()
					time.Sleep(time.Minute)
					free := stick(t, w, h)
					time.Sleep(time.Minute)
					require.NotEqual(t, reconnect.StatusConnected, h.status().WA)
					require.Equal(t, stability.ModeActive, h.status().Mode)
					over := time.AfterFunc(time.Hour, func() {
						t.Error("it waits for the host's code")
						free()
					})
					end(t, h)
					if over.Stop() {
						free()
					}
					_ = h.m.Close(context.Background())
					time.Sleep(time.Minute)
					if cause == "Close" {
						require.Zero(t, log.count("a handler of the old connection is still running; going on with a new client"), "nothing goes on")
						b := w.tended("b", stability.WithLogger(later.logger())).run().ready()
						require.Zero(t, later.count("an earlier term ended uncleanly; each message is recorded before it is handled, until the backlog is handled"), "a slow handler has not ended the process")
						b.stop()
					}
					w.close()
				})
			})
		}
	}
}

// A handler that hangs when its connection has gone holds Run up for a step of a
// hand-over, whatever else it would be waited for.
func TestStuckHandlerHoldsTheEndOfRunUpNoLongerThanAStep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithShutdownTimeout(time.Second))
		stuck := make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				<-stuck
			}
		})
		a.run().pair()
		time.Sleep(time.Minute)
		w.getMessage("stick")
		time.Sleep(time.Second)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(time.Second)
		start, most := time.Now(), a.status().Settings.HandOver()
		a.stop()
		require.LessOrEqual(t, time.Since(start), most)
		close(stuck)
		w.close()
	})
}
