package stability

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	core "github.com/wastability/wastability/stability/internal/term"
)

// Giving the lock up: what is done around a term that ends because this
// instance cannot connect, and another one may. When it is due is decided in
// internal/term.

// errUnfit is the cause of a term's end when the lock is given up.
var errUnfit = errors.New("stability: this instance cannot connect: it gave the lock up, so that another one can try")

// yieldPause is how long this instance asks for the lock no more when it has
// given it up. Another instance that waits for the lock has taken it by then. It is never
// away for longer than until the next attempt is due.
const yieldPause = 30 * time.Second

// gaveUp begins the pause behind a term that was given up. With mu held.
func (m *Manager) gaveUp(st reconnect.State) {
	m.seat.rest.own = true
	pause := yieldPause
	if at := st.NextRetryAt; !at.IsZero() {
		pause = min(pause, time.Until(at))
	}
	m.seat.rest.until = time.Now().Add(pause)
}

// healYields reports whether the lock is given to others behind a heal: not
// for what they would meet as well.
func (m *Manager) healYields(t *core.Core) bool {
	_, cause, ended := t.End()
	return m.cfg.policy.YieldAfter != reconnect.NoYield && ended && !ofAccount(cause)
}

// healKeeps reports whether the lock stays here behind a heal: the reason would
// meet every holder, and the next term begins in this process.
func (m *Manager) healKeeps(t *term) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	why, graceful := t.core.Why()
	_, cause, ended := t.core.End()
	return why.Healing && graceful && ended && ofAccount(cause) && m.cfg.autoheal.InProcess && m.life.Err() == nil
}

// ofAccount reports whether every instance would meet that end.
func ofAccount(cause reconnect.Cause) bool {
	return !cause.OfInstance() && (cause.Reason.Class() != reconnect.ClassTransient || cause.Reason == reconnect.ReasonServiceUnavailable)
}

// succeed begins the next possession of the lock where the last one ends, so that
// nobody else can take it in between. nil: the lock was released.
func (m *Manager) succeed(hold lock.Term) lock.Term {
	s := m.can.successor
	if s == nil {
		m.release(hold)
		return nil
	}
	ctx, cancel := context.WithTimeout(m.life, m.cfg.shutdown)
	defer cancel()
	next, err := s.Succeed(ctx, hold)
	if err != nil {
		m.cfg.logger.Warn("the lock was not kept for the next term of this process; any instance can take it", "error", err)
		return nil
	}
	return next
}

// bequeath leaves a lock that is held already to the next term. If none
// begins, as where a program by hand does not ask again, others must have it. With mu
// held.
func (m *Manager) bequeath(hold lock.Term) {
	m.heir = hold
	time.AfterFunc(yieldPause, func() { m.disinherit(hold) })
}

// disinherit releases a lock that was left to the next term, and that no term has
// taken up. nil stands for whichever there is.
func (m *Manager) disinherit(hold lock.Term) {
	m.mu.Lock()
	none := m.heir == nil
	m.mu.Unlock()
	if none {
		return
	}
	select {
	case m.turn <- struct{}{}: // nobody is taking it up
		defer func() { <-m.turn }()
	case <-m.life.Done(): // Close releases it: the lease may be the host's
		return
	}
	m.mu.Lock()
	heir := m.heir
	if hold != nil && hold != heir {
		heir = nil
	}
	if heir != nil {
		m.heir = nil
	}
	m.mu.Unlock()
	if heir != nil {
		m.release(heir)
	}
}

// restLeft is how much of the pause is left.
func (m *Manager) restLeft() (left time.Duration, changed chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Until(m.seat.rest.until), m.changed
}

// awaitRest waits until this instance may ask for the lock again. False: it may
// not, and it does not wait.
func (m *Manager) awaitRest(ctx context.Context, wait bool) (bool, error) {
	for {
		left, changed := m.restLeft()
		switch {
		case left <= 0:
			return true, nil
		case !wait:
			return false, nil
		}
		m.pausing(true)
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed: // perhaps somebody asked
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false, m.ended(ctx)
		}
	}
}

// endRest lets this instance ask for the lock at once, as one that has not
// tried yet: a person wants it.
func (m *Manager) endRest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seat.rest.until.After(time.Now()) {
		m.seat.rest = rest{}
		m.broadcastLocked()
	}
}

// standbyDecision is what a host by hand hears while this instance is not
// active.
func (m *Manager) standbyDecision() reconnect.Decision {
	d := reconnect.Decision{Status: reconnect.StatusDisconnected, Reason: reconnect.ReasonLockLost, Action: reconnect.ActionStandby}
	m.mu.Lock()
	defer m.mu.Unlock()
	if y, ok := m.last.LastYield(); ok && m.term == nil && m.seat.rest.own {
		d.Reason, d.Code, d.Detail = y.Reason, y.Code, y.Detail
	}
	return d
}

// behindYield reports whether a term begins because another one was given up.
func behindYield(st reconnect.State) bool {
	y, ok := st.LastYield()
	return ok && y.To == ""
}

// yieldStatus fills in what is known of a lock that was given up.
func (st *Status) yieldStatus(state reconnect.State, r rest) {
	y, _ := state.LastYield()
	if st.Mode != ModeActive {
		if y.By == st.InstanceID && y.To == "" && st.LockHolder != st.InstanceID {
			y.To = st.LockHolder
		}
		if r.until.After(st.At) {
			st.Mode, st.AsksAgainAt = ModeReleased, r.until
		}
	}
	st.Yield = y
}

func yieldReason(y reconnect.Yield) string {
	if y.Code != 0 {
		return fmt.Sprintf("%s, code %d", y.Reason, y.Code)
	}
	return string(y.Reason)
}

// yieldText says who gave the lock up, and why.
func (st *Status) yieldText(ago func(time.Time) string) string {
	y := st.Yield
	why := yieldReason(y)
	switch {
	case y.By == "":
		return ""
	case y.By == st.InstanceID && st.Mode == ModeActive:
		return fmt.Sprintf(" This instance gave the lock up %s ago (%s), and got it back.", ago(y.At), why)
	case y.By == st.InstanceID:
		return fmt.Sprintf(" This instance gave the lock up %s ago, because it could not connect (%s).", ago(y.At), why)
	case y.To == st.InstanceID && (st.WA != reconnect.StatusConnected || st.At.Sub(y.At) < time.Hour):
		return fmt.Sprintf(" It took over from %s, which could not connect (%s).", y.By, why)
	}
	return ""
}

// unfitFacts are the holders that gave the lock up in the present trouble.
func unfitFacts(st reconnect.State) (at []time.Time, text string) {
	if st.FirstDisconnectReason == reconnect.ReasonNone {
		return nil, ""
	}
	var lines []string
	for _, y := range st.Yields {
		at = append(at, y.At)
		lines = append(lines, y.By+": "+yieldReason(y))
	}
	return at, strings.Join(lines, "; ")
}
