package stability

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/signallog"
	core "github.com/wastability/wastability/stability/internal/term"
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

// pauses says whether the activation that has the turn stands by, pauses, or tries
// again what has failed: who does not want to wait need not hear the outcome.
type pauses struct {
	on     bool
	begins chan struct{} // closed and replaced when one begins
}

// outage is what is known of a backend that does not answer.
type outage struct {
	err     error     // why it does not; nil while it does
	since   time.Time // since when that counts here
	watched bool      // another instance held the lock then
	byLock  bool      // it is the lock that found out
	fails   int       // calls of the lock that failed in a row
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

// TryActivate takes the lock if it is free. true means that this instance is
// active: it may use AuthState, Attach and Connect. While active it answers
// true without I/O. A false means that another instance holds the lock, or
// that an Activate of this instance waits for it. It also means that this one
// gave it up because it could not connect, and does not ask again yet
// (Status.AsksAgainAt). While Run is running it only reports.
func (m *Manager) TryActivate(ctx context.Context) (bool, error) {
	t, err := m.current()
	if err != nil || t != nil {
		return t != nil, err
	}
	if m.isRunning() {
		return false, nil
	}
	m.byHand()
	t, err = m.activate(ctx, false)
	return t != nil, err
}

// Activate waits in standby until this instance holds the lock. It returns at
// once while active. When this instance has given the lock up because it could
// not connect, it pauses first, so that another one can have it.
func (m *Manager) Activate(ctx context.Context) error {
	if m.isRunning() {
		return m.waitFor(ctx, func() (bool, error) { return m.term != nil && !m.term.core.Ending(), nil })
	}
	m.byHand()
	_, err := m.activate(ctx, true)
	return err
}

// byHand notes that the account goes on by hand, whatever became of Run.
func (m *Manager) byHand() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs.ended, m.runs.err = time.Time{}, nil
}

func (m *Manager) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs.on
}

// activate begins a term, or returns the present one. With wait it stands by
// for as long as it takes; without, nil means that another instance is active.
func (m *Manager) activate(ctx context.Context, wait bool) (*term, error) {
	ctx, cancel := m.untilClosing(ctx)
	defer cancel()
	if may, err := m.awaitTurn(ctx, wait); !may {
		return nil, err
	}
	defer func() { <-m.turn }()
	defer m.pausing(false)
	if t, may, err := m.awaitPast(ctx, wait); !may {
		return t, err
	}
	m.pausing(false)
	for pause := m.retryPause(); ; {
		t, err := m.take(ctx, wait)
		if err == nil {
			return t, nil
		}
		if err = m.awaitRetry(ctx, wait, err, pause); err != nil {
			return nil, err
		}
	}
}

// awaitPast waits until nothing of the past is in the way of a term: one that is
// being torn down, and the rest of an instance that gave the lock up. may is false
// where there is a term already, or none to be waited for.
func (m *Manager) awaitPast(ctx context.Context, wait bool) (t *term, may bool, err error) {
	if err := m.awaitPrevious(ctx); err != nil {
		return nil, false, err
	}
	m.watchIncidents()
	if t, err := m.current(); err != nil || t != nil {
		return t, false, err
	}
	may, err = m.awaitRest(ctx, wait)
	return nil, may, err
}

// awaitRetry waits behind a try that has failed; the error says that there is no
// other one.
func (m *Manager) awaitRetry(ctx context.Context, wait bool, err error, pause func() time.Duration) error {
	if ctx.Err() != nil {
		return m.ended(ctx)
	}
	if !wait || permanent(err) {
		return err
	}
	m.noteStore(err)
	m.pausing(true)
	if !sleep(ctx, pause()) {
		return m.ended(ctx)
	}
	return nil
}

// pausing notes whether the activation that has the turn stands by, pauses, or
// tries again what has failed.
func (m *Manager) pausing(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if on && !m.pauses.on {
		close(m.pauses.begins)
		m.pauses.begins = make(chan struct{})
	}
	m.pauses.on = on
}

// awaitTurn waits until no other activation runs. Without wait it does not wait
// for one that stands by, pauses, or tries again what has failed.
func (m *Manager) awaitTurn(ctx context.Context, wait bool) (bool, error) {
	for {
		m.mu.Lock()
		pauses, down := m.pauses, m.outage.err
		m.mu.Unlock()
		select {
		case m.turn <- struct{}{}:
			return true, nil
		default:
		}
		switch {
		case wait:
			pauses.begins = nil
		case pauses.on && down != nil:
			return false, fmt.Errorf("stability: another Activate waits for the backend: %w", down)
		case pauses.on:
			return false, nil
		}
		select {
		case m.turn <- struct{}{}:
			return true, nil
		case <-pauses.begins:
		case <-ctx.Done():
			return false, m.ended(ctx)
		}
	}
}

// take asks for the lock once, then, with wait, stands by; without, nil means that
// another instance has it. With the lock the term begins.
func (m *Manager) take(ctx context.Context, wait bool) (*term, error) {
	hold, granted, err := m.lock.TryAcquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("stability: take the lock: %w", err)
	}
	if !granted {
		m.noteStore(nil)
		m.noteStandby()
		if !wait {
			return nil, nil
		}
		m.pausing(true)
		if hold, err = m.lock.Acquire(ctx); err != nil {
			return nil, fmt.Errorf("stability: wait for the lock: %w", err)
		}
	}
	m.pausing(false)
	return m.begin(ctx, hold)
}

// awaitPrevious waits until a term that is being torn down is gone, and a
// process that is being ended would be.
func (m *Manager) awaitPrevious(ctx context.Context) error {
	m.mu.Lock()
	t := m.term
	if t != nil && !t.core.Ending() {
		t = nil
	}
	m.mu.Unlock()
	if t == nil {
		return m.awaitExit(ctx)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return m.ended(ctx)
	}
	return m.awaitExit(ctx)
}

func (m *Manager) awaitExit(ctx context.Context) error {
	m.mu.Lock()
	exiting := m.exiting
	m.mu.Unlock()
	if exiting == nil {
		return nil
	}
	select {
	case <-exiting:
		return nil
	case <-ctx.Done():
		return m.ended(ctx)
	}
}

// begin reads what the last holder left behind and starts the term.
func (m *Manager) begin(ctx context.Context, hold lock.Term) (*term, error) {
	loadCtx, cancel := context.WithTimeout(ctx, ioTimeout)
	st, err := m.cfg.backend.State.Load(loadCtx)
	cancel()
	if err != nil {
		m.release(hold)
		return nil, fmt.Errorf("stability: read the connection's state: %w", err)
	}
	t := newTerm(m, hold, st)
	m.mu.Lock()
	now := time.Now()
	if !m.seat.take(granted, now) { // closed meanwhile
		m.mu.Unlock()
		m.release(hold)
		return nil, ErrClosed
	}
	m.seat.began(now, behindYield(st) || m.heir == hold)
	m.term, m.heir = t, nil
	t.possession().begins()
	if m.outage.watched { // it answered just now; if it cannot be written, this instance tells
		m.outage.watched, m.outage.since = false, now
	}
	if m.outage.err != nil { // a read proves little
		t.take(core.ProveStore{})
	}
	m.eventLocked(Event{Kind: EventActivated})
	m.mu.Unlock()
	m.cfg.logger.Info("active: this instance holds the lock", "epoch", hold.Epoch())
	go t.watch()
	t.tend()
	go t.loop()
	return t, nil
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
		m.cfg.logger.Warn("lock not released; it expires by itself", "error", err)
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
		m.logLocked(slog.LevelDebug, "incident begins", "incident", e.Incident)
	case EventIncidentResolved:
		m.logLocked(slog.LevelDebug, "incident is over", "incident", e.Incident)
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

// noteStore remembers whether the backend answers.
func (m *Manager) noteStore(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteStoreLocked(err)
}

// answered notes that the backend answered the incident loop. That ends an
// outage only where nothing else would, because nobody asks for the lock, and only
// if the lock answers too: it may be in another backend. A refusal stands until
// the next activation shows that it is mended.
func (m *Manager) answered() {
	m.mu.Lock()
	stands := m.outageStands()
	m.mu.Unlock()
	if !stands {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), incidentTimeout)
	defer cancel()
	if _, err := m.lock.Load(ctx); err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.outageStands() {
		m.noteStoreLocked(nil)
	}
}

// outageStands reports whether an outage is known of which nobody would
// see the end. With mu held.
func (m *Manager) outageStands() bool {
	return m.outage.err != nil && !refuses(m.outage.err) && len(m.turn) == 0 && m.term == nil && !m.runs.on && m.seat.at != shut
}

func (m *Manager) noteStoreLocked(err error) {
	was := m.outage.err
	m.outage.err, m.outage.byLock, m.outage.watched = err, m.outage.byLock && err != nil, m.outage.watched && err != nil
	switch {
	case refuses(err) && !refuses(was):
		m.logLocked(slog.LevelError, "the backend refuses, and somebody must mend that; asking again until it no longer refuses", "backend", m.cfg.backend.Name, "error", err)
	case was == nil && err != nil:
		m.logLocked(slog.LevelWarn, "the backend does not answer; waiting for it", "backend", m.cfg.backend.Name, "error", err)
	case was != nil && err == nil:
		m.logLocked(slog.LevelInfo, "the backend answers again", "backend", m.cfg.backend.Name, "after", time.Since(m.outage.since))
	}
	switch {
	case was == nil && err != nil:
		m.outage.since, m.outage.watched = time.Now(), m.seat.at == standby
		m.eventLocked(Event{Kind: EventStoreDown, Reason: reconnect.ReasonStoreUnavailable, Detail: err.Error()})
	case was != nil && err == nil:
		m.eventLocked(Event{Kind: EventStoreUp})
	}
}

// refuses reports an error of the lock that no repetition cures by itself, but
// that a person may mend while this instance waits: a missing table, a grant.
func refuses(err error) bool {
	var p *backoff.PermanentError
	return errors.As(err, &p)
}

// ioTimeout bounds each single call to the backend that the Manager makes.
const ioTimeout = 10 * time.Second

// permanent reports an error of the backend that trying again will not cure.
func permanent(err error) bool {
	for _, target := range []error{
		authstore.ErrCorrupt, authstore.ErrNewerFormat, authstore.ErrTooLarge,
		authstore.ErrSealed, authstore.ErrNotSealed, authstore.ErrWrongKey, authstore.ErrOptions,
		reconnect.ErrNewerFormat, ErrUnusable, ErrClosed,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// retryPause yields the pauses between calls to a backend that does not
// answer: the first is InitialDelay, and none is longer than StoreRetry.
func (m *Manager) retryPause() func() time.Duration {
	p := m.cfg.policy.Defaults()
	next := min(p.InitialDelay, p.StoreRetry)
	return func() time.Duration {
		d := next
		next = min(2*next, p.StoreRetry)
		return d
	}
}

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
