package stability_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// byHand is a host that owns its connect code, as an application that is moved
// to this library would.
type byHand struct {
	*named
	client   *whatsmeow.Client
	plain    bool        // the client has a logger of its own: no tap
	mute     atomic.Bool // the host tells nothing that it hears
	self     bool        // the host waits and connects by itself
	tries    atomic.Int32
	connects func() error // comes before the client's; nil: none
}

func (w *world) byHand(opts ...stability.Option) *byHand {
	return &byHand{named: w.named("byhand", opts...)}
}

// activate takes the lock, makes a client and connects it.
func (h *byHand) activate() *byHand {
	t := h.w.t
	t.Helper()
	ok, err := h.m.TryActivate(t.Context())
	require.NoError(t, err)
	require.True(t, ok)
	d, err := h.m.AuthState(t.Context())
	require.NoError(t, err)
	if h.plain {
		h.client = whatsmeow.NewClient(d, nil)
		require.NoError(t, h.m.Attach(h.client))
	} else {
		h.client, err = h.m.NewClient(d)
		require.NoError(t, err)
	}
	h.client.ManualHistorySyncDownload = true
	h.client.AddEventHandlerWithSuccessStatus(h.handle)
	h.client.AddEventHandler(h.watch)
	if err := h.connect(context.Background()); err != nil {
		h.ended(err)
	}
	return h
}

func (h *byHand) connect(ctx context.Context) error {
	h.tries.Add(1)
	if h.connects != nil {
		if err := h.connects(); err != nil {
			return err
		}
	}
	return h.client.ConnectContext(ctx)
}

// watch tells the Manager what the client says, event by event.
func (h *byHand) watch(evt any) {
	if h.mute.Load() {
		return
	}
	switch e := evt.(type) {
	case *events.QR:
		h.codes <- stability.QR{Code: e.Codes[0]}
	case *events.Connected:
		if err := h.m.HandleConnected(context.Background()); err != nil && !errors.Is(err, stability.ErrClosed) { // it may come late
			h.w.t.Errorf("HandleConnected: %v", err)
		}
	default:
		if _, ends := reconnect.Classify(evt); ends {
			h.ended(evt)
		}
	}
}

func (h *byHand) ended(cause any) reconnect.Decision {
	d, err := h.m.HandleDisconnected(context.Background(), cause)
	switch {
	case err != nil:
	case !h.self:
		h.m.ScheduleReconnect(d, h.connect)
	case d.ShouldReconnect:
		time.AfterFunc(d.Delay+time.Second, func() {
			if err := h.client.Connect(); err != nil && !errors.Is(err, whatsmeow.ErrAlreadyConnected) {
				h.w.t.Errorf("Connect: %v", err)
			}
		})
	}
	return d
}

func (h *byHand) finish() {
	h.w.t.Helper()
	require.NoError(h.w.t, h.m.Close(context.Background()))
	h.w.close()
}

func TestByHandAHostPairsThroughItsOwnEventsAndComesBack(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				h := w.byHand()
				h.plain = plain
				h.activate()
				h.pair()
				require.Equal(t, reconnect.StatusConnected, h.status().WA)
				_, err := w.say("hello")
				require.NoError(t, err)
				w.await("the message", func() bool { return len(h.texts()) == 1 })

				time.Sleep(2 * time.Minute)
				h.forget()
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
				h.reached(1, stability.EventConnected)
				time.Sleep(time.Minute)
				require.Equal(t, 2, w.logins(), "one login after pairing, one after the reset")
				require.Equal(t, reconnect.ReasonConnectionClosed, h.history(stability.EventDisconnected)[0].Reason)

				// The same process, the next term: same session, no code.
				require.NoError(t, h.m.Close(t.Context()))
				next := w.byHand()
				next.plain = plain
				next.activate()
				next.ready()
				require.Empty(t, next.codes)
				next.finish()
			})
		})
	}
}

// The causes of a live connection's end, and what a host with a client of its
// own makes of them. Without the tap only what events can tell is known.
func TestByHandEveryEndHasTheSameReasonAsUnderRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  wasim.Fault
		login  bool // strikes the next login, after a FIN
		reason reconnect.Reason
		plain  reconnect.Reason // without the tap; empty: the same
		comes  bool
	}{
		{"reset", wasim.Reset(), false, reconnect.ReasonConnectionClosed, "", true},
		{"end of file", wasim.FIN(), false, reconnect.ReasonConnectionClosed, "", true},
		{"websocket close", wasim.WebsocketClose(1001), false, reconnect.ReasonConnectionClosed, "", true},
		{"stream error 515", wasim.StreamError("515"), false, reconnect.ReasonRestartRequired, "", true},
		{"stream error 503", wasim.StreamError("503"), false, reconnect.ReasonServiceUnavailable, reconnect.ReasonConnectionClosed, true},
		{"stream error 500", wasim.StreamError("500"), false, reconnect.ReasonBadSession, "", true},
		{"stream error without code", wasim.StreamError(""), false, reconnect.ReasonBadSession, "", true},
		{"replaced", wasim.Replaced(), false, reconnect.ReasonConnectionReplaced, "", true},
		{"device removed", wasim.DeviceRemoved(), false, reconnect.ReasonLoggedOut, "", false},
		{"failure 401", wasim.Failure(401), true, reconnect.ReasonLoggedOut, "", false},
		{"failure 403", wasim.Failure(403), true, reconnect.ReasonAccountLocked, "", false},
		{"failure 406", wasim.Failure(406), true, reconnect.ReasonAccountBanned, "", false},
		{"failure 402", wasim.TemporaryBan(101, time.Hour), true, reconnect.ReasonTemporaryBan, "", true},
		{"failure 405", wasim.Failure(405), true, reconnect.ReasonClientOutdated, "", true},
		{"failure 413", wasim.Failure(413), true, reconnect.ReasonConnectRejected, "", true},
		{"failure 418", wasim.Failure(418), true, reconnect.ReasonConnectRejected, "", true},
		{"failure 500", wasim.Failure(500), true, reconnect.ReasonBadSession, reconnect.ReasonConnectionClosed, true},
		{"failure 503", wasim.Failure(503), true, reconnect.ReasonServiceUnavailable, reconnect.ReasonConnectionClosed, true},
		{"refused", wasim.Refused(), true, reconnect.ReasonNetworkUnreachable, "", true},
		{"upgrade 503", wasim.UpgradeStatus(503), true, reconnect.ReasonServiceUnavailable, "", true},
		{"upgrade hangs", wasim.UpgradeHang(), true, reconnect.ReasonTimedOut, "", true},
		{"wrong certificate", wasim.WrongCertificate(), true, reconnect.ReasonUntrustedServer, "", false},
		{"black hole", wasim.BlackHole(), false, reconnect.ReasonConnectionLost, "", true},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,plain=%v", c.name, plain), func(t *testing.T) {
				someUnderRace(t)
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					h := w.byHand(keepsTheLock) // a refusal of this build is tried again here, hours later
					h.plain = plain
					h.activate()
					h.pair()
					time.Sleep(2 * time.Minute)
					h.forget()
					device := w.device()
					before := device.Stats().Logins
					want, n := c.reason, 1
					if plain && c.plain != "" {
						want = c.plain
					}
					injected := w.sim.Fault(c.fault)
					if c.login {
						injected.OnNextLogin()
						w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
						h.reached(1, stability.EventDisconnected)
						n = 2
					} else {
						injected.For(w.account.JID()).Now()
					}
					e := h.reached(n, stability.EventDisconnected)
					require.Equal(t, want, e.Reason, e.Detail)
					require.Equal(t, c.comes, e.Decision.ShouldReconnect)
					if e.Reason == reconnect.ReasonConnectionLost {
						injected.Stop()
					}
					if !c.comes {
						if !plain { // how it was heard of is forgotten by then
							time.Sleep(23 * time.Hour)
						}
						time.Sleep(time.Hour)
						require.Empty(t, h.history(stability.EventConnected))
						require.Zero(t, h.status().NextRetryAt)
						require.LessOrEqual(t, device.Stats().Logins, before+1)
					} else {
						back := h.reached(1, stability.EventConnected)
						require.False(t, back.Time.Before(e.Decision.NextRetryAt))
						require.Less(t, back.Time.Sub(e.Decision.NextRetryAt), time.Second)
						time.Sleep(5 * time.Minute)
						require.Equal(t, reconnect.StatusConnected, h.status().WA)
						require.Len(t, h.history(stability.EventConnected), 1, "exactly one reconnect")
						require.LessOrEqual(t, device.Stats().Logins, before+n)
					}
					h.finish()
				})
			})
		}
	}
}

func TestByHandAnErrorFromConnectIsFedBackAndRescheduled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		h.forget()
		h.tries.Store(0)
		h.connects = func() error {
			if h.tries.Load() < 6 {
				return errors.New("the host's own trouble")
			}
			return nil
		}
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		h.reached(1, stability.EventConnected)
		require.EqualValues(t, 6, h.tries.Load())
		ends := h.history(stability.EventDisconnected)
		require.Len(t, ends, 6)
		series(t, ends)
		h.connects = nil
		h.finish()
	})
}

func TestByHandAStepDownWaitsNeitherForADialNorForWhatTheHostDoesBeforeIt(t *testing.T) {
	for _, dials := range []bool{true, false} {
		t.Run(fmt.Sprint("dials=", dials), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				h := w.byHand().activate()
				h.pair()
				time.Sleep(2 * time.Minute)
				h.mute.Store(true)
				w.sim.Fault(wasim.TLSHang()).Always().OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				w.await("it is off", func() bool { return h.status().WA != reconnect.StatusConnected })
				d, err := h.m.HandleDisconnected(t.Context(), &events.Disconnected{})
				require.NoError(t, err)
				h.m.ScheduleReconnect(d, func(ctx context.Context) error {
					if dials {
						return h.client.Connect() // and pays no heed to ctx
					}
					<-ctx.Done()
					return ctx.Err()
				})
				w.await("the attempt", func() bool { return h.status().Connecting })
				time.Sleep(100 * time.Millisecond)
				start := time.Now()
				require.NoError(t, h.m.Close(t.Context()))
				require.Less(t, time.Since(start), time.Second)
				w.sim.Heal()
				w.close()
			})
		})
	}
}

func TestByHandAHostThatWaitsAndConnectsByItselfIsServedToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand()
		h.self = true
		h.activate()
		h.pair()
		for n := range 5 {
			time.Sleep(3 * time.Minute)
			h.forget0()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			e := h.reached(1, stability.EventDisconnected)
			require.Equal(t, 1, e.Decision.RetryCount, "after a stable connection")
			h.ready()
			require.ErrorIs(t, h.client.Connect(), whatsmeow.ErrAlreadyConnected)
			time.Sleep(3 * time.Minute)
			require.Equal(t, n+2, w.logins())
			require.Equal(t, reconnect.StatusConnected, h.status().WA)
			_, err := w.say("still there")
			require.NoError(t, err)
			w.await("the message", func() bool { return len(h.texts()) == n+1 })
		}
		h.finish()
	})
}

// The host's own Connect and the Manager's timer at the same moment.
func TestByHandConnectingBesideAScheduledReconnectMakesOneLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		for n := range 10 {
			time.Sleep(3 * time.Minute)
			h.forget()
			logins := w.logins()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			e := h.reached(1, stability.EventDisconnected)
			time.Sleep(time.Until(e.Decision.NextRetryAt) - time.Duration(n-5)*time.Millisecond)
			_ = h.client.Connect()
			h.ready()
			time.Sleep(3 * time.Minute)
			require.Equal(t, reconnect.StatusConnected, h.status().WA)
			require.Equal(t, logins+1, w.logins(), "round %d: %v", n, h.history(stability.EventConnecting, stability.EventConnected, stability.EventDisconnected))
			require.Zero(t, w.device().Stats().Replaced)
		}
		h.finish()
	})
}

func TestByHandAfterALogoutTheHostPairsAnewInTheSameTerm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand().activate()
		h.pair()
		time.Sleep(time.Minute)
		old := h.client
		w.account.Phone().RemoveDevice(w.device())
		w.await("it is logged out", func() bool { return h.status().WA == reconnect.StatusNeedsPairing })
		time.Sleep(time.Second)
		require.ErrorIs(t, h.m.Attach(whatsmeow.NewClient(old.Store, nil)), stability.ErrWrongDevice)
		h.forget()
		h.activate()
		require.NotSame(t, old, h.client)
		h.pair()
		_, err := w.say("again")
		require.NoError(t, err)
		w.await("the message", func() bool { return len(h.texts()) == 1 })
		require.EqualValues(t, 1, h.status().LeaseEpoch)
		h.finish()
	})
}

// A connection that does not go through the Manager's dialer has no fence; it
// must not look like one that has.
func TestByHandAConnectionAroundTheDialerIsNotReportedAsReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		h := w.byHand()
		h.self = true
		h.activate()
		h.pair()
		time.Sleep(2 * time.Minute)
		h.mute.Store(true)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return h.status().WA != reconnect.StatusConnected })
		time.Sleep(time.Second)
		h.client.SetWebsocketHTTPClient(&http.Client{Transport: w.sim.Transport("around")})
		require.NoError(t, h.client.Connect())
		time.Sleep(time.Minute)
		require.NotEqual(t, reconnect.StatusConnected, h.status().WA)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(time.Second)
		h.finish()
	})
}
