package stability_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/appstate"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// curious is a host's log that asks the Manager how it is at every line. Every
// instance of the harness has one. By default an instance of the harness asks only at
// the first hundred lines that the test binary writes at one place in the code.
type curious struct {
	slog.Handler
	m    atomic.Pointer[stability.Manager]
	tire bool
}

var placesAsked sync.Map // program counters and how often

// tired reports whether enough was asked where r comes from.
func (c *curious) tired(r slog.Record) bool {
	if !c.tire || stabilitytest.Full() || r.Message == "whatsmeow" { // all of its lines come from one place
		return false
	}
	n, _ := placesAsked.LoadOrStore(r.PC, new(atomic.Int64))
	return n.(*atomic.Int64).Add(1) > 100
}

func (c *curious) Handle(ctx context.Context, r slog.Record) error {
	if m := c.m.Load(); m != nil && !c.tired(r) {
		m.Status()
		m.Client()
		m.QR()
		m.Incidents()
	}
	return c.Handler.Handle(ctx, r)
}

func (c *curious) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || c.Handler.Enabled(ctx, level)
}
func (c *curious) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *curious) WithGroup(string) slog.Handler      { return c }

func TestAHostsLogMayAskForTheStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		var log logLines
		ask := &curious{Handler: &log}
		b := w.named("b", stability.WithLogger(slog.New(ask)), stability.Without(stability.RelyTap))
		ask.m.Store(b.m)
		b.run()
		w.await("it stands by", func() bool {
			return log.count("standing by: another instance holds the lock") == 1
		})
		a.stop()
		b.ready()

		b.m.Client().DangerousInternals().DispatchEvent(&AppStateSyncError{appstate.WAPatchRegular, errors.New("mismatching LTHash")})
		b.wire.fail(only("renew"))
		b.reached(1, storeDown)
		b.wire.heal()
		b.reached(1, storeUp)

		stuck := make(chan struct{})
		b.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				<-stuck
			}
		})
		for range 3 {
			_, err := w.say("stick")
			require.NoError(t, err)
		}
		w.await("it is degraded", func() bool { return b.status().Probes.Health == keepalive.Degraded })
		close(stuck)
		w.await("it gets on", func() bool { return b.status().Probes.Health != keepalive.Degraded })
		b.m.Reconnect()
		time.Sleep(time.Minute)
		b.ready()
		b.stop()

		for _, line := range []string{
			"standing by: another instance holds the lock", "active: this instance holds the lock", "connected", "disconnected", "health",
			"the library does not know a part of this whatsmeow, and works without it",
			"a part of the app state could not be read: contacts, archived or muted chats may be out of date; messages are not affected",
			"the backend does not answer; waiting for it", "the backend answers again",
			"not active any more",
		} {
			require.NotZero(t, log.count(line), line)
		}
		w.close()
	})
}
