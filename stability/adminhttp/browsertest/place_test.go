package browsertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const token = "0123456789abcdef"

// place is a simulated service, one account, one instance that looks after it,
// and a server with its page.
type place struct {
	t       *testing.T
	sim     *wasim.Service
	account *wasim.Account
	memory  *memorybackend.Memory
	m       *stability.Manager
	url     string // of the page, with a slash at its end
	server  *httptest.Server
	gate    atomic.Pointer[chan struct{}] // streams of events begin when it is closed, and tell of no change
	codes   chan stability.QR
	broken  *atomic.Bool  // the backend does not answer this instance
	refuse  atomic.Bool   // the program refuses messages
	hang    chan struct{} // the program's handler waits for it, if it is not nil
	setup   func() error  // of Run
	cancel  context.CancelFunc
	result  chan error
}

// policy has long pauses, so that a state stays until it has been looked at.
func policy() reconnect.Policy {
	return reconnect.Policy{Jitter: reconnect.NoJitter, StartJitter: time.Nanosecond, InitialDelay: 40 * time.Second, YieldAfter: reconnect.NoYield}
}

// newPlace makes an instance that does not run yet.
func newPlace(t *testing.T, opts ...stability.Option) *place {
	p := &place{t: t, sim: wasim.New(wasim.WithTB(t), wasim.WithFewKeys()), memory: memorybackend.New()}
	p.account = p.sim.NewAccount("491520000001")
	return p.make(opts...)
}

// another is a further instance of the same account.
func (p *place) another(opts ...stability.Option) *place {
	q := &place{t: p.t, sim: p.sim, account: p.account, memory: p.memory}
	return q.make(append([]stability.Option{stability.WithInstanceID("wa-2")}, opts...)...)
}

func (p *place) make(opts ...stability.Option) *place {
	p.codes, p.result, p.broken = make(chan stability.QR, 64), make(chan error, 1), new(atomic.Bool)
	b := p.memory.Backend()
	b.Lock, b.Auth, b.State, b.Incidents = frailLock{b.Lock, p.broken}, frailKV{b.Auth, p.broken}, frailState{b.State, p.broken}, frailIncidents{b.Incidents, p.broken}
	m, err := stability.New(append([]stability.Option{
		stability.WithBackend(b), stability.WithTransport(p.sim.Transport()), stability.WithInstanceID("wa-1"),
		stability.WithLogger(slog.New(slog.DiscardHandler)), stability.WithReconnect(policy()),
		stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		stability.WithQR(func(q stability.QR) { p.codes <- q }),
	}, opts...)...)
	require.NoError(p.t, err)
	p.m = m
	h, err := adminhttp.New(m, adminhttp.WithToken(token))
	require.NoError(p.t, err)
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", h)) // as a program does that serves more
	mux.HandleFunc("/admin/events", func(w http.ResponseWriter, r *http.Request) {
		if gate := p.gate.Load(); gate != nil {
			select {
			case <-*gate:
				w = deaf{w}
			case <-r.Context().Done():
				return
			}
		}
		http.StripPrefix("/admin", h).ServeHTTP(w, r)
	})
	p.server = httptest.NewServer(mux)
	p.url = p.server.URL + "/admin/"
	p.t.Cleanup(func() {
		p.stop()
		p.gone()
	})
	return p
}

func (p *place) run() *place {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() {
		p.result <- p.m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.ManualHistorySyncDownload = true
			c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
				if _, ok := evt.(*events.Message); !ok {
					return true
				}
				if p.hang != nil {
					<-p.hang
				}
				return !p.refuse.Load()
			})
			if p.setup != nil {
				return p.setup()
			}
			return nil
		})
	}()
	return p
}

// stop ends Run and closes the Manager; more than once if need be.
func (p *place) stop() {
	p.broken.Store(false)
	if p.cancel != nil {
		p.cancel()
		<-p.result
		p.cancel = nil
	}
	_ = p.m.Close(context.Background())
}

// gone ends the server of the page.
func (p *place) gone() {
	p.server.Listener.Close()
	p.server.CloseClientConnections()
	p.server.Close()
}

// pair scans the next code and waits for the connection.
func (p *place) pair() *place {
	p.t.Helper()
	require.NoError(p.t, p.account.Phone().Scan((<-p.codes).Code))
	p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
	return p
}

// logOut has the phone remove the device, and waits until nobody is asked to
// link it anew.
func (p *place) logOut() {
	p.t.Helper()
	p.sim.Fault(wasim.DeviceRemoved()).For(p.account.JID()).Now()
	p.await(func(st stability.Status) bool { return st.Parked })
	p.awaitSetAside(time.Time{})
}

// awaitSetAside waits until a session deleted after this moment is set aside:
// whatsmeow tells of the end of a session while it still deletes it.
func (p *place) awaitSetAside(after time.Time) {
	p.t.Helper()
	p.await(func(stability.Status) bool {
		q, err := p.m.Quarantine(p.t.Context())
		require.NoError(p.t, err)
		return q.Device != nil && q.Device.At.After(after)
	})
}

// damage writes an encryption state with this peer that nobody can read.
func (p *place) damage(peer string) {
	p.t.Helper()
	kv := p.memory.Backend().Auth
	for e, err := range kv.Scan(p.t.Context(), "device", "") {
		require.NoError(p.t, err)
		generation, _, _ := strings.Cut(e.Key.ID, "/")
		require.NoError(p.t, kv.Commit(p.t.Context(), p.m.Status().LeaseEpoch, authstore.Batch{Put: []authstore.Entry{
			{Key: authstore.Key{Kind: "session", ID: generation + "/" + peer}, Value: []byte("\x01\x00 damaged")},
		}}))
		return
	}
	require.Fail(p.t, "no device")
}

// await waits for a status. A change of it is told; what only passes with time
// is looked at now and then.
func (p *place) await(cond func(stability.Status) bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; {
		changed := p.m.Changed()
		if cond(p.m.Status()) {
			return
		}
		require.True(p.t, time.Now().Before(end), "%+v", p.m.Status())
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *place) disconnected(why reconnect.Reason) {
	p.t.Helper()
	p.await(func(st stability.Status) bool {
		return st.WA != reconnect.StatusConnected && st.LastDisconnectReason == why && !st.Connecting
	})
}

// answers are what status-now says to the questions of an operator.
type answers struct {
	NextStep, ReasonText, WhatToDo string
}

func (p *place) answers() answers {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodGet, p.url+"api/longrun/status-now", nil)
	require.NoError(p.t, err)
	r.Header.Set(adminhttp.TokenHeader, token)
	w, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer w.Body.Close()
	require.Equal(p.t, http.StatusOK, w.StatusCode)
	var doc struct{ WA answers }
	require.NoError(p.t, json.NewDecoder(w.Body).Decode(&doc))
	return doc.WA
}

// enter opens the page of somebody who is signed in already.
func (p *place) enter(b *tab) {
	b.t.Helper()
	b.enter(p.url)
}

func (b *tab) enter(url string) {
	b.t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	w, err := client.PostForm(url+"sign-in", neturl.Values{"token": {token}})
	require.NoError(b.t, err)
	require.NoError(b.t, w.Body.Close())
	require.Len(b.t, w.Cookies(), 1)
	c, yes := w.Cookies()[0], true
	call(b, network.SetCookie, network.SetCookieParams{Name: c.Name, Value: c.Value, URL: url, Path: c.Path, HTTPOnly: &yes, SameSite: network.CookieSameSiteStrict})
	b.open(url)
	require.True(b.t, b.signedIn())
}

// signIn opens the page and signs in through its form, as a person does.
func (p *place) signIn(b *tab) {
	b.t.Helper()
	b.open(p.url)
	b.give(token)
	b.await("that one is signed in", func() bool { return b.signedIn() })
}

// deaf swallows what a stream tells of changes.
type deaf struct{ http.ResponseWriter }

func (d deaf) Write(data []byte) (int, error) {
	if bytes.Contains(data, []byte("event: changed")) {
		return len(data), nil
	}
	return d.ResponseWriter.Write(data)
}

func (d deaf) Unwrap() http.ResponseWriter { return d.ResponseWriter }

var errGone = errors.New("no route to the backend")

// The frail ones do not answer while they are broken.
type frailLock struct {
	lock.Store
	broken *atomic.Bool
}

func (l frailLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	if l.broken.Load() {
		return lock.Record{}, false, errGone
	}
	return l.Store.Acquire(ctx, holder, nonce, lease)
}

func (l frailLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	if l.broken.Load() {
		return lock.Record{}, errGone
	}
	return l.Store.Renew(ctx, held)
}

func (l frailLock) Load(ctx context.Context) (lock.Record, error) {
	if l.broken.Load() {
		return lock.Record{}, errGone
	}
	return l.Store.Load(ctx)
}

type frailKV struct {
	authstore.KV
	broken *atomic.Bool
}

func (k frailKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	if k.broken.Load() {
		return nil, errGone
	}
	return k.KV.Get(ctx, keys...)
}

func (k frailKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	if k.broken.Load() {
		return func(yield func(authstore.Entry, error) bool) { yield(authstore.Entry{}, errGone) }
	}
	return k.KV.Scan(ctx, kind, prefix)
}

func (k frailKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if k.broken.Load() {
		return errGone
	}
	return k.KV.Commit(ctx, epoch, b)
}

type frailState struct {
	reconnect.StateStore
	broken *atomic.Bool
}

func (s frailState) Load(ctx context.Context) (reconnect.State, error) {
	if s.broken.Load() {
		return reconnect.State{}, errGone
	}
	return s.StateStore.Load(ctx)
}

func (s frailState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if s.broken.Load() {
		return errGone
	}
	return s.StateStore.Save(ctx, epoch, st)
}

type frailIncidents struct {
	guard.IncidentStore
	broken *atomic.Bool
}

func (i frailIncidents) List(ctx context.Context) ([]guard.Incident, error) {
	if i.broken.Load() {
		return nil, errGone
	}
	return i.IncidentStore.List(ctx)
}

func (i frailIncidents) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if i.broken.Load() {
		return guard.Incident{}, false, errGone
	}
	return i.IncidentStore.Raise(ctx, inc)
}
