package reconnect

import (
	"math/rand/v2"
	"slices"
	"time"
)

// phase is where the machine stands between calls.
type phase int

const (
	phaseDown       phase = iota // no connection and no attempt
	phaseConnecting              // between Attempt and Connected
	phaseUp                      // connected
)

// Machine decides what follows the end of a connection. It is pure: it reads
// no clock, starts nothing and does no I/O; every method is given the present.
// It is not safe for concurrent use: one loop owns it.
//
// Give it the present with its monotonic reading (time.Now() as it is), so
// that a stepped wall clock does not change how long a connection was up.
type Machine struct {
	p     Policy
	s     State
	rand  func() float64
	begun bool
	phase phase

	upSince time.Time // monotonic where the caller's clock is
	counted bool      // the end that the next attempt answers was a failure
	paired  bool      // a device was paired, and the attempt to log in with it is still to come

	end *ending // the end that is being reported; nil once the next attempt began

	turn turn // what the holder of this term may do; until its first attempt

	ahead *float64 // the next random number, where a Clone has looked at it
}

// ending is one end of a connection and the best that is known of it.
type ending struct {
	before      State // the state without this end
	at          time.Time
	u           float64 // the random draw: one per end, so that a better reason changes nothing else
	cause       Cause
	ban         Cause // the temporary_ban among all causes: it holds even if another reason outranks it
	deviceEnded bool  // some cause said that the session no longer exists: likewise
	verdict     Decision
}

// add joins one more cause and reports whether the decision may change.
func (e *ending) add(c Cause) bool {
	before := *e
	e.cause = Better(e.cause, c)
	if c.Reason == ReasonTemporaryBan {
		e.ban = Better(e.ban, c)
	}
	e.deviceEnded = e.deviceEnded || c.Reason.Class() == ClassPermanent
	return !before.cause.same(e.cause) || !before.ban.same(e.ban) || before.deviceEnded != e.deviceEnded
}

// NewMachine returns a machine that continues from a saved state, or begins
// with the zero State. A zero field of p means its default; p should have
// passed Validate. random yields numbers in [0,1); nil means math/rand/v2.
func NewMachine(p Policy, s State, random func() float64) *Machine {
	if random == nil {
		random = rand.Float64
	}
	return &Machine{p: p.Defaults(), s: clone(s), rand: random}
}

// Policy returns the numbers in force, with the defaults filled in.
func (m *Machine) Policy() Policy { return m.p }

// Attempt records that an attempt to connect begins now. It ends the time in
// which a better reason may improve the last decision. An attempt that answers
// a counted failure enters State.Attempts, the window of auto-heal.
func (m *Machine) Attempt(now time.Time) {
	m.begin(now)
	m.settle(now)
	if m.counted && m.s.Status != StatusNeedsPairing {
		m.s.Attempts = window(append(m.s.Attempts, now), now, m.p.LoopWindow)
	}
	m.counted = false
	m.end = nil
	m.paired = false
	m.turn = turnNone
	m.phase = phaseConnecting
	m.s.NextRetryAt = time.Time{}
	m.s.UpdatedAt = now
}

// Allowed reports whether an attempt may be made now, whoever wishes it. If
// not, at is the earliest instant: a temporary ban is waited out, also when an
// operator asks for a reconnect.
func (m *Machine) Allowed(now time.Time) (at time.Time, ok bool) {
	m.begin(now)
	if m.s.NotBefore.After(now) {
		return m.s.NotBefore, false
	}
	return now, true
}

// Connected records that the connection is up and logged in.
func (m *Machine) Connected(now time.Time) {
	m.begin(now)
	if m.phase == phaseUp {
		return
	}
	m.phase = phaseUp
	m.end = nil
	m.paired = false
	m.counted = false
	if c := m.s.FirstDisconnectReason.Class(); m.s.RetryCount == 0 && (c == ClassOwn || c == ClassExpected || m.s.FirstDisconnectReason == ReasonHolderLost) {
		m.s.troubleOver() // a new connection was all that was wanted, and here it is
	}
	m.turn = turnNone
	m.upSince = now
	m.s.Status = StatusConnected
	m.s.ConnectedAt = now
	m.s.DisconnectedSince = time.Time{}
	m.s.NextRetryAt = time.Time{}
	m.s.NotBefore = time.Time{}
	m.s.RejectStreak = 0
	m.s.UpdatedAt = now
}

// Disconnected records that the connection, or the attempt, ended for c, and
// decides what follows. A connection ends once. Until the next Attempt or
// Connected, a further cause gives the same Decision again, unless it is a
// better one. Then the decision is made anew from the state before the end, as
// if the better cause had come first.
//
// Causes of an older connection must not be given: tag events by connection.
func (m *Machine) Disconnected(c Cause, now time.Time) Decision {
	m.begin(now)
	if c.Reason == ReasonNone {
		c.Reason = ReasonConnectionClosed
	}
	if m.end == nil {
		m.settle(now)
		if m.s.FirstDisconnectReason == ReasonNone && m.begins(c.Reason) {
			m.s.Yields = nil // they were about another trouble
		}
		m.end = &ending{before: clone(m.s), at: now, u: m.draw()}
		m.end.add(c)
		return m.conclude(now)
	}
	if !m.end.add(c) {
		return m.end.verdict
	}
	m.s = clone(m.end.before)
	return m.conclude(now)
}

func (m *Machine) conclude(now time.Time) Decision {
	m.phase = phaseDown
	m.end.verdict = m.decide(m.end, now)
	m.s.UpdatedAt = now
	return m.end.verdict
}

// same reports whether the Decision after c and after o is the same.
func (c Cause) same(o Cause) bool {
	return c.Reason == o.Reason && c.Code == o.Code && c.Expire == o.Expire && c.Detail == o.Detail
}

// Settle starts a new series if the connection has been up for the stable
// period: RetryCount and the streaks go to zero, FirstDisconnectReason to none. Attempt and Disconnected do it
// by themselves; call it before showing State.
func (m *Machine) Settle(now time.Time) {
	m.begin(now)
	m.settle(now)
}

func (m *Machine) settle(now time.Time) {
	if m.phase != phaseUp || now.Sub(m.upSince) < m.p.StableAfter {
		return
	}
	m.s.RetryCount = 0
	m.s.Failures = 0
	m.s.RestartStreak = 0
	m.s.BadSessionStreak = 0
	m.s.troubleOver()
}

// troubleOver forgets how the trouble began.
func (s *State) troubleOver() {
	s.FirstDisconnectAt, s.FirstDisconnectReason = time.Time{}, ReasonNone
	s.FirstDisconnectCode, s.FirstDisconnectDetail = 0, ""
}

// NeedsPairing records that there is no paired device: why may be ReasonNone
// (never paired), or what the store says about a deleted one.
func (m *Machine) NeedsPairing(why Reason, now time.Time) {
	m.begin(now)
	m.settle(now)
	if m.phase == phaseUp {
		m.phase = phaseDown
	}
	if m.s.DisconnectedSince.IsZero() {
		m.s.DisconnectedSince = now
	}
	m.s.Status = StatusNeedsPairing
	if why != ReasonNone {
		m.s.LastDisconnectReason = why
	}
	m.s.NextRetryAt = time.Time{}
	m.s.NotBefore = time.Time{} // it was about the session that is gone
	if e := m.end; e != nil {
		e.before.Status, e.before.NotBefore = StatusNeedsPairing, time.Time{}
		e.verdict = Decision{
			Status: StatusNeedsPairing, Reason: m.s.LastDisconnectReason, RetryCount: m.s.RetryCount,
			Action: ActionPair, Code: e.verdict.Code, Detail: e.verdict.Detail,
		}
		if m.s.LastDisconnectReason.Action() == ActionStop {
			e.verdict.Action = ActionStop
		}
	}
	m.s.UpdatedAt = now
}

// Paired records that a device was paired: a new session starts with a clean
// slate. The connection itself comes with Connected.
func (m *Machine) Paired(now time.Time) {
	m.begin(now)
	if m.s.Status == StatusNeedsPairing {
		m.s.Status = StatusDisconnected
		m.s.DisconnectedSince = now // the time without a session was no outage
	}
	m.s.RetryCount, m.s.Failures = 0, 0
	m.s.RejectStreak, m.s.BadSessionStreak = 0, 0
	m.s.Attempts, m.s.Replacements = nil, nil
	m.s.NotBefore = time.Time{}
	m.s.troubleOver()
	m.counted = false
	m.paired = true
	if m.end != nil { // a cause that is still to come must not bring the old session back
		m.end.before = clone(m.s)
		m.end.verdict.Status = m.s.Status
	}
	m.s.UpdatedAt = now
}

// Healed records a restart by auto-heal: the window and the count of failures
// are emptied, and the restart enters State.Restarts. Save the State before
// the process exits, and do not exit if that fails.
func (m *Machine) Healed(now time.Time) {
	m.begin(now)
	m.s.Attempts = nil
	m.s.Failures = 0
	m.s.Restarts = window(append(m.s.Restarts, now), now, m.p.RestartWindow)
	if m.end != nil {
		m.end.before.Attempts, m.end.before.Failures = nil, 0
		m.end.before.Restarts = slices.Clone(m.s.Restarts)
	}
	m.s.UpdatedAt = now
}

// State returns a copy of the state, fit to be saved: wall times in UTC.
func (m *Machine) State() State {
	s := clone(m.s)
	s.Version = StateVersion
	if s.Status == "" {
		s.Status = StatusDisconnected
	}
	eachTime(&s, func(t *time.Time) {
		if !t.IsZero() {
			*t = t.Round(0).UTC()
		}
	})
	return s
}

// Clone returns a machine that decides from here as m would: also with the
// same random number at the next end. Use it to look ahead.
func (m *Machine) Clone() *Machine {
	if m.ahead == nil {
		u := m.draw()
		m.ahead = &u
	}
	c := *m
	c.s = clone(m.s)
	if m.end != nil {
		e := *m.end
		e.before = clone(e.before)
		c.end = &e
	}
	return &c
}

// draw returns a number in [0,1), whatever the source yields.
func (m *Machine) draw() float64 {
	if u := m.ahead; u != nil {
		m.ahead = nil
		return *u
	}
	u := m.rand()
	if !(u >= 0) { // NaN too
		return 0
	}
	return min(u, 1-1e-9)
}

// maxInstants bounds each list of instants in the state.
const maxInstants = 256

// window drops what is older than length and keeps at most the newest
// maxInstants.
func window(list []time.Time, now time.Time, length time.Duration) []time.Time {
	from := now.Add(-length)
	kept := list[:0]
	for _, t := range list {
		if t.After(from) {
			kept = append(kept, t)
		}
	}
	if n := len(kept) - maxInstants; n > 0 {
		kept = kept[n:]
	}
	return kept
}
