package stability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"

	core "github.com/wastability/wastability/stability/internal/term"
)

// errReplacedClient is the cause of a cut when a newer client of the same term
// takes an older one's place.
var errReplacedClient = errors.New("stability: a newer client took its place")

// Run does all of it. It waits in standby for the lock, makes the client on
// this account's device, and lets setup add handlers. It connects, offers
// codes to scan while the account is not paired, and reconnects as the
// decisions say. It steps down before its lease can expire, and stands by
// again. It returns nil when ctx ends, having handed the lock over; ErrClosed
// when Close ended it; setup's error; or an error that waiting cannot cure,
// such as damaged credentials.
//
// setup runs for each new client: once a term, and again after a logout. It
// may be nil. Its context ends when that client is of no more use. It must not
// connect the client. Run uses the same parts as the calls by hand, and only
// one of the two can be in charge: while it runs, Attach and NewClient return
// ErrRunning.
func (m *Manager) Run(ctx context.Context, setup func(context.Context, *whatsmeow.Client) error) (err error) {
	if err := m.runBegins(); err != nil {
		return err
	}
	err = errRunPanicked
	defer func() { m.runEnds(err) }()
	for pause := time.Duration(0); ; {
		t, failed := m.activate(ctx, true)
		if failed == nil {
			pause, failed = m.runTerm(ctx, t, setup, pause)
		}
		if failed != nil || m.life.Err() != nil || ctx.Err() != nil {
			return m.runError(ctx, failed)
		}
	}
}

// errRunPanicked is what status says of a Run that a panic of setup ended.
var errRunPanicked = errors.New("stability: setup panicked")

func (m *Manager) runBegins() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.seat.at == shut:
		return ErrClosed
	case m.runs.on:
		return ErrRunning
	}
	m.runs = running{on: true}
	return nil
}

func (m *Manager) runEnds(err error) {
	m.disinherit(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs.on, m.runs.ended = false, time.Now()
	if !errors.Is(err, ErrClosed) {
		m.runs.err = err
	}
	m.broadcastLocked()
}

// runError is what Run returns behind a term, or a try to begin one, that has failed, or
// when it is asked to end.
func (m *Manager) runError(ctx context.Context, failed error) error {
	switch {
	case m.life.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return nil
	}
	return failed
}

// runTerm looks after the account in one term, and pauses behind one that has lost
// its store soon, longer than before the term if the one before did too. It returns how
// long.
//
// A backend that answers and cannot keep what is received (a full disk) is no
// reason to log in as fast as that can be found out.
func (m *Manager) runTerm(ctx context.Context, t *term, setup func(context.Context, *whatsmeow.Client) error, pause time.Duration) (time.Duration, error) {
	began := time.Now()
	if err := m.runClients(ctx, t, setup); err != nil {
		return 0, err
	}
	policy := m.cfg.policy.Defaults()
	if !t.lostStore() || time.Since(began) > policy.StableAfter+storePatience {
		return 0, nil
	}
	pause = min(max(2*pause, policy.InitialDelay), policy.MaxDelay)
	waiting, cancel := m.untilClosing(ctx)
	defer cancel()
	sleep(waiting, pause)
	return pause, nil
}

// storePatience is how long authstore waits for a store before it gives the
// term up.
const storePatience = 30 * time.Second

// runClients looks after the account until the term ends. The term is torn down
// when it returns.
func (m *Manager) runClients(ctx context.Context, t *term, setup func(context.Context, *whatsmeow.Client) error) (err error) {
	defer func() {
		t.stop(ErrStopping)
		<-t.done
	}()
	for {
		if !m.awaitOffer(ctx, t) {
			return nil
		}
		d, err := m.awaitDevice(ctx, t)
		if d == nil {
			return err
		}
		if again, err := m.runClient(ctx, t, d, setup); err != nil || !again {
			return err
		}
	}
}

// runClient looks after one client. again means that another one is due.
func (m *Manager) runClient(ctx context.Context, t *term, d *store.Device, setup func(context.Context, *whatsmeow.Client) error) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := m.newClient(d)
	if err != nil {
		return false, err
	}
	a, err := t.attach(c, true)
	if err != nil {
		if errors.Is(err, ErrNotActive) || errors.Is(err, ErrWrongDevice) {
			return !errors.Is(err, ErrNotActive), nil
		}
		return false, err
	}
	if setup != nil {
		if err := m.setUp(ctx, t, func() error { return setup(ctx, c) }, cancel); err != nil {
			return false, err
		}
		if ctx.Err() != nil {
			return false, nil
		}
		a.keepSent() // setup may have set a callback of its own
	}
	t.noteWith(func() core.Evidence {
		a.connect = func(ctx context.Context) error {
			_, err := a.link.Connect(ctx)
			return err
		}
		return core.Ready{Client: a.number, Jitter: jitter(m.cfg.policy.Defaults().StartJitter)}
	})

	select {
	case <-a.life.Done():
		return true, nil
	case <-t.done:
	case <-ctx.Done():
	case <-m.life.Done():
	}
	return false, nil
}

// setUp runs the host's setup. One that blocks keeps nothing: when the term or
// Run is over its context ends, and it is waited for no longer than for other
// parts of a hand-over.
func (m *Manager) setUp(ctx context.Context, t *term, setup func() error, cancel context.CancelFunc) error {
	result := make(chan outcome, 1)
	go func() {
		o := outcome{err: errSetupLeft}
		defer func() {
			if o.panicked = recover(); o.panicked != nil {
				o.stack = debug.Stack()
			}
			result <- o
		}()
		o.err = setup()
	}()
	over := func(o outcome) error {
		switch {
		case o.panicked != nil: // Run's caller may recover it, as if setup ran in its own goroutine
			panic(fmt.Sprintf("%v [in setup]\n\n%s", o.panicked, o.stack))
		case o.err != nil:
			return fmt.Errorf("stability: setup: %w", o.err)
		}
		return nil
	}
	select {
	case o := <-result:
		return over(o)
	case <-ctx.Done():
	case <-t.done:
	case <-m.life.Done():
	}
	cancel()
	timer := time.NewTimer(m.cfg.shutdown)
	defer timer.Stop()
	select {
	case o := <-result:
		if errors.Is(o.err, context.Canceled) {
			return nil
		}
		return over(o)
	case <-timer.C:
		m.cfg.logger.Warn("setup did not return when its context ended; going on without it")
		return nil
	}
}

// outcome is how a setup ended.
type outcome struct {
	err      error
	panicked any
	stack    []byte
}

// errSetupLeft is the error of a setup or a connect function that ended its goroutine.
var errSetupLeft = errors.New("it did not return: it called runtime.Goexit, as a test's FailNow does")

// awaitDevice reads the device and goes on trying while the backend does not
// answer. A nil device without an error means that the term or ctx is over.
func (m *Manager) awaitDevice(ctx context.Context, t *term) (*store.Device, error) {
	for pause := m.retryPause(); ; {
		d, err := t.authState(ctx)
		switch {
		case err == nil:
			t.noteWith(func() core.Evidence {
				if m.outage.err == nil {
					return nil
				}
				return core.ProveStore{} // a read proves little
			})
			return d, nil
		case permanent(err):
			return nil, err
		case ctx.Err() != nil, errors.Is(err, ErrNotActive):
			return nil, nil
		}
		m.noteStore(err)
		timer := time.NewTimer(pause())
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-t.done:
		}
		timer.Stop()
		if ctx.Err() != nil || isClosed(t.done) {
			return nil, nil
		}
	}
}

// awaitOffer waits until a client may be made: at once, unless codes were
// offered in vain for long enough, or the account is one that a person must
// look at first; then until somebody asks. False means that it is over.
func (m *Manager) awaitOffer(ctx context.Context, t *term) bool {
	for {
		m.mu.Lock()
		parked, over, changed := t.core.Parked(), t.core.Ending(), m.changed
		m.mu.Unlock()
		if over {
			return false
		}
		if !parked {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// jitter is a random pause of up to d.
func jitter(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d) + 1)) }
