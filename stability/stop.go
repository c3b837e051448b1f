package stability

import (
	"context"
	"errors"
	"time"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	core "github.com/wastability/wastability/stability/internal/term"
)

// leave ends the process behind a heal; else it only says that the term is over.
func (t *term) leave() {
	m := t.m
	m.mu.Lock()
	exiting := m.exiting
	m.mu.Unlock()
	close(t.done)
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

// tearDown hands over: no new work, running handlers finish within the budget,
// the store is flushed, the wire cut, the state saved, the lock released.
// Steps that are pointless after a lost term are left out.
func (t *term) tearDown() {
	m := t.m
	m.mu.Lock()
	a := t.client
	why, graceful := t.core.Why()
	cause := causeOf(why)
	if a != nil {
		a.refuse.Store(true)
	}
	m.mu.Unlock()

	budget, cancel := context.WithTimeout(t.patience, m.cfg.shutdown)
	if a != nil {
		if graceful {
			a.quiesce(budget)
			m.received.idle(budget)
		}
		a.retire(budget, cause)
	}
	cancel()
	// Behind this point the socket is closed; only now other work may be late.
	// Writes that the store has deferred may still be made: the term is held.
	t.flushing.Store(graceful)
	t.cutCause.CompareAndSwap(nil, &cause)

	if graceful {
		m.received.lastPayment(t.overtime)
		m.received.unmark(budget)
	}
	t.endLastDevice(graceful)
	if graceful {
		t.saveLast()
	}
	t.awaitTwin(cause)
	twin := isClosed(t.hold.Lost()) && errors.Is(lock.Cause(t.hold), lock.ErrInstanceIDNotUnique)
	var heir lock.Term
	if m.healKeeps(t) {
		heir = m.succeed(t.hold)
	} else {
		m.release(t.hold)
	}
	t.possession().ends()

	m.mu.Lock()
	m.seat.twin = m.seat.twin || twin
	m.last = t.core.State()
	reason := deactivation(cause)
	if why.Unfit || why.Healing && m.healYields(t.core) {
		m.gaveUp(m.last)
	}
	if why.Unfit {
		reason = m.last.LastDisconnectReason
	}
	if heir != nil {
		reason = m.last.LastDisconnectReason
		m.bequeath(heir)
	}
	m.eventLocked(Event{Kind: EventDeactivated, Reason: reason, Detail: cause.Error(), Kept: heir != nil})
	if deactivation(cause) == reconnect.ReasonStoreUnavailable {
		m.noteStoreLocked(cause)
	}
	t.take(core.TornDown{})
	m.term = nil
	m.seat.take(tornDown, time.Now())
	m.received.leave()
	if why.Healing && !m.cfg.autoheal.InProcess {
		m.exiting = make(chan struct{})
	}
	m.broadcastLocked()
	m.mu.Unlock()
	t.hurry()
	t.tending.end()
	m.received.wake.leave(t.tending)
	t.wg.Wait()
	m.cfg.logger.Info("not active any more", "cause", cause)
}

// awaitTwin lets the lock itself find out that a process with our own id took
// it from us, before the term is given up here. Else it would be granted to us
// again at once, and the two would take it from each other without end.
func (t *term) awaitTwin(cause error) {
	if !errors.Is(cause, ErrTermOver) && !errors.Is(cause, lock.ErrFenced) || isClosed(t.hold.Lost()) {
		return
	}
	ctx, cancel := context.WithDeadline(t.m.life, t.hold.TrustedUntil())
	defer cancel()
	if rec, err := t.m.lock.Load(ctx); err != nil || rec.Holder != t.hold.Record().Holder || rec.Epoch <= t.hold.Epoch() {
		return
	}
	select {
	case <-t.hold.Lost(): // by its next renewal
	case <-ctx.Done():
	}
}

// endLastDevice is endDevice at the end of the term. A device that is being read at that
// moment is waited for, within the budget of a hand-over: it would outlive its term.
func (t *term) endLastDevice(graceful bool) {
	overdue, stop := t.overdue()
	defer stop()
	select {
	case t.loading <- struct{}{}:
		defer func() { <-t.loading }()
	case <-overdue.Done():
	}
	t.endDevice(graceful)
}

// endDevice writes what the store has deferred, and ends the device with its
// term.
func (t *term) endDevice(graceful bool) {
	ctx, cancel := context.WithTimeout(context.Background(), t.m.cfg.shutdown)
	defer cancel()
	if err := t.m.store.EndTerm(ctx); err != nil && graceful {
		t.m.cfg.logger.Warn("not all contacts and names were written", "error", err)
	}
}

// saveLast saves what is unsaved, once.
func (t *term) saveLast() {
	t.m.mu.Lock()
	unsaved, st := t.core.Unsaved(), t.sign(t.core.State())
	t.m.mu.Unlock()
	if !unsaved {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.m.cfg.shutdown)
	defer cancel()
	if err := t.m.cfg.backend.State.Save(ctx, t.hold.Epoch(), st); err != nil {
		t.m.cfg.logger.Warn("the connection's state was not saved", "error", err)
	}
}
