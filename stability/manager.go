package stability

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/signallog"
)

// Manager looks after the connection of one account. Make one with New. All
// methods are safe for concurrent use and may be called from inside a
// whatsmeow event handler, an observer or a QR callback.
type Manager struct {
	cfg       config
	lock      lock.Lock
	lease     *lock.Lease // nil with WithLock
	store     authstore.Store
	can       abilities
	notify    *notifier
	incidents *incidentLoop
	healer    autoheal.Healer
	clocks    clocks
	received  received
	sends     *sendBook
	counts    counts
	resends   resends

	version atomic.Pointer[store.WAVersionContainer] // looked up; nil while none was needed

	turn chan struct{}   // cap 1: one activation at a time
	life context.Context // ends when Close begins
	end  context.CancelFunc
	shut chan struct{} // closed when Close has finished

	mu      mutex     // guards what follows; never held across I/O, a callback or the host's log
	term    *term     // the present one; nil in standby
	heir    lock.Term // held already for the term that follows a heal; nil: none
	seat    seat
	pauses  pauses
	runs    running
	last    reconnect.State // of the last term, for Status between terms
	outage  outage          // of the backend
	watched bool            // the incident loop runs
	exiting chan struct{}   // closed when the exit function came back; nil while none was called
	changed chan struct{}   // closed and replaced at every transition
	heard   []*notifier     // of Observe
	damage  damage
	compat  compat
}

// running is what is known of Run.
type running struct {
	on    bool
	ended time.Time // when it returned last, unless the account went on by hand
	err   error     // of the last one
}

// clocks are the instants of the last message and of the last other event, in
// nanoseconds since base: the monotonic reading alone is the cheapest there is,
// and each event writes one of them only.
type clocks struct {
	base           time.Time
	message, other atomic.Int64
}

func (c *clocks) lastMessageAt() time.Time { return c.at(c.message.Load()) }

func (c *clocks) lastEventAt() time.Time { return c.at(max(c.message.Load(), c.other.Load())) }

func (c *clocks) at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return c.base.Add(time.Duration(n))
}

// New makes a Manager. It does no I/O. The error names every option that is
// wrong and says what to pass instead. Close it when done: that also closes
// the backend. If New fails the backend is the caller's to close.
func New(opts ...Option) (*Manager, error) {
	cfg := config{
		logger:         slog.Default(),
		connectTimeout: 30 * time.Second,
		shutdown:       5 * time.Second,
		makeClient:     whatsmeow.NewClient,
		pairingRounds:  5,
		pairingClient:  whatsmeow.PairClientChrome, pairingName: "Chrome (Linux)",
		exit: os.Exit,
	}
	for _, o := range opts {
		if o == nil {
			cfg.fail("a nil Option: leave it out")
			continue
		}
		o(&cfg)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	signallog.Silence()
	m := &Manager{
		cfg:     cfg,
		lock:    cfg.lock,
		store:   cfg.store,
		notify:  &notifier{observers: cfg.observers},
		turn:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		shut:    make(chan struct{}),
		pauses:  pauses{begins: make(chan struct{})},
	}
	m.cfg.backend = m.counts.metered(cfg.backend)
	m.clocks.base = time.Now()
	m.seat = seat{at: passive, since: m.clocks.base}
	m.life, m.end = context.WithCancel(context.Background())
	if m.lock == nil {
		lease, err := newLease(cfg, watchLock(cfg.backend.Lock, m))
		if err != nil {
			return nil, fmt.Errorf("stability: the lock (WithLockOptions, WithInstanceID): %w", err)
		}
		m.lock, m.lease = lease, lease
	}
	if m.store == nil {
		m.store = authstore.New(m.cfg.backend.Auth, append(cfg.authOptions(), authstore.WithOnIncident(m.noteDamage))...)
	}
	m.can = lookFor(m.store, m.lock, cfg.sinks)
	if lacks := m.can.lacking(); len(lacks) > 0 {
		cfg.logger.Warn("the store of WithAuthStore lacks optional interfaces of package authstore", "lacks", lacks)
	}
	m.received.m = m
	m.healer = autoheal.New(cfg.autoheal)
	m.sends = newSendBook(cfg.keepalive.Defaults(), m.clocks.base, &m.counts.sends)
	m.incidents = newIncidentLoop(m)
	return m, nil
}

func newLease(cfg config, store lock.Store) (*lock.Lease, error) {
	opts := append([]lock.Option{lock.WithLogger(cfg.logger)}, cfg.lockOptions...)
	return lock.New(store, cmp.Or(cfg.instanceID, lock.NewHolderID("wa")), opts...)
}

func (c *config) authOptions() []authstore.Option {
	opts := []authstore.Option{authstore.WithLogger(c.logger)}
	if c.aead != nil {
		opts = append(opts, authstore.WithAEAD(c.aead))
	}
	return append(opts, c.storeOptions...)
}

// current returns the present term, or nil. ErrClosed after Close.
func (m *Manager) current() (*term, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.seat.at == shut:
		return nil, ErrClosed
	case m.term == nil || m.term.core.Ending():
		return nil, nil
	}
	return m.term, nil
}

// require is current for callers that cannot do without a term.
func (m *Manager) require() (*term, error) {
	t, err := m.current()
	if err == nil && t == nil {
		err = ErrNotActive
	}
	return t, err
}

// watchIncidents lets the incidents be looked after, from the first activation on.
func (m *Manager) watchIncidents() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.watched && m.seat.at != shut {
		m.watched = true
		go m.incidents.run()
	}
}

// instanceID is how this instance is called in the lock.
func (m *Manager) instanceID() string {
	if m.lease != nil {
		return m.lease.Stats().Holder
	}
	if m.term != nil {
		return m.term.hold.Record().Holder
	}
	return ""
}

// release gives a term back, whatever became of the caller's context.
func (m *Manager) release(t lock.Term) {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.shutdown)
	defer cancel()
	if err := t.Release(ctx); err != nil {
		m.cfg.logger.Warn("the lock was not released; it expires by itself", "error", err)
	}
}

// AuthState returns this term's device: the paired one, or a new one that is
// not paired yet. It is read once a term, and made anew after a logout. An
// error never hides a device: nothing was created because a read failed.
// ErrNotActive without the lock.
func (m *Manager) AuthState(ctx context.Context) (*store.Device, error) {
	t, err := m.require()
	if err != nil {
		return nil, err
	}
	return t.authState(ctx)
}

// RecordEvent notes that the client emitted evt, which keeps the clocks of
// Status honest. Attach does it for the clients that it is given; only a host
// whose client is not attached calls it. It never blocks or allocates.
func (m *Manager) RecordEvent(evt any) {
	switch evt.(type) {
	case *events.KeepAliveTimeout, *events.Disconnected:
		return // whatsmeow's own words for silence: nothing came from the server
	}
	now := int64(time.Since(m.clocks.base)) | 1 // never zero: zero is never
	if _, ok := evt.(*events.Message); ok {
		m.clocks.message.Store(now)
	} else {
		m.clocks.other.Store(now)
	}
}

// Client returns the present client, or nil while there is none. It may not be
// connected: see WaitReady.
func (m *Manager) Client() *whatsmeow.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.term
	if t == nil || t.client == nil || t.core.Ending() && !t.client.ready() {
		return nil // while stepping down, handlers may still answer
	}
	return t.client.client
}

// Changed returns a channel that is closed at the next change of what Status
// says, clocks and counters aside. Take it before you look at Status, and then
// wait for it: no change is missed so, and several may come as one.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// WaitReady waits until a client is connected and logged in, and returns it.
func (m *Manager) WaitReady(ctx context.Context) (*whatsmeow.Client, error) {
	var c *whatsmeow.Client
	err := m.waitFor(ctx, func() (bool, error) {
		if m.term == nil || m.term.client == nil || !m.term.client.ready() {
			return false, nil
		}
		c = m.term.client.client
		return true, nil
	})
	return c, err
}

// waitFor waits until cond, which runs under the lock, says yes or fails.
func (m *Manager) waitFor(ctx context.Context, cond func() (bool, error)) error {
	for {
		m.mu.Lock()
		if m.seat.at == shut {
			m.mu.Unlock()
			return ErrClosed
		}
		ok, err := cond()
		changed := m.changed
		m.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("stability: waiting: %w", context.Cause(ctx))
		}
	}
}

// damage is what the store has reported of rows that it could not use.
type damage struct {
	at   time.Time // the last one; zero when there was none, or it was dealt with
	rows int
	text string

	purged int64 // the epoch in which it was dealt with last
}

// noteDamage takes a report of the store's, which has logged it.
func (m *Manager) noteDamage(i authstore.Incident) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.damage.at = i.At
	m.damage.rows++
	m.damage.text = fmt.Sprintf("last one: %s, a row of kind %s", i.Kind, i.Row)
	m.broadcastLocked()
}

// eventLocked posts a transition and wakes who waits for one.
func (m *Manager) eventLocked(e Event) {
	e.Time = time.Now()
	if m.term != nil {
		e.Epoch = m.term.hold.Epoch()
	}
	e.Status = m.waStatus()
	m.counts.event(&e)
	m.logTransition(e)
	m.notify.post(e)
	for _, n := range m.heard {
		n.post(e)
	}
	m.broadcastLocked()
}

// logTransition writes the lines of those transitions that are not
// written where they happen, with more. docs/LOGS.md has the line of each. With mu
// held.
func (m *Manager) logTransition(e Event) {
	switch e.Kind {
	case EventConnecting:
		m.logLocked(slog.LevelDebug, "connecting", "attempt", e.Attempt)
	case EventQR:
		m.logLocked(slog.LevelDebug, "a code to scan is ready")
	case EventNeedsPairing:
		m.logLocked(slog.LevelInfo, "the account is not paired", "reason", e.Reason)
	case EventIncidentOpened:
		m.logLocked(slog.LevelDebug, "an incident begins", "incident", e.Incident)
	case EventIncidentResolved:
		m.logLocked(slog.LevelDebug, "an incident is over", "incident", e.Incident)
	case EventClosed:
		m.logLocked(slog.LevelDebug, "closed")
	}
}

func (m *Manager) broadcastLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) noteStandby() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.seat.take(refused, time.Now()) {
		return
	}
	m.logLocked(slog.LevelInfo, "standing by: another instance holds the lock")
	m.eventLocked(Event{Kind: EventStandby})
}

// ioTimeout bounds each single call to the backend that the Manager makes.
const ioTimeout = 10 * time.Second

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
