package reconnect

import (
	"slices"
	"time"
)

// NoYield is the value of Policy.YieldAfter that turns yielding off.
const NoYield = -1

// Yield says that a holder gave the lock up, because it could not connect for a
// reason that may be its own.
type Yield struct {
	By     string    `json:"by"`           // the holder id of who gave it up
	To     string    `json:"to,omitempty"` // who took it next; empty while nobody has
	At     time.Time `json:"at,omitzero"`
	Reason Reason    `json:"reason,omitempty"`
	Code   int       `json:"code,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Count  int       `json:"count,omitempty"` // how often By has done so in this trouble
	// Stopped says that no attempt was planned any more. An instance that takes the lock
	// back without having been away from this process makes none either.
	Stopped bool `json:"stopped,omitempty"`
}

// maxYields bounds the list: one entry for each holder id.
const maxYields = 16

// yieldLead is how far away the next attempt is at least when the lock is given up.
// Whoever gave it up takes it back for that, and a store that cannot watch is looked
// at every half a second.
const yieldLead = 2 * time.Second

// maxFirst is how many holders have an attempt at once in one trouble.
const maxFirst = 8

// OfInstance reports whether an end for this cause may be the fault of this
// instance: of its network, proxy, clock, certificates or build. Another
// instance may well connect. All other ends would be the same everywhere.
func (c Cause) OfInstance() bool {
	switch c.Reason {
	case ReasonNetworkUnreachable, ReasonTimedOut, ReasonUntrustedServer, ReasonClientOutdated, ReasonConnectRejected:
		return true
	case ReasonServiceUnavailable:
		// Answers of HTTP to the upgrade that are about whoever asked: forbidden
		// for this address, too many from it, its proxy wants a password.
		return c.Code == 403 || c.Code == 407 || c.Code == 429
	}
	return false
}

// turn is what the holder of a new term may do in a trouble for which another
// term was given up.
type turn int

const (
	turnNone    turn = iota // nobody gave the lock up, or it does not matter any more
	turnFirst               // this holder has not tried in this trouble: one attempt, at once
	turnAgain               // it has: it waits for what is planned
	turnStopped             // it has, and nothing is planned
)

// Began tells the machine at the start of a term who holds the lock now, and
// whether this very process gave it up before. It reports whether the state
// changed. If the lock was given up in the present trouble, a holder that has
// not tried yet makes one attempt at once. Any other holder keeps to what is
// planned, however far away it is.
func (m *Machine) Began(holder string, again bool, now time.Time) (changed bool) {
	m.begin(now)
	i := len(m.s.Yields) - 1
	if i < 0 || m.s.Yields[i].To != "" || m.s.FirstDisconnectReason == ReasonNone {
		return false
	}
	last := &m.s.Yields[i]
	last.To = holder
	switch {
	case !again || m.s.YieldsOf(holder) == 0:
		if len(m.s.Yields) <= maxFirst { // processes that die one after the other are not hurried
			m.turn = turnFirst
		}
	case last.Stopped:
		m.turn = turnStopped
	default:
		m.turn = turnAgain
	}
	m.s.UpdatedAt = now
	return true
}

// Yielded records that the holder gives the lock up for c. stopped: no attempt
// is planned any more. An attempt that is planned is made in two seconds at the
// earliest, so that others hear of the lock before. Save the State before the lock
// is released.
func (m *Machine) Yielded(holder string, c Cause, stopped bool, now time.Time) {
	m.begin(now)
	count := m.s.YieldsOf(holder) + 1
	list := slices.DeleteFunc(m.s.Yields, func(y Yield) bool { return y.By == holder })
	list = append(list, Yield{
		By: holder, At: now, Reason: c.Reason, Code: c.Code, Detail: c.Detail, Count: min(count, maxCount), Stopped: stopped,
	})
	m.s.Yields = list[max(0, len(list)-maxYields):]
	if at := now.Add(yieldLead); !m.s.NextRetryAt.IsZero() && m.s.NextRetryAt.Before(at) {
		m.s.NextRetryAt = at
	}
	if m.end != nil {
		m.end.before.Yields = slices.Clone(m.s.Yields)
	}
	m.s.UpdatedAt = now
}

// YieldsOf is how often a holder gave the lock up in the present trouble.
func (s State) YieldsOf(holder string) int {
	if s.FirstDisconnectReason == ReasonNone {
		return 0
	}
	for _, y := range s.Yields {
		if y.By == holder {
			return y.Count
		}
	}
	return 0
}

// LastYield is the newest time that the lock was given up; false when it was
// not. It stays until the next trouble begins.
func (s State) LastYield() (Yield, bool) {
	if len(s.Yields) == 0 {
		return Yield{}, false
	}
	return s.Yields[len(s.Yields)-1], true
}

// YieldPause is how long a term lasts at least before its holder gives the
// lock up, when it has done so n times in this trouble. It is zero at first,
// then YieldSpacing, and twice as long each time, at most MaxYieldSpacing.
func (p Policy) YieldPause(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	return min(p.YieldSpacing<<min(n-1, 20), p.MaxYieldSpacing)
}

// soundYields makes a loaded list usable.
func soundYields(list []Yield, now time.Time) []Yield {
	for i := range list {
		if list[i].At.After(now) {
			list[i].At = now
		}
		list[i].Count = min(max(list[i].Count, 1), maxCount)
	}
	return list[max(0, len(list)-maxYields):]
}
