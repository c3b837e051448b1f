package stability

import (
	"context"
	"fmt"
	"time"

	"github.com/wastability/wastability/lock"
	core "github.com/wastability/wastability/stability/internal/term"
)

// pauses says whether the activation that has the turn stands by, pauses, or tries
// again what has failed: who does not want to wait need not hear the outcome.
type pauses struct {
	on     bool
	begins chan struct{} // closed and replaced when one begins
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
