package stability_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// logText is a log to read.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logText) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// missing are the parts that a status says are missing.
func missing(st stability.Status) (parts []string) {
	if st.Compat != nil {
		for _, g := range st.Compat.Missing {
			parts = append(parts, g.Part)
		}
	}
	return parts
}

func TestBlindTapStillConnects(t *testing.T) {
	for part, soon := range map[stability.Reliance]time.Duration{stability.RelyTap: 0, stability.RelyLogin: 30 * time.Second} {
		t.Run(string(part), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var log logText
				i := w.instance(stability.Without(part), stability.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).run().pair()
				require.Equal(t, []string{"tap"}, missing(i.status()))
				require.Contains(t, i.status().Compat.Missing[0].Effect, "logger given to the client")
				require.NotEmpty(t, i.status().Compat.Whatsmeow)

				for range 3 { // and each time again
					i.m.Reconnect()
					time.Sleep(5*time.Second + soon)
					require.Equal(t, reconnect.StatusConnected, i.status().WA)
				}
				require.Equal(t, []string{"tap"}, missing(i.status()))
				require.Equal(t, 1, log.count("part=tap"), "said once")
				i.stop()
			})
		})
	}
}

// With any part missing, the client pairs, connects, is cut, comes back and hands
// over, and status names what is missing.
func TestNothingOfWhatsmeowsInsideIsRequired(t *testing.T) {
	t.Parallel()
	all := []stability.Reliance{
		stability.RelyTap, stability.RelyProbe, stability.RelyQueueLoop, stability.RelyLoopWords,
		stability.RelyTable, stability.RelyHandlers, stability.RelySendInside, stability.RelyDispatch, stability.RelyFrames,
	}
	sets := [][]stability.Reliance{nil, all}
	for _, part := range append(slices.Clone(all), stability.HelloShort, stability.HelloLong) {
		sets = append(sets, []stability.Reliance{part})
	}
	for _, without := range sets {
		t.Run(fmt.Sprint(without), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance(stability.Without(without...)).run().pair()
				standby := w.instance(stability.Without(without...)).run()
				peer := w.peer()
				said := 0
				hear := func(i *instance) {
					said++
					text := fmt.Sprint("hello ", said)
					_, err := peer.Send(context.Background(), w.account.JID(), text)
					require.NoError(t, err)
					w.await("the message comes", func() bool { return len(i.texts()) > 0 && i.texts()[len(i.texts())-1] == text })
				}
				hear(i)
				for _, f := range []wasim.Fault{wasim.Reset(), wasim.StreamError("503"), wasim.BlackHole()} {
					n := len(i.history(stability.EventConnected))
					w.sim.Fault(f).Now()
					i.reached(n+1, stability.EventConnected)
					w.sim.Heal()
					hear(i)
				}
				if len(without) == 0 {
					require.Nil(t, i.status().Compat)
				}
				for _, part := range without {
					if part == stability.HelloShort || part == stability.HelloLong {
						part = stability.RelyFrames
					}
					require.Contains(t, missing(i.status()), string(part))
				}
				i.stop()
				standby.ready()
				hear(standby)
				standby.stop()
				require.Equal(t, 1, len(w.account.Devices()))
			})
		})
	}
}

// A frame that no version of whatsmeow knows is passed on, and whatsmeow lets it pass.
func TestStrangeFramesChangeNothing(t *testing.T) {
	for name, opts := range map[string][]wasim.Option{"plain": nil, "compressed": {wasim.WithCompression()}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorldOn(t, opts...)
				w.sim.Fault(wasim.TextFirst()).Always().Now()
				w.sim.Fault(wasim.StrangeFrames()).Always().OnNextLogin()
				i := w.instance().run()
				i.pair()
				standby := w.instance().run()
				peer := w.peer()
				hear := func(i *instance, text string) {
					w.sim.Fault(wasim.StrangeFrames()).For(w.account.JID()).Now()
					_, err := peer.Send(context.Background(), w.account.JID(), text)
					require.NoError(t, err)
					w.await("the message comes", func() bool { return slices.Contains(i.texts(), text) })
				}
				hear(i, "paired")
				for _, f := range []wasim.Fault{wasim.Reset(), wasim.FIN(), wasim.StreamError("503")} {
					n := len(i.history(stability.EventConnected))
					w.sim.Fault(f).For(w.account.JID()).Now()
					i.reached(n+1, stability.EventConnected)
					hear(i, f.String())
				}
				require.Empty(t, missing(i.status()))
				require.Equal(t, reconnect.ReasonServiceUnavailable, i.status().LastDisconnectReason)
				i.stop()
				standby.ready()
				hear(standby, "handed over")
				require.Empty(t, missing(standby.status()))
				standby.stop()
			})
		})
	}
}

// Run undoes a proxy that was set too late; a host that connects by itself can
// go past the dialer.
func TestConnectionPastTheDialerIsServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		require.NoError(t, i.m.Activate(t.Context()))
		connect := func(ctx context.Context) error {
			d, err := i.m.AuthState(ctx)
			if err != nil {
				return err
			}
			c := i.m.Client()
			if c == nil || c.Store != d {
				return errors.New("no client")
			}
			web := &http.Client{Transport: w.sim.Transport()}
			c.SetWebsocketHTTPClient(web)
			c.SetPreLoginHTTPClient(web)
			return c.ConnectContext(ctx)
		}
		d, err := i.m.AuthState(t.Context())
		require.NoError(t, err)
		c, err := i.m.NewClient(d)
		require.NoError(t, err)
		require.NoError(t, i.setup(t.Context(), c))
		first, err := i.m.Resume()
		require.NoError(t, err)
		i.m.ScheduleReconnect(first, connect)

		i.pair()
		require.Equal(t, []string{"dialer"}, missing(i.status()))
		peer := w.peer()
		for round, f := range []wasim.Fault{wasim.Reset(), wasim.StreamError("503")} {
			n := len(i.history(stability.EventConnected))
			w.sim.Fault(f).Now()
			i.reached(n+1, stability.EventConnected)
			w.sim.Heal()
			text := fmt.Sprint("hello ", round)
			_, err := peer.Send(context.Background(), w.account.JID(), text)
			require.NoError(t, err)
			w.await("the message comes", func() bool { return slices.Contains(i.texts(), text) })
		}
		require.NoError(t, i.m.Close(context.Background()))
		require.False(t, w.device().Online())
		w.instance().run().ready().stop()
	})
}
