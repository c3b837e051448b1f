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

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	core "github.com/wastability/wastability/stability/internal/term"
)

// term is one possession of the lock and everything that must not outlive it:
// the device, the client on it, and the loop that acts. Its core
// (internal/term), which is given evidence by note, decides what is to be done.
type term struct {
	m        *Manager
	hold     lock.Term
	cutCause atomic.Pointer[error] // why nothing may be written to a socket any more; nil while it may
	flushing atomic.Bool           // the wire is cut for a hand-over, and the store may still be written
	wake     bell                  // look again at what there is to do
	done     chan struct{}         // closed when everything is torn down
	patience context.Context       // ends when the graceful part of a stop is over
	hurry    context.CancelFunc    // ends it
	ends     context.Context       // ends when the term begins to
	endsNow  context.CancelFunc    // ends it
	overtime context.Context       // ends ShutdownTimeout after ends does, or when patience does

	loading   chan struct{} // cap 1: one AuthState at a time
	attaching chan struct{} // cap 1: one Attach at a time
	asking    chan struct{} // cap 1: one PairPhone at a time

	hostLogout atomic.Bool // the host has the device removed

	wg      sync.WaitGroup // what calls no host; waited for at the end
	tending *errand        // looks after the messages that wait

	// guarded by Manager.mu
	core     *core.Core
	device   *store.Device // nil until AuthState, and after a logout
	own      types.JID     // the account's own address; empty while not paired
	client   *attachment   // the present one; nil before Attach
	clients  int           // how many there were
	stopSave context.CancelFunc
	restored map[string]bool // settings of a client that were set back
}

func newTerm(m *Manager, hold lock.Term, st reconnect.State) *term {
	m.mu.Lock()
	again := m.seat.rest.own
	crashed := st.Status == reconnect.StatusConnected
	st = m.knownEnd(st)
	m.mu.Unlock()
	t := &term{
		m:       m,
		hold:    hold,
		wake:    newBell(),
		done:    make(chan struct{}),
		loading: make(chan struct{}, 1), attaching: make(chan struct{}, 1),
		asking: make(chan struct{}, 1),
		core: core.New(core.Config{
			Reconnect: m.cfg.policy, Keepalive: m.cfg.keepalive, Random: rand.Float64, Healer: m.healer,
			ConnectTimeout: m.cfg.connectTimeout, DialTimeout: dialBudget, PairingRounds: m.cfg.pairingRounds, OnRequest: m.cfg.pairOnRequest,
			DeletedGrace: deletedGrace, PausePoll: pausePoll,
			Holder: hold.Record().Holder, Again: again, Crashed: crashed, HealInProcess: m.cfg.autoheal.InProcess,
		}, st, time.Now()),
	}
	m.sends.newTerm()
	t.patience, t.hurry = context.WithCancel(context.Background())
	t.ends, t.endsNow = context.WithCancel(context.Background())
	overtime, over := context.WithCancel(t.patience)
	t.overtime = overtime
	context.AfterFunc(t.ends, func() {
		sleep(overtime, m.cfg.shutdown)
		over()
	})
	return t
}

// knownEnd is a state as it would have been saved, where the end of the connection
// in it was seen by this very Manager, which could not save it.
func (m *Manager) knownEnd(st reconnect.State) reconnect.State {
	own := m.last
	if st.Status != reconnect.StatusConnected || own.Status != reconnect.StatusDisconnected || !own.ConnectedAt.Equal(st.ConnectedAt) {
		return st
	}
	own.NextRetryAt = time.Time{} // it was for the term that is over
	return own
}

const (
	// dialBudget is how long dial, TLS, upgrade and handshake may take together
	// when the host connects by itself.
	dialBudget = time.Minute
	// deletedGrace is how long a connection may go on whose device was deleted.
	deletedGrace = time.Second
	// pausePoll is how often a paused term is looked at before an attempt.
	pausePoll = 100 * time.Millisecond
)

// watch cuts the wire at the very moment the term ends, whatever the loop is
// waiting for.
func (t *term) watch() {
	select {
	case <-t.hold.Lost():
		t.cut(fmt.Errorf("%w: %w", ErrTermOver, lock.Cause(t.hold)))
	case <-t.done:
	}
}

// mayWrite is the wire fence: it is asked before every write on a socket.
func (t *term) mayWrite() error {
	if cause := t.cutCause.Load(); cause != nil {
		return *cause
	}
	if !t.hold.Held() {
		return errPaused
	}
	return nil
}

// errPaused is the cause of a cut when the process woke up and nobody knows yet
// whether the lease outlived its sleep.
var errPaused = errors.New("stability: this process was paused and the lease is not confirmed yet")

// cut ends the term at once: when it returns nothing more goes out. It is
// called from store calls inside whatsmeow's handlers, so it must not wait.
func (t *term) cut(cause error) {
	t.cutCause.CompareAndSwap(nil, &cause)
	t.m.mu.Lock()
	a := t.client
	t.m.mu.Unlock()
	if a != nil {
		a.link.Cut(cause)
	}
	t.note(core.CutTerm{Why: why(cause), Cause: cutCause(cause)})
}

// stop makes the loop tear everything down and return.
func (t *term) stop(cause error) { t.note(core.Stop{Why: why(cause)}) }

// why is how the core is told of a cause for the end of a term.
func why(cause error) core.Why {
	return core.Why{
		Healing: errors.Is(cause, errHealing),
		Unfit:   errors.Is(cause, errUnfit),
		Yielded: errors.Is(cause, ErrClosed) || errors.Is(cause, ErrStopping) || errors.Is(cause, errHealing) || errors.Is(cause, errUnfit),
		Err:     cause,
	}
}

// cutCause says for status and logs why a term was cut short.
func cutCause(cause error) reconnect.Cause {
	c := reconnect.Cause{Reason: reconnect.ReasonStoreUnavailable, Detail: cause.Error(), Err: cause, Source: reconnect.SourceHost}
	if errors.Is(cause, ErrTermOver) || errors.Is(cause, lock.ErrLost) || errors.Is(cause, lock.ErrFenced) {
		c.Reason = reconnect.ReasonLockLost
	}
	if errors.Is(cause, errReplacedClient) {
		c.Reason = reconnect.ReasonIntentional
	}
	return c
}

func deactivation(cause error) reconnect.Reason {
	if why(cause).Yielded {
		return reconnect.ReasonHandedOver
	}
	return cutCause(cause).Reason
}

// fence is what a Device sees of its term.
type fence struct{ t *term }

func (f fence) Epoch() int64 { return f.t.hold.Epoch() }
func (f fence) Held() bool {
	return (f.t.cutCause.Load() == nil || f.t.flushing.Load()) && f.t.hold.Held()
}
func (f fence) TrustedUntil() time.Time { return f.t.hold.TrustedUntil() }
func (f fence) Cut(cause error)         { f.t.cut(cause) }

// with is ctx that ends with the term too.
func (t *term) with(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(t.ends, func() { cancel(ErrNotActive) })
	return ctx, func() { stop(); cancel(nil) }
}

// authState reads the device once; later calls return the same one until a
// logout or a failed pairing makes it useless.
func (t *term) authState(ctx context.Context) (*store.Device, error) {
	select {
	case t.loading <- struct{}{}:
		defer func() { <-t.loading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("stability: read the device: %w", context.Cause(ctx))
	}
	// A device that the service has just ended is about to go.
	err := t.m.waitFor(ctx, func() (bool, error) {
		return t.core.Ending() || t.device == nil || !t.core.Linked() || !t.core.Unpaired(), nil
	})
	if err != nil {
		return nil, err
	}
	t.m.mu.Lock()
	d, ending := t.device, t.core.Ending()
	t.m.mu.Unlock()
	if ending {
		return nil, ErrNotActive
	}
	if d != nil {
		return d, nil
	}
	ctx, done := t.with(ctx) // the end of the term waits for this
	defer done()
	d, err = t.load(ctx)
	if err == nil && d == nil {
		d, err = t.m.store.Device(ctx, fence{t})
	}
	if err != nil && t.ends.Err() != nil {
		return nil, fmt.Errorf("stability: read the device: %w: %w", ErrNotActive, err)
	}
	if err != nil {
		return nil, fmt.Errorf("stability: read the device: %w", err)
	}
	var own ownNames
	if d.ID != nil {
		own = ownNames{d.ID.User, d.GetLID().User}
	}
	if err := t.m.received.load(ctx, t.hold.Epoch(), own); err != nil {
		return nil, fmt.Errorf("stability: %w", err)
	}
	d.Container = &container{DeviceContainer: d.Container, t: t}
	t.noteWith(func() core.Evidence {
		t.device = d
		if d.ID != nil {
			t.own = *d.ID
		}
		return core.DeviceRead{Paired: d.ID != nil}
	})
	return d, nil
}

// load reads the device. One that the service has ended must not come back: whatsmeow
// deletes it, unless it was cut short. Then it is deleted here, and nil is returned.
func (t *term) load(ctx context.Context) (*store.Device, error) {
	t.m.mu.Lock()
	gone := t.core.Device() == core.Gone
	reason := t.core.State().LastDisconnectReason
	t.m.mu.Unlock()
	d, err := t.m.store.Device(ctx, fence{t})
	if err != nil || !gone || d.ID == nil {
		return d, err
	}
	t.m.store.SetDeleteReason(t.deleteReason(reason))
	if err := d.Delete(ctx); err != nil {
		return nil, fmt.Errorf("set the logged-out device aside: %w", err)
	}
	return nil, nil
}

// setAside makes sure that a device which the service has ended is set aside, and
// that the book of messages can be written, though nobody may ask for another device.
// It waits for the very end of the device's connection: until then whatsmeow may be at
// it.
func (t *term) setAside() {
	err := t.m.waitFor(t.patience, func() (bool, error) {
		number, _, _ := t.core.Conn()
		return number == 0 || t.core.Over() || t.core.Device() != core.Gone, nil
	})
	if err != nil {
		return
	}
	pause := t.m.retryPause()
	for session, book := false, false; ; { // whether it was told of them
		aside, err := t.setAsideNow()
		if err == nil || t.ends.Err() != nil {
			return
		}
		switch {
		case aside && !book:
			t.m.cfg.logger.Warn("the book of messages cannot be read after a logout; this is tried again", "error", err)
		case !aside && !session:
			t.m.cfg.logger.Warn("the session that the service ended is not set aside yet; this is tried again", "error", err)
		}
		session, book = session || !aside, book || aside
		if !sleep(t.ends, pause()) {
			return
		}
	}
}

// setAsideNow sets the session aside and reads the book. With an error, aside says
// whether the session was set aside all the same.
func (t *term) setAsideNow() (aside bool, err error) {
	// The load of a large device takes long: only the end of the term cuts it short.
	ctx := t.ends
	select {
	case t.loading <- struct{}{}: // nobody gets a device meanwhile
		defer func() { <-t.loading }()
	case <-ctx.Done():
		return false, fmt.Errorf("stability: set the logged-out device aside: %w", context.Cause(ctx))
	}
	t.m.mu.Lock()
	gone := t.core.Device() == core.Gone && !t.core.Ending()
	t.m.mu.Unlock()
	if !gone {
		return true, nil
	}
	// Nobody may ask for another device for days. The book of messages is written
	// through one, so the store has one that nobody is given.
	d, err := t.load(ctx)
	if aside = err == nil; aside && d == nil {
		_, err = t.m.store.Device(ctx, fence{t})
	}
	if err == nil {
		err = t.m.received.load(ctx, t.hold.Epoch(), ownNames{})
	}
	if err != nil {
		return aside, fmt.Errorf("stability: %w", err)
	}
	return true, nil
}

// loggedOut reports whether the service has ended the device: it delivers nothing again.
func (t *term) loggedOut() bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.core.Device() == core.Gone
}

// container learns of the deletion of a device, by whomever: whatsmeow deletes
// it after a logout, and so does a host that calls its client's Logout.
type container struct {
	store.DeviceContainer
	t *term
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
		c.t.noteWith(func() core.Evidence {
			if c.t.device != d {
				return nil
			}
			return core.DeviceDeleted{}
		})
	}
	return err
}

// confirmLock asks the lock who holds it, when the service says that somebody
// else uses the device.
func (t *term) confirmLock() {
	ctx, cancel := context.WithTimeout(t.patience, ioTimeout)
	defer cancel()
	rec, err := t.m.lock.Load(ctx)
	if err == nil && rec.Epoch > t.hold.Epoch() {
		t.cut(fmt.Errorf("%w: %w: another instance holds the lock and has connected", ErrTermOver, lock.ErrLost))
	}
}

// lostStore reports that the term is over because the store could not be
// written.
func (t *term) lostStore() bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	why, _ := t.core.Why()
	return t.core.Ending() && deactivation(causeOf(why)) == reconnect.ReasonStoreUnavailable
}

// causeOf is the error behind the end of a term.
func causeOf(w core.Why) error {
	switch {
	case w.Err == nil && w.Healing:
		return errHealing
	case w.Err == nil && w.Unfit:
		return errUnfit
	}
	return w.Err
}
