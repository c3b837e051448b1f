package adminhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"
	"go.uber.org/goleak"

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

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // many small worlds
	goleak.VerifyTestMain(m)
}

// bubble runs f in virtual time; a watchdog outside notices when that stops.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(5*time.Minute, func() {
		buf := make([]byte, 4<<20)
		fmt.Fprintf(os.Stderr, "%s: the virtual clock stopped\n%s\n", t.Name(), buf[:runtime.Stack(buf, true)])
		os.Exit(2)
	})
	defer watchdog.Stop()
	synctest.Test(t, f)
}

const token = "0123456789abcdef"

// place is a simulated service, one account and one instance that looks after
// it, with its handler.
type place struct {
	t       testing.TB
	sim     *wasim.Service
	account *wasim.Account
	memory  *memorybackend.Memory
	open    func() stability.Backend // what the next Manager is made on
	backend stability.Backend        // of the Manager, without what watches it
	m       *stability.Manager
	h       *adminhttp.Handler
	codes   chan stability.QR
	block   atomic.Pointer[chan struct{}] // the host's message handler waits for it
	panics  atomic.Pointer[string]        // the host's message handler panics with it
	refuses atomic.Bool                   // the host's message handler takes none
	calm    atomic.Bool                   // calls of the backend fail the test
	broken  atomic.Bool                   // calls of the backend fail
	hang    atomic.Bool                   // calls of the store never return by themselves
	hung    atomic.Int32                  // calls that did so
	fault   atomic.Pointer[error]         // what commits of the store answer
	said    string                        // what a broken backend says besides
	rough   bool                          // the login after pairing took more than one attempt
	cancel  context.CancelFunc
	result  chan error
	seen    // what the harness sees of the instance, whatever that says
}

// newPlace makes an instance that does not run yet. Delays have no jitter.
func newPlace(t testing.TB, opts ...stability.Option) *place {
	// A little longer than the Manager offers a code, so that it is first.
	sim := wasim.New(wasim.WithTB(t), wasim.WithFewKeys(), wasim.WithQRLifetime(61*time.Second, 21*time.Second))
	p := &place{t: t, sim: sim, memory: memorybackend.New()}
	p.open = p.memory.Backend
	p.account = p.sim.NewAccount("491520000001")
	p.make(opts...)
	return p
}

func (p *place) make(opts ...stability.Option) {
	p.codes, p.result = make(chan stability.QR, 64), make(chan error, 1)
	p.backend = p.open()
	b := p.backend
	b.Lock, b.Auth = watchedLock{b.Lock, p}, watchedKV{b.Auth, p}
	b.State, b.Incidents = watchedState{b.State, p}, watchedIncidents{b.Incidents, p}
	m, err := stability.New(append([]stability.Option{
		stability.WithBackend(b), stability.WithTransport(p.watched(p.sim.Transport())), stability.WithInstanceID("wa-1"),
		stability.WithLogger(silent()),
		stability.WithReconnect(reconnect.Policy{Jitter: reconnect.NoJitter, StartJitter: time.Nanosecond, YieldAfter: reconnect.NoYield}),
		stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		stability.WithQR(func(q stability.QR) { p.codes <- q }),
	}, opts...)...)
	require.NoError(p.t, err)
	p.m = m
	p.h, err = adminhttp.New(m, adminhttp.WithToken(token))
	require.NoError(p.t, err)
	p.t.Cleanup(p.stop)
}

func (p *place) stop() {
	p.calm.Store(false)
	p.broken.Store(false)
	p.hang.Store(false)
	p.fault.Store(nil)
	if b := p.block.Swap(nil); b != nil {
		close(*b)
	}
	if p.cancel != nil {
		p.cancel()
		<-p.result
		p.cancel = nil
	}
	_ = p.m.Close(context.Background())
}

func (p *place) run() *place {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() {
		p.result <- p.m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.ManualHistorySyncDownload = true
			c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
				if _, ok := evt.(*events.Message); ok {
					if why := p.panics.Load(); why != nil {
						panic(*why)
					}
					if b := p.block.Load(); b != nil {
						p.note(&p.blocked)
						<-*b
					}
					if p.refuses.Load() {
						return false
					}
					p.took.Add(1)
				}
				return true
			})
			return nil
		})
	}()
	return p
}

// pair scans the next code and waits for the connection.
func (p *place) pair() *place {
	p.t.Helper()
	require.NoError(p.t, p.account.Phone().Scan((<-p.codes).Code))
	p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
	p.device = p.account.Devices()[0]
	p.rough = p.m.Status().LastDisconnectReason != reconnect.ReasonRestartRequired
	return p
}

// await looks after each change, at full hundredths of a second, and else ten
// times a second.
func (p *place) await(cond func(stability.Status) bool) {
	p.t.Helper()
	const grid = 10 * time.Millisecond
	start := time.Now()
	for {
		changed := p.m.Changed()
		if cond(p.m.Status()) {
			return
		}
		require.Less(p.t, time.Since(start), 2*time.Hour, "%+v", p.m.Status())
		select {
		case <-changed:
		case <-time.After(100*time.Millisecond - grid):
		}
		time.Sleep(grid - time.Since(start)%grid)
	}
}

// req is one request; with the token unless header says otherwise.
func (p *place) req(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set(adminhttp.TokenHeader, token)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w
}

func (p *place) get(path string, header ...string) *httptest.ResponseRecorder {
	return p.req(http.MethodGet, path, "", header...)
}

func (p *place) pairPhone(body string) *httptest.ResponseRecorder {
	return p.req(http.MethodPost, "/api/whatsapp/pair", body, "Content-Type", "application/json")
}

// answer checks the code and the shape of an answer and returns it.
func (p *place) answer(w *httptest.ResponseRecorder, code int) map[string]any {
	p.t.Helper()
	require.Equal(p.t, code, w.Code, w.Body.String())
	var v map[string]any
	require.NoError(p.t, json.Unmarshal(w.Body.Bytes(), &v), w.Body.String())
	require.Equal(p.t, code < 300, v["success"])
	if code >= 400 && v["error"] != nil {
		require.NotEmpty(p.t, v["message"])
	}
	return v
}

var errNoRoute = errors.New("no route to the backend")

func (p *place) call(name string) error {
	p.calls.Add(1)
	if p.calm.Load() {
		p.t.Errorf("the backend was called: %s", name)
	}
	if p.broken.Load() {
		return fmt.Errorf("%s: %w%s", name, errNoRoute, p.said)
	}
	return nil
}

// watchedLock and watchedKV see every call of the lock and of the store.
type watchedLock struct {
	lock.Store
	p *place
}

func (l watchedLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	l.p.note(&l.p.asked)
	if err := l.p.call("acquire"); err != nil {
		return lock.Record{}, false, err
	}
	rec, granted, err := l.Store.Acquire(ctx, holder, nonce, lease)
	if granted {
		l.p.note(&l.p.granted)
	}
	return rec, granted, err
}

func (l watchedLock) Release(ctx context.Context, held lock.Record) error {
	l.p.note(&l.p.released)
	return l.Store.Release(ctx, held)
}

func (l watchedLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	if err := l.p.call("renew"); err != nil {
		return lock.Record{}, err
	}
	return l.Store.Renew(ctx, held)
}

func (l watchedLock) Load(ctx context.Context) (lock.Record, error) {
	if err := l.p.call("load lock"); err != nil {
		return lock.Record{}, err
	}
	return l.Store.Load(ctx)
}

type watchedKV struct {
	authstore.KV
	p *place
}

func (k watchedKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	if k.p.hang.Load() {
		k.p.hung.Add(1)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if err := k.p.call("get"); err != nil {
		return nil, err
	}
	return k.KV.Get(ctx, keys...)
}

func (k watchedKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	if err := k.p.call("scan"); err != nil {
		return func(yield func(authstore.Entry, error) bool) { yield(authstore.Entry{}, err) }
	}
	return k.KV.Scan(ctx, kind, prefix)
}

func (k watchedKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := ctx.Err(); err != nil { // as every backend does that has a network
		return err
	}
	if fault := k.p.fault.Load(); fault != nil {
		return *fault
	}
	if err := k.p.call("commit"); err != nil {
		return err
	}
	return k.KV.Commit(ctx, epoch, b)
}

type watchedState struct {
	reconnect.StateStore
	p *place
}

func (s watchedState) Load(ctx context.Context) (reconnect.State, error) {
	if err := s.p.call("load state"); err != nil {
		return reconnect.State{}, err
	}
	return s.StateStore.Load(ctx)
}

func (s watchedState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if err := s.p.call("save state"); err != nil {
		return err
	}
	return s.StateStore.Save(ctx, epoch, st)
}

type watchedIncidents struct {
	guard.IncidentStore
	p *place
}

func (i watchedIncidents) List(ctx context.Context) ([]guard.Incident, error) {
	if err := i.p.call("list incidents"); err != nil {
		return nil, err
	}
	return i.IncidentStore.List(ctx)
}

func (i watchedIncidents) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if err := i.p.call("raise"); err != nil {
		return guard.Incident{}, false, err
	}
	return i.IncidentStore.Raise(ctx, inc)
}

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func quietBackend() stability.Backend { return memorybackend.New().Backend() }
