package stability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
)

// session is one term of the lock and everything that must not outlive it: the
// device, the client on it, the reconnect machine and the loop that acts.
// Fields below mu are guarded by Manager.mu.
type session struct {
	m        *Manager
	term     lock.Term
	cut      atomic.Pointer[error] // why nothing may be written to a socket any more; nil while it may
	flushing atomic.Bool           // the wire is cut for a hand-over, and the store may still be written
	wake     chan struct{}         // cap 1: look again at what there is to do
	done     chan struct{}         // closed when everything is torn down
	rush     context.Context       // ends when the graceful part of a stop is over
	now      context.CancelFunc

	loading chan struct{} // cap 1: one AuthState at a time
	asking  chan struct{} // cap 1: one PairPhone at a time

	monitor keepalive.Monitor
	wg      sync.WaitGroup // probes; waited for at the end

	// guarded by Manager.mu
	machine   *reconnect.Machine
	device    *store.Device // nil until AuthState, and after a logout
	read      bool          // a device was read in this term: the store knows what it holds
	gone      bool          // the service ended the session of the device before
	deleted   bool          // device was deleted in the store: it must not be used again
	own       types.JID     // the account's own address; empty while not paired
	paired    bool          // what device is; whatsmeow's own field must not be read once it runs
	slot      *slot         // the present client; nil before Attach
	parked    bool          // nothing is offered until somebody asks
	rounds    int           // sets of codes offered since somebody asked, and attempts at it that failed
	offerAt   time.Time     // no client may ask for codes before
	dirty     bool          // the machine's state is newer than what is saved
	saveAt    time.Time     // when to try to save again after an error
	saves     func() time.Duration
	stopSave  context.CancelFunc // ends a save that is under way; nil while none is
	healing   autoheal.Verdict
	healAt    time.Time // a loop is to be broken
	looping   bool      // it is being broken
	repair    bool      // the next connection fetches the whole app state again
	slowUntil time.Time // no attempt before: the budget of restarts is spent
	crashed   bool      // the term before this one was not handed over
	ending    bool
	graceful  bool
	cause     error // why it ends
}

func newSession(m *Manager, t lock.Term, st reconnect.State) *session {
	s := &session{
		m:       m,
		term:    t,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		loading: make(chan struct{}, 1),
		asking:  make(chan struct{}, 1),
		machine: reconnect.NewMachine(m.cfg.policy, st, rand.Float64),
		saves:   m.retryPause(),
		monitor: keepalive.New(m.cfg.keepalive),
		crashed: st.Status == reconnect.StatusConnected || len(st.Restarts) > 0 && time.Since(st.Restarts[len(st.Restarts)-1]) < time.Minute,
	}
	// After a ban nobody wants to be asked for a scan by every new process.
	s.parked = s.machine.Resume(time.Now()).Action == reconnect.ActionStop
	s.rush, s.now = context.WithCancel(context.Background())
	return s
}

// poke makes the loop look again. It never blocks.
func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// watch cuts the wire at the very moment the term ends, whatever the loop is
// waiting for.
func (s *session) watch() {
	select {
	case <-s.term.Lost():
		s.sever(fmt.Errorf("%w: %w", ErrTermOver, lock.Cause(s.term)))
	case <-s.done:
	}
}

// mayWrite is the wire fence: it is asked before every write on a socket.
func (s *session) mayWrite() error {
	if cause := s.cut.Load(); cause != nil {
		return *cause
	}
	if !s.term.Held() {
		return errPaused
	}
	return nil
}

// errPaused is the cause of a cut when the process woke up and nobody knows yet
// whether the lease outlived its sleep.
var errPaused = errors.New("stability: this process was paused and the lease is not confirmed yet")

// sever ends the term at once: when it returns nothing more goes out. It is
// called from store calls inside whatsmeow's handlers, so it must not wait.
func (s *session) sever(cause error) {
	s.cut.CompareAndSwap(nil, &cause)
	s.m.mu.Lock()
	var l *link.Link
	if s.slot != nil {
		l = s.slot.link
	}
	s.m.mu.Unlock()
	if l != nil {
		l.Cut(cause)
	}
	s.m.mu.Lock()
	if s.slot != nil {
		s.slot.endLocked(s.slot.conn, severCause(cause))
	}
	s.stopLocked(cause, false)
	s.m.mu.Unlock()
}

// severCause says for status and logs why a term was cut short.
func severCause(cause error) reconnect.Cause {
	c := reconnect.Cause{Reason: reconnect.ReasonStoreUnavailable, Detail: cause.Error(), Err: cause, Source: reconnect.SourceHost}
	if errors.Is(cause, ErrTermOver) || errors.Is(cause, lock.ErrLost) || errors.Is(cause, lock.ErrFenced) {
		c.Reason = reconnect.ReasonLockLost
	}
	if errors.Is(cause, errReplacedClient) {
		c.Reason = reconnect.ReasonIntentional
	}
	return c
}

// stopLocked makes the loop tear everything down and return.
func (s *session) stopLocked(cause error, graceful bool) {
	if s.ending {
		return
	}
	s.ending, s.graceful, s.cause = true, graceful, cause
	s.m.modeSince = time.Now() // nobody may use it from now on, however long the tear-down takes
	if s.stopSave != nil {
		s.stopSave() // the last save has a bound of its own
	}
	if s.slot != nil && s.slot.conn != nil {
		s.slot.conn.abort()
	}
	if sl := s.slot; sl != nil && sl.conn != nil && !sl.conn.returned && sl.conn.cancel != nil {
		sl.conn.cancel() // the loop is in the middle of an attempt
	}
	s.poke()
	s.m.broadcastLocked()
}

// hurry ends the graceful part of a stop.
func (s *session) hurry() { s.now() }

// fence is what a Device sees of its term.
type fence struct{ s *session }

func (f fence) Epoch() int64            { return f.s.term.Epoch() }
func (f fence) Held() bool              { return (f.s.cut.Load() == nil || f.s.flushing.Load()) && f.s.term.Held() }
func (f fence) TrustedUntil() time.Time { return f.s.term.TrustedUntil() }
func (f fence) Cut(cause error)         { f.s.sever(cause) }

// authState reads the device once; later calls return the same one until a
// logout or a failed pairing makes it useless.
func (s *session) authState(ctx context.Context) (*store.Device, error) {
	select {
	case s.loading <- struct{}{}:
		defer func() { <-s.loading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("stability: read the device: %w", context.Cause(ctx))
	}
	// The device of a session that has just ended is about to go.
	err := s.m.waitFor(ctx, func() (bool, error) {
		return s.ending || s.device == nil || !s.paired || s.machine.State().Status != reconnect.StatusNeedsPairing, nil
	})
	if err != nil {
		return nil, err
	}
	s.m.mu.Lock()
	d, ending := s.device, s.ending
	s.m.mu.Unlock()
	if ending {
		return nil, ErrNotActive
	}
	if d != nil {
		return d, nil
	}
	d, err = s.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("stability: read the device: %w", err)
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	d.Container = &container{DeviceContainer: d.Container, s: s}
	s.device, s.read, s.gone, s.paired, s.deleted = d, true, false, d.ID != nil, false
	switch status := s.machine.State().Status; {
	case s.paired:
		s.own = *d.ID
		if status == reconnect.StatusNeedsPairing { // restored, or imported
			s.machine.Paired(time.Now())
			s.dirty = true
		}
	case status != reconnect.StatusNeedsPairing:
		s.machine.NeedsPairing(reconnect.ReasonNone, time.Now())
		s.dirty = true
		s.m.eventLocked(Event{Kind: EventNeedsPairing})
	}
	s.poke()
	return d, nil
}

// container learns of the deletion of a device, by whomever: whatsmeow deletes
// it after a logout, and so does a host that calls its client's Logout.
type container struct {
	store.DeviceContainer
	s *session
}

// PutDevice may fill the device's stores in anew, its container included.
func (c *container) PutDevice(ctx context.Context, d *store.Device) error {
	err := c.DeviceContainer.PutDevice(ctx, d)
	if d.Container != c {
		d.Container = c
	}
	return err
}

func (c *container) DeleteDevice(ctx context.Context, d *store.Device) error {
	err := c.DeviceContainer.DeleteDevice(ctx, d)
	if err == nil {
		c.s.m.mu.Lock()
		defer c.s.m.mu.Unlock()
		if c.s.device == d {
			c.s.deleted = true
			switch sl := c.s.slot; {
			case sl == nil || c.s.ending:
			case sl.conn == nil:
				c.s.deletedLocked()
				if sl.auto {
					c.s.parkOrOfferLocked(sl, reconnect.ReasonLoggedOut, false)
				}
			case !sl.conn.ended:
				// whatsmeow deletes at the end of a session, and its reason is on
				// the way. Without one it was the host, and a connection that went
				// on would receive what nobody can decrypt.
				sl.conn.deadline = time.Now().Add(deletedGrace)
				c.s.poke()
			}
		}
	}
	return err
}

// deletedGrace is how long a connection may go on whose device was deleted.
const deletedGrace = time.Second

// deletedLocked follows a deletion that no cause explains: somebody called the
// client's own Logout. It may come after the connection's end.
func (s *session) deletedLocked() {
	if !s.deleted || s.device == nil {
		return
	}
	s.machine.NeedsPairing(reconnect.ReasonLoggedOut, time.Now())
	s.dirty = true
	s.dropDeviceLocked()
	if s.slot != nil {
		s.slot.retireLocked()
	}
	s.m.eventLocked(Event{Kind: EventNeedsPairing, Reason: reconnect.ReasonLoggedOut, Detail: "the host logged out"})
	s.poke()
}

// load reads the device. After the service ended a session its device must not
// come back: whatsmeow deletes it, unless it was cut short.
func (s *session) load(ctx context.Context) (*store.Device, error) {
	s.m.mu.Lock()
	gone := s.gone
	s.m.mu.Unlock()
	d, err := s.m.store.Device(ctx, fence{s})
	if err != nil || !gone || d.ID == nil {
		return d, err
	}
	if err := d.Delete(ctx); err != nil {
		return nil, fmt.Errorf("set the logged-out device aside: %w", err)
	}
	return s.m.store.Device(ctx, fence{s})
}

// loop is the one place that acts: it connects, ends connections, saves the
// state, and tears the term down. Whatever may take long in it is cut short by
// who ends the connection or the term, so a new cause never waits for it.
func (s *session) loop() {
	defer s.leave()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		act, until, down := s.next(time.Now())
		if act != nil {
			act()
			continue
		}
		if until.IsZero() {
			s.tearDown()
			return
		}
		timer.Reset(time.Until(until))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-down:
			s.m.mu.Lock()
			if s.slot != nil {
				s.slot.rawDownLocked()
			}
			s.m.mu.Unlock()
		}
	}
}

// leave ends the process behind a heal; else it only says that the term is over.
func (s *session) leave() {
	m := s.m
	m.mu.Lock()
	exiting := m.exiting
	m.mu.Unlock()
	close(s.done)
	if exiting == nil {
		return
	}
	m.lastWords()
	m.cfg.exit(1)
	// Only an exit of the host's own comes back: this instance goes on.
	m.mu.Lock()
	m.exiting = nil
	m.mu.Unlock()
	close(exiting)
}

// next says what to do now, or until when to wait for what. A zero time without
// an act means that the term is to be torn down. What is known is acted upon
// first; the state is saved before anything is begun that it should know of.
func (s *session) next(now time.Time) (act func(), until time.Time, down <-chan struct{}) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.ending {
		return nil, time.Time{}, nil
	}
	soonest := func(t time.Time) {
		if !t.IsZero() && (until.IsZero() || t.Before(until)) {
			until = t
		}
	}
	if !s.healAt.IsZero() {
		return s.heal, time.Time{}, nil
	}
	sl := s.slot
	if sl != nil && sl.conn == nil {
		sl.judgeLocked(now)
	}
	if sl != nil && sl.conn != nil {
		c := sl.conn
		switch {
		case c.ended:
			return func() { sl.end(c) }, time.Time{}, nil
		case c.link != nil && isClosed(c.link.Down()):
			return func() { s.m.mu.Lock(); sl.rawDownLocked(); s.m.mu.Unlock() }, time.Time{}, nil
		case !c.deadline.IsZero() && !now.Before(c.deadline):
			return func() { sl.expire(c) }, time.Time{}, nil
		}
		if code := sl.nextCodeLocked(now); code != nil {
			return code, time.Time{}, nil
		}
		s.settleLocked(now, soonest)
		check, again := sl.checkLocked(now)
		if check != nil {
			return check, time.Time{}, nil
		}
		soonest(again)
		soonest(c.deadline)
		soonest(sl.codeUntil)
		if c.link != nil {
			down = c.link.Down()
		}
	}
	if s.dirty {
		if !now.Before(s.saveAt) {
			return s.save, time.Time{}, nil
		}
		soonest(s.saveAt)
	}
	if sl != nil && sl.conn == nil && sl.planned && sl.connect != nil {
		switch at := sl.plannedAt; {
		case now.Before(at):
			soonest(at)
		case s.dirty: // what is not saved yet would be forgotten by a restart
		case !s.term.Held():
			// Paused, not lost: a renewal will tell.
			soonest(now.Add(pausePoll))
		default:
			return sl.attempt, time.Time{}, nil
		}
	}
	if until.IsZero() {
		until = now.Add(time.Hour)
	}
	return nil, until, down
}

// pausePoll is how often a paused term is looked at before an attempt.
const pausePoll = 100 * time.Millisecond

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// save writes the machine's state down. Until it worked no attempt begins: one
// that could not be recorded would be forgotten by a restart.
func (s *session) save() {
	s.m.mu.Lock()
	st := s.stamp(s.machine.State())
	s.dirty = false
	ctx, cancel := context.WithTimeout(s.rush, ioTimeout)
	s.stopSave = cancel
	s.m.mu.Unlock()

	err := s.m.cfg.backend.State.Save(ctx, s.term.Epoch(), st)
	cancel()

	switch {
	case err == nil:
		s.m.mu.Lock()
		s.saves = s.m.retryPause()
		s.saveAt = time.Time{}
		s.m.noteStoreLocked(nil)
		s.m.mu.Unlock()
	case errors.Is(err, reconnect.ErrFenced):
		s.sever(fmt.Errorf("%w: save the connection's state: %w", ErrTermOver, err))
	default:
		s.m.mu.Lock()
		s.dirty = true
		if !s.ending || !errors.Is(err, context.Canceled) { // else it was us
			s.saveAt = time.Now().Add(s.saves())
			s.m.noteStoreLocked(fmt.Errorf("save the connection's state: %w", err))
		}
		s.m.mu.Unlock()
	}
}

// settleLocked notes that a connection has proved stable, when that changes
// something: a status must not show the retries of a trouble that is over, nor
// a crash bring them back.
func (s *session) settleLocked(now time.Time, soonest func(time.Time)) {
	sl := s.slot
	if !sl.ready() {
		return
	}
	before := s.machine.State()
	if before.RetryCount == 0 && before.Failures == 0 && before.RestartStreak == 0 && before.BadSessionStreak == 0 &&
		before.FirstDisconnectReason == reconnect.ReasonNone {
		return
	}
	s.machine.Settle(now)
	if after := s.machine.State(); after.RetryCount != before.RetryCount || after.Failures != before.Failures ||
		after.FirstDisconnectReason != before.FirstDisconnectReason {
		s.dirty = true
		return
	}
	if at := before.ConnectedAt.Add(s.machine.Policy().StableAfter); at.After(now) {
		soonest(at)
	}
}

// stamp signs a state with who writes it and when.
func (s *session) stamp(st reconnect.State) reconnect.State {
	st.InstanceID = s.term.Record().Holder
	st.UpdatedAt = time.Now()
	if !st.NextRetryAt.IsZero() && st.NextRetryAt.Before(s.slowUntil) {
		st.NextRetryAt = s.slowUntil.Round(0).UTC()
	}
	return st
}

// confirmLock asks the lock who holds it, when the service says that somebody
// else uses the session.
func (s *session) confirmLock() {
	ctx, cancel := context.WithTimeout(s.rush, ioTimeout)
	defer cancel()
	rec, err := s.m.lock.Load(ctx)
	if err == nil && rec.Epoch > s.term.Epoch() {
		s.sever(fmt.Errorf("%w: %w: another instance holds the lock and has connected", ErrTermOver, lock.ErrLost))
	}
}

// tearDown hands over: no new work, running handlers finish within the budget,
// the store is flushed, the wire cut, the state saved, the lock released. What
// is pointless after a lost term is left out.
func (s *session) tearDown() {
	m := s.m
	m.mu.Lock()
	sl, graceful, cause := s.slot, s.graceful, s.cause
	if sl != nil {
		sl.refuse.Store(true)
	}
	m.mu.Unlock()

	budget, cancel := context.WithTimeout(s.rush, m.cfg.shutdown)
	if sl != nil {
		if graceful {
			sl.quiesce(budget)
		}
		sl.retire(budget, cause)
	}
	cancel()
	// Behind this point the socket is closed; only now other work may be late.
	// What the store has deferred may still be written: the term is held.
	s.flushing.Store(graceful)
	s.cut.CompareAndSwap(nil, &cause)

	s.endDevice(graceful)
	if graceful {
		s.saveLast()
	}
	s.awaitTwin(cause)
	twin := isClosed(s.term.Lost()) && errors.Is(lock.Cause(s.term), lock.ErrInstanceIDNotUnique)
	m.release(s.term)

	m.mu.Lock()
	m.sameID = m.sameID || twin
	m.last = s.machine.State()
	m.eventLocked(Event{Kind: EventDeactivated, Reason: deactivation(cause), Detail: cause.Error()})
	if deactivation(cause) == reconnect.ReasonStoreUnavailable {
		m.noteStoreLocked(cause)
	}
	m.session = nil
	if errors.Is(cause, errHealing) && !m.cfg.autoheal.InProcess {
		m.exiting = make(chan struct{})
	}
	m.broadcastLocked()
	m.mu.Unlock()
	s.now()
	s.wg.Wait()
	m.cfg.logger.Info("not active any more", "cause", cause)
}

// awaitTwin lets the lock itself find out that a process with our own id took
// it from us, before the term is given up here. Else it would be granted to us
// again at once, and the two would take it from each other without end.
func (s *session) awaitTwin(cause error) {
	if !errors.Is(cause, ErrTermOver) && !errors.Is(cause, lock.ErrFenced) || isClosed(s.term.Lost()) {
		return
	}
	ctx, cancel := context.WithDeadline(s.m.life, s.term.TrustedUntil())
	defer cancel()
	if rec, err := s.m.lock.Load(ctx); err != nil || rec.Holder != s.term.Record().Holder || rec.Epoch <= s.term.Epoch() {
		return
	}
	select {
	case <-s.term.Lost(): // by its next renewal
	case <-ctx.Done():
	}
}

// endDevice writes what the store has deferred, and ends the device with its
// term.
func (s *session) endDevice(graceful bool) {
	ctx, cancel := context.WithTimeout(context.Background(), s.m.cfg.shutdown)
	defer cancel()
	if err := s.m.store.EndTerm(ctx); err != nil && graceful {
		s.m.cfg.logger.Warn("not all contacts and names were written", "error", err)
	}
}

// saveLast saves what is unsaved, once.
func (s *session) saveLast() {
	s.m.mu.Lock()
	dirty, st := s.dirty, s.stamp(s.machine.State())
	s.m.mu.Unlock()
	if !dirty {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.m.cfg.shutdown)
	defer cancel()
	if err := s.m.cfg.backend.State.Save(ctx, s.term.Epoch(), st); err != nil {
		s.m.cfg.logger.Warn("the connection's state was not saved", "error", err)
	}
}

func deactivation(cause error) reconnect.Reason {
	if errors.Is(cause, ErrClosed) || errors.Is(cause, ErrStopping) || errors.Is(cause, errHealing) {
		return reconnect.ReasonIntentional
	}
	return severCause(cause).Reason
}
