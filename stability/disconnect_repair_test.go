package stability_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAfterThreeUnexplainedEndsInARowTheWholeAppStateIsFetchedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		lines := &logLines{}
		a := w.instance(stability.WithLogger(lines.logger())).run().pair()
		time.Sleep(2 * time.Minute)
		a.forget()
		for n := 1; n <= 3; n++ {
			require.Zero(t, lines.count("repairing what is stored here: fetching the whole app state again"))
			w.sim.Fault(wasim.StreamError("500")).For(w.account.JID()).Now()
			e := a.reached(n, stability.EventDisconnected)
			require.Equal(t, reconnect.ReasonBadSession, e.Reason)
			a.reached(n, stability.EventConnected)
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Minute)
		require.Zero(t, lines.count("a part of the app state was not fetched"), "the service answers")
		require.Equal(t, 1, lines.count("repairing what is stored here: fetching the whole app state again"))
		require.Equal(t, reconnect.StatusConnected, a.status().WA, "the session stays")
		a.stop()
	})
}

// logLines counts the lines of a Manager's log by message.
type logLines struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *logLines) logger() *slog.Logger { return slog.New(l) }

func (l *logLines) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[message]
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }

func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	l.seen[r.Message]++
	return nil
}

func (l *logLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logLines) WithGroup(string) slog.Handler      { return l }

// silentState is a state store that answers nothing until its context ends.
type silentState struct {
	reconnect.StateStore
	silent atomic.Bool
	asked  atomic.Int32
}

func (s *silentState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if !s.silent.Load() {
		return s.StateStore.Save(ctx, epoch, st)
	}
	s.asked.Add(1)
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestASaveThatHangsDoesNotHoldTheHandOverUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.memory.Backend()
		state := &silentState{StateStore: b.State}
		b.State = state
		m, err := stability.New(stability.WithBackend(b), stability.WithTransport(w.sim.Transport()), stability.WithLogger(logger()))
		require.NoError(t, err)
		state.silent.Store(true)
		ok, err := m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		_, err = m.AuthState(t.Context()) // not paired: that is to be saved
		require.NoError(t, err)
		w.await("the save hangs", func() bool { return state.asked.Load() == 1 })
		start := time.Now()
		require.NoError(t, m.Close(t.Context()))
		require.LessOrEqual(t, time.Since(start), 5*time.Second+time.Second, "the last save has the bound of a hand-over's step")
		require.NoError(t, m.Status().StoreUnavailable)
	})
}
