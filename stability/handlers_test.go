package stability_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestTheManagerMayBeUsedInsideAHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(time.Minute)
		var calls atomic.Int32
		var longest atomic.Int64
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); !ok {
				return
			}
			a.m.Status()
			a.m.Incidents()
			a.m.QR()
			a.m.Client()
			_, _ = a.m.WaitReady(context.Background())
			_, _ = a.m.TryActivate(context.Background())
			if calls.Add(1)%2 == 0 {
				start := time.Now()
				a.m.Reconnect()
				longest.Store(max(longest.Load(), int64(time.Since(start))))
			}
		})
		for range 6 {
			_, err := w.say("use it")
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		require.GreaterOrEqual(t, calls.Load(), int32(6))
		require.Zero(t, longest.Load(), "an end waits for handlers, so none may wait for it")
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.mu.Lock()
		require.Equal(t, 1, a.setups, "with the same client")
		a.mu.Unlock()
		a.stop()
		w.close()
	})
}

func TestTwoStanzasAreNeverHandledAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand() // its handlers schedule the reconnect
		h.activate()
		h.pair()
		var running, most atomic.Int32
		h.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(3 * time.Second) // longer than the first pauses
				running.Add(-1)
			}
		})
		stop := w.chatter(2 * time.Second)
		for range 6 {
			time.Sleep(4 * time.Second)
			w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
			time.Sleep(time.Second)
			h.ready()
		}
		sent := stop()
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 1, most.Load())
		require.Positive(t, sent)
		h.finish()
	})
}

func TestEndingUnderAStreamOfStanzasLeaksNothing(t *testing.T) {
	bubble(t, func(t *testing.T) { // which ends only when every goroutine has
		w := newWorld(t)
		// A slow log makes the read pump wait to hand its frame over.
		slow := slog.New(&slowHandler{})
		a := w.tended("a", stability.WithLogger(slow)).run().pair()
		for n := range stabilitytest.Pick(20, 300) {
			w.sim.Flood(w.account.JID(), 2000, time.Duration(n%3)*time.Millisecond)
			time.Sleep(time.Duration(n) * 7 * time.Millisecond)
			if n%2 == 0 { // the host itself stops the one that takes the pump's frames
				a.m.Client().Disconnect()
				w.await("it is noticed", func() bool { return a.status().WA != reconnect.StatusConnected })
			}
			a.m.Reconnect()
			time.Sleep(time.Second)
			a.ready()
		}
		w.sim.Flood(w.account.JID(), 2000, time.Millisecond)
		a.stop()
		w.close()
	})
}

// slowHandler is a log that takes a millisecond for each stanza received.
type slowHandler struct{}

func (slowHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h slowHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h slowHandler) WithGroup(string) slog.Handler          { return h }
func (slowHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "module" && strings.HasSuffix(a.Value.String(), "Recv") {
			time.Sleep(time.Millisecond)
		}
		return true
	})
	return nil
}

func TestASendInFlightWhenTheLinkDropsReturns(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("a send while the link drops is whatsmeow's own race: it is what this test makes happen")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		peer := w.peer()
		time.Sleep(time.Minute)
		require.NoError(t, a.send(peer.JID(), "first"))
		for _, f := range []wasim.Fault{wasim.FIN(), wasim.Reset(), wasim.StreamError("503")} {
			hold := w.sim.Fault(wasim.HoldAcks()).For(w.account.JID()).Now()
			sent := make(chan error, 1)
			start := time.Now()
			go func() { sent <- a.send(peer.JID(), "in flight") }()
			time.Sleep(100 * time.Millisecond)
			w.sim.Fault(f).For(w.account.JID()).Now()
			<-sent // re-sent, or an error: both are an answer
			require.Less(t, time.Since(start), 10*time.Second)
			hold.Stop()
			a.ready()
			time.Sleep(time.Minute)
			require.NoError(t, a.send(peer.JID(), "afterwards"))
		}
		a.stop()
		w.close()
	})
}

// A message is handled in the end, whatever its handler does, or waits where
// status says.
func TestNoHandlerBehaviourLosesAMessage(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(c *whatsmeow.Client) (ok bool){
		"returns false for ever": func(*whatsmeow.Client) bool { return false },
		"panics every time":      func(*whatsmeow.Client) bool { panic("boom") },
		"blocks for an hour":     func(*whatsmeow.Client) bool { time.Sleep(time.Hour); return true },
		"calls Disconnect":       func(c *whatsmeow.Client) bool { go c.Disconnect(); return false },
		"removes all handlers":   func(c *whatsmeow.Client) bool { go c.RemoveEventHandlers(); return false },
	} {
		t.Run(name, func(t *testing.T) {
			if stabilitytest.Race && name == "calls Disconnect" {
				t.Skip("a look at the connection while it ends is whatsmeow's own race: it is what this row makes happen")
			}
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var mended atomic.Bool
				a.refuse = func(*events.Message) bool {
					return !mended.Load() && !handle(a.m.Client())
				}
				a.run().pair()
				time.Sleep(time.Minute)
				_, err := w.writer().Send(w.account.JID(), "one", "two")
				require.NoError(t, err)
				time.Sleep(90 * time.Minute)
				a.balanced()
				mended.Store(true)
				if c := a.m.Client(); name == "removes all handlers" {
					require.Empty(t, a.texts())
					c.AddEventHandlerWithSuccessStatus(a.handle)
				}
				a.m.Reconnect()
				time.Sleep(30 * time.Minute)
				a.ready()
				require.ElementsMatch(t, []string{"one", "two"}, a.texts())
				require.Empty(t, a.m.Messages())
				require.Empty(t, w.device().Pending())
				a.stop()
			})
		})
	}
}

// deaf is an instance whose program registers no handler.
func (w *world) deaf() *instance {
	a := w.instance(stability.WithAutoHeal(noHeal))
	ctx, cancel := context.WithCancel(w.t.Context())
	a.cancel = cancel
	go func() { a.result <- a.m.Run(ctx, nil) }()
	return a.pair()
}

func TestHandlerThatIsRegisteredLateMissesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.deaf()
		_, err := w.writer().Send(w.account.JID(), "early")
		require.NoError(t, err)
		time.Sleep(30 * time.Second)
		require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count)
		a.m.Client().AddEventHandlerWithSuccessStatus(a.handle)
		time.Sleep(10 * time.Minute)
		require.Equal(t, []string{"early"}, a.texts())
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}

func TestHostWithoutHandlersLeavesNothingAtTheService(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.deaf()
		time.Sleep(3 * time.Minute)
		_, err := w.writer().Send(w.account.JID(), "nobody wants it")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Empty(t, w.device().Pending(), "a program that only sends")
		a.stop()
	})
}
