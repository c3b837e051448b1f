package stability_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// wire is one instance's way to its backend, which a test can cut, in whole or
// for some of the calls.
type wire struct {
	mu     sync.Mutex
	broken func(call string) error // nil: nothing is
	calls  map[string]int
	pause  time.Duration            // each commit takes that long
	slowed map[string]time.Duration // calls of these names take that long
}

var (
	errNoRoute = errors.New("no route to the backend")
	errHang    = errors.New("hang")
)

// fail makes the calls that which picks fail at once; hang makes them wait for
// their context.
func (w *wire) fail(which func(call string) bool) { w.breakWith(which, errNoRoute) }
func (w *wire) hang(which func(call string) bool) { w.breakWith(which, errHang) }

func (w *wire) breakWith(which func(string) bool, err error) {
	w.set(func(call string) error {
		if which(call) {
			return err
		}
		return nil
	})
}

// failOnce fails the n-th call of those that which picks, counted from now,
// and no other.
func (w *wire) failOnce(n int, which func(call string) bool) {
	w.set(func(call string) error {
		if which(call) {
			if n--; n == 0 {
				return errNoRoute
			}
		}
		return nil
	})
}

func (w *wire) heal() { w.set(nil) }

// slow makes each commit take d.
func (w *wire) slow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pause = d
}

// delay makes each call of that name take d.
func (w *wire) delay(call string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slowed = map[string]time.Duration{call: d}
}

func (w *wire) set(f func(string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = f
}

// count is how many calls of these names there were.
func (w *wire) count(calls ...string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range calls {
		n += w.calls[c]
	}
	return n
}

// pass is asked before every call.
func (w *wire) pass(ctx context.Context, call string) error {
	w.mu.Lock()
	w.calls[call]++
	var err error
	if w.broken != nil {
		err = w.broken(call)
	}
	pause, delay := w.pause, w.slowed[call]
	w.mu.Unlock()
	time.Sleep(delay)
	if call == "commit" {
		time.Sleep(pause)
	}
	if errors.Is(err, errHang) {
		<-ctx.Done()
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return nil
}

func anyCall(string) bool { return true }

func only(calls ...string) func(string) bool {
	return func(call string) bool { return slices.Contains(calls, call) }
}

// The calls of a backend, as wire names them.
var (
	lockCalls = only("acquire", "renew", "release", "load lock")
	readCalls = only("get", "scan", "load state")
)

// through puts a wire in front of a backend.
func through(b stability.Backend) (stability.Backend, *wire) {
	w := &wire{calls: map[string]int{}}
	b.Lock = wiredLock{b.Lock, w}
	b.Auth = wiredKV{b.Auth, w}
	b.State = wiredState{b.State, w}
	b.Incidents = wiredIncidents{b.Incidents, w}
	return b, w
}

type wiredLock struct {
	lock.Store
	w *wire
}

func (l wiredLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	if err := l.w.pass(ctx, "acquire"); err != nil {
		return lock.Record{}, false, err
	}
	return l.Store.Acquire(ctx, holder, nonce, lease)
}

func (l wiredLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	if err := l.w.pass(ctx, "renew"); err != nil {
		return lock.Record{}, err
	}
	return l.Store.Renew(ctx, held)
}

func (l wiredLock) Release(ctx context.Context, held lock.Record) error {
	if err := l.w.pass(ctx, "release"); err != nil {
		return err
	}
	return l.Store.Release(ctx, held)
}

func (l wiredLock) Load(ctx context.Context) (lock.Record, error) {
	if err := l.w.pass(ctx, "load lock"); err != nil {
		return lock.Record{}, err
	}
	return l.Store.Load(ctx)
}

func (l wiredLock) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	watcher := l.Store.(lock.Watcher)
	return func(yield func(lock.Record, error) bool) {
		for r, err := range watcher.Changes(ctx) {
			if broken := l.w.pass(ctx, "watch"); broken != nil {
				r, err = lock.Record{}, broken
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

type wiredKV struct {
	authstore.KV
	w *wire
}

func (k wiredKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	if err := k.w.pass(ctx, "get"); err != nil {
		return nil, err
	}
	return k.KV.Get(ctx, keys...)
}

func (k wiredKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		if err := k.w.pass(ctx, "scan"); err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		k.KV.Scan(ctx, kind, prefix)(yield)
	}
}

func (k wiredKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := k.w.pass(ctx, "commit"); err != nil {
		return err
	}
	return k.KV.Commit(ctx, epoch, b)
}

type wiredState struct {
	reconnect.StateStore
	w *wire
}

func (s wiredState) Load(ctx context.Context) (reconnect.State, error) {
	if err := s.w.pass(ctx, "load state"); err != nil {
		return reconnect.State{}, err
	}
	return s.StateStore.Load(ctx)
}

func (s wiredState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if err := s.w.pass(ctx, "save state"); err != nil {
		return err
	}
	return s.StateStore.Save(ctx, epoch, st)
}

type wiredIncidents struct {
	guard.IncidentStore
	w *wire
}

func (s wiredIncidents) Raise(ctx context.Context, i guard.Incident) (guard.Incident, bool, error) {
	if err := s.w.pass(ctx, "raise"); err != nil {
		return guard.Incident{}, false, err
	}
	return s.IncidentStore.Raise(ctx, i)
}

// lines records when each connection of a transport wrote its last byte and
// when it was closed, below everything of ours.
type lines struct {
	mu  sync.Mutex
	all []*line
}

type line struct {
	net.Conn
	l *lines
	lineTimes
}

type lineTimes struct {
	began, lastWrite, closed time.Time
	written                  int
}

// record wraps the dialer of a transport.
func (l *lines) record(t *http.Transport) *http.Transport {
	t = t.Clone()
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		n := &line{Conn: c, l: l, lineTimes: lineTimes{began: time.Now()}}
		l.mu.Lock()
		l.all = append(l.all, n)
		l.mu.Unlock()
		return n, nil
	}
	return t
}

func (n *line) Write(p []byte) (int, error) {
	m, err := n.Conn.Write(p)
	n.l.mu.Lock()
	defer n.l.mu.Unlock()
	if m > 0 {
		n.lastWrite, n.written = time.Now(), n.written+m
	}
	return m, err
}

func (n *line) Close() error {
	n.l.mu.Lock()
	if n.closed.IsZero() {
		n.closed = time.Now()
	}
	n.l.mu.Unlock()
	return n.Conn.Close()
}

// times tells of all connections, oldest first.
func (l *lines) times() []lineTimes {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []lineTimes
	for _, n := range l.all {
		out = append(out, n.lineTimes)
	}
	return out
}

// together is the longest time for which two connections were open at once, from
// the dial of each to its close by the client. A connection that is closed at the
// moment at which the next one is dialed is not beside it.
func (l *lines) together() (longest time.Duration) {
	all, now := l.times(), time.Now()
	for i, a := range all {
		for _, b := range all[:i] {
			begin, end := a.began, now
			for _, n := range []lineTimes{a, b} {
				if n.began.After(begin) {
					begin = n.began
				}
				if !n.closed.IsZero() && n.closed.Before(end) {
					end = n.closed
				}
			}
			longest = max(longest, end.Sub(begin))
		}
	}
	return longest
}

// named is an instance with a label at the service, a wire to its backend, and
// a record of its connections.
type named struct {
	*instance
	wire  *wire
	lines *lines
}

func (w *world) named(label string, opts ...stability.Option) *named {
	w.t.Helper()
	n := &named{instance: &instance{w: w, codes: make(chan stability.QR, 256), result: make(chan error, 1)}, lines: &lines{}}
	n.backend, n.wire = through(w.memory.Backend())
	log := &curious{Handler: logger().Handler(), tire: true}
	m, err := stability.New(append([]stability.Option{
		stability.WithBackend(n.backend), stability.WithLogger(slog.New(log)),
		stability.WithExit(func(int) { w.t.Errorf("the process would have ended to break a loop: %s", n.m.Status().Summary) }),
		stability.WithTransport(n.lines.record(w.sim.Transport(label))),
		stability.WithQR(func(q stability.QR) { n.codes <- q }),
		stability.WithObserver(func(e stability.Event) {
			n.mu.Lock()
			n.events = append(n.events, e)
			f := n.onChange
			n.mu.Unlock()
			if f != nil {
				f(e)
			}
		}),
	}, opts...)...)
	require.NoError(w.t, err)
	n.m = m
	log.m.Store(m)
	w.t.Cleanup(n.kill)
	return n
}

func (n *named) run() *named   { n.instance.run(); return n }
func (n *named) ready() *named { n.instance.ready(); return n }
func (n *named) pair() *named  { n.instance.pair(); return n }

// close ends what a bubble must not leave behind.
func (w *world) close() {
	if w.contact != nil {
		w.contact.Close()
	}
	w.sim.Close()
}

// flood sends stanzas to our newest device, if there is one.
func (w *world) flood(n int, every time.Duration) {
	if d := w.account.Devices(); len(d) > 0 {
		w.sim.Flood(d[len(d)-1].JID(), n, every)
	}
}

// listening is a world whose service is reached over TCP, in real time, by
// other processes too.
func listening(t *testing.T) *world {
	w := newWorld(t)
	require.NoError(t, w.sim.Listen())
	return w
}
