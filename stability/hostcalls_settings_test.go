package stability_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestDisconnectOfAHostUnderRunIsFollowedByANewConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		for range 12 { // which would be a loop, if they were failures
			time.Sleep(50 * time.Second)
			a.forget()
			logins := w.logins()
			a.m.Client().Disconnect()
			e := a.reached(1, stability.EventDisconnected)
			require.Equal(t, reconnect.ReasonClosedByProgram, e.Reason)
			require.True(t, e.Decision.ShouldReconnect)
			require.False(t, e.Decision.Counted)
			a.ready()
			require.Equal(t, logins+1, w.logins())
		}
		time.Sleep(2 * time.Minute)
		a.forget()
		a.m.Client().Disconnect()
		e := a.reached(1, stability.EventDisconnected)
		require.InDelta(t, 1, e.Decision.Delay.Seconds(), 0.21, "the usual first delay")
		require.False(t, a.status().Parked)
		require.Empty(t, a.status().State.FirstDisconnectReason, "it is no trouble")
		a.ready()
		require.Empty(t, a.exits)
		a.stop()
		w.close()
	})
}

func TestDisconnectOfAHostByHandStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		h.forget()
		logins := w.logins()
		h.client.Disconnect()
		e := h.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonIntentional, e.Reason)
		require.False(t, e.Decision.ShouldReconnect)
		time.Sleep(time.Hour)
		require.Equal(t, logins, w.logins())
		require.NoError(t, h.client.Connect())
		h.ready()
		h.finish()
	})
}

// warnings are the settings that a log names as set back.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	seen []string
}

func (l *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l *warnings) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "setting" && r.Level == slog.LevelWarn {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.seen = append(l.seen, strings.Fields(a.Value.String())[0])
		}
		return true
	})
	return nil
}

func (l *warnings) take() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out, l.seen = l.seen, nil
	slices.Sort(out)
	return out
}

// Fields are written between the attempts of the client.
func TestSettingsAreSetBackBeforeEachAttemptWithOneWarningATerm(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("whatsmeow reads the settings that a host writes without a lock")
	}
	changed := []string{
		"AutoReconnectHook", "DisableLoginAutoReconnect", "EnableAutoReconnect", "EnableDecryptedEventBuffer", "HTTP", "InitialAutoReconnect",
	}
	change := func(c *whatsmeow.Client) {
		c.EnableAutoReconnect, c.InitialAutoReconnect = true, true
		c.DisableLoginAutoReconnect, c.EnableDecryptedEventBuffer = false, false
		c.AutoReconnectHook = func(error) bool { return true }
		c.RefreshCAT, c.Log = nil, nil
		c.SetProxy(func(*http.Request) (*url.URL, error) { return nil, errNoProxy })
		c.SetMediaHTTPClient(http.DefaultClient)
	}
	asItShouldBe := func(c *whatsmeow.Client) {
		require.False(t, c.EnableAutoReconnect || c.InitialAutoReconnect)
		require.True(t, c.DisableLoginAutoReconnect && c.EnableDecryptedEventBuffer)
		require.Nil(t, c.AutoReconnectHook)
		require.NotNil(t, c.RefreshCAT)
		require.NotNil(t, c.Log)
	}
	t.Run("under Run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			log := &warnings{Handler: slog.DiscardHandler}
			a := w.instance(stability.WithLogger(slog.New(log)), stability.WithAutoHeal(noHeal)).run().pair()
			for term := range 2 {
				require.Empty(t, log.take(), "what whatsmeow sets itself is no host's doing")
				for attempt := range 3 {
					time.Sleep(2 * time.Minute)
					w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
					w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
					time.Sleep(20 * time.Second)
					change(a.m.Client())
					w.sim.Heal()
					a.ready()
					asItShouldBe(a.m.Client())
					want := changed
					if attempt > 0 {
						want = nil
					}
					require.Equal(t, want, log.take(), "term %d, attempt %d", term, attempt)
					require.Nil(t, a.status().Compat)
				}
				a.cancel()
				require.NoError(t, <-a.result)
				a.forget()
				if term == 0 {
					a.run().ready()
				}
			}
			require.NoError(t, a.m.Close(t.Context()))
			w.close()
		})
	})
	t.Run("by hand", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			log := &warnings{Handler: slog.DiscardHandler}
			h := w.byHand(stability.WithLogger(slog.New(log))).activate()
			h.pair()
			time.Sleep(2 * time.Minute)
			w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			time.Sleep(20 * time.Second)
			change(h.client)
			w.sim.Heal()
			h.ready()
			asItShouldBe(h.client)
			require.Equal(t, changed, log.take())
			h.finish()
		})
	})
}

func TestConnectionPastTheDialerIsReplacedUnderRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(2 * time.Minute)
		c := a.m.Client()
		c.SetWebsocketHTTPClient(&http.Client{Transport: w.sim.Transport("past")})
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, c.Connect(), "before the Manager does")
		require.Equal(t, 1, w.sim.DialsFrom("past"))
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.sim.DialsFrom("past"))
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		require.Nil(t, a.status().Compat, "the present one has its fence")
		require.Equal(t, 1, w.sim.Connections())
		a.stop()
		w.close()
	})
}
