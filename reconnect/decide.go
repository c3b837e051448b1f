package reconnect

import "time"

// maxCount bounds every counter of the state.
const maxCount = 1 << 30

// decide turns one end into a decision and writes it into the state, which is
// the one before the end. The result depends on nothing but the state, the
// best cause, the instants and the one random draw.
func (m *Machine) decide(e *ending, now time.Time) Decision {
	c := e.cause
	x, _ := rowOf(c.Reason)
	if now.Before(e.at) {
		now = e.at
	}

	m.s.LastDisconnectAt = e.at
	m.s.LastDisconnectReason = c.Reason
	m.s.LastDisconnectCode = c.Code
	m.s.LastDisconnectDetail = c.Detail
	if m.s.DisconnectedSince.IsZero() {
		m.s.DisconnectedSince = e.at
	}
	if m.s.FirstDisconnectReason == ReasonNone && m.begins(c.Reason) {
		m.s.FirstDisconnectAt, m.s.FirstDisconnectReason = e.at, c.Reason
		m.s.FirstDisconnectCode, m.s.FirstDisconnectDetail = c.Code, c.Detail
	}
	if m.s.Status != StatusNeedsPairing {
		m.s.Status = StatusDisconnected
	}

	if e.ban.Reason == ReasonTemporaryBan {
		expire := e.ban.Expire
		if expire <= 0 {
			expire = m.p.BanDefault
		}
		m.s.NotBefore = now.Add(min(expire, m.p.BanMax))
	}
	if e.deviceEnded {
		m.s.Status = StatusNeedsPairing
		m.s.NotBefore = time.Time{}
	}

	// While a code waits to be scanned, failures are no loop to break.
	m.counted = x.counts && m.s.Status != StatusNeedsPairing
	if m.counted {
		up(&m.s.Failures)
	}
	d := Decision{Reason: c.Reason, Code: c.Code, Detail: c.Detail, Action: x.action, Counted: m.counted}

	switch c.Reason {
	case ReasonPairingFailed, ReasonQRExpired:
		m.s.Status = StatusNeedsPairing
	case ReasonMultideviceMismatch:
		// Seen while pairing it is the user's to cure; on a paired session
		// it is one more way of being refused.
		if m.s.Status != StatusNeedsPairing {
			d.Action = m.rejected()
		}
	case ReasonConnectRejected:
		d.Action = m.rejected()
	case ReasonConnectionReplaced:
		m.s.Replacements = window(append(m.s.Replacements, now), now, m.p.ReplacedWindow)
		if len(m.s.Replacements) > 1 {
			d.Action = ActionSlowRetry
		}
	case ReasonRestartRequired, ReasonRequested, ReasonRedelivery:
		up(&m.s.RestartStreak)
		if m.s.RestartStreak > m.p.RestartBurst {
			d.Action = ActionRetry
		}
	case ReasonBadSession:
		up(&m.s.BadSessionStreak)
		d.Repair = m.s.BadSessionStreak%m.p.BadSessionTries == 0
	}

	switch d.Action {
	case ActionRetry:
		up(&m.s.RetryCount)
		d.Delay = m.p.spread(m.p.nominal(m.s.RetryCount), e.u)
		switch {
		case c.Reason == ReasonServiceUnavailable:
			d.Delay = m.p.raise(d.Delay, m.p.ServiceFloor, e.u)
		case c.Reason == ReasonConnectionLost && m.s.RetryCount == 1:
			// The link has been dead for a while already.
			d.Delay = 0
		}
	case ActionRestart:
		// At once, and RetryCount stays.
	case ActionWait:
		up(&m.s.RetryCount)
		if c.Reason == ReasonConnectionReplaced {
			d.Delay = m.p.spread(m.p.ReplacedPause, e.u)
		}
	case ActionSlowRetry:
		up(&m.s.RetryCount)
		d.Delay = m.p.spread(m.p.SlowRetry, e.u)
	case ActionWaitStore:
		d.Delay = m.p.spread(m.p.StoreRetry, e.u)
	}
	m.schedule(&d, now)
	return d
}

// begins reports whether an end for r may begin a trouble. One that somebody
// wished for does not, nor does the new connection that belongs to a pairing.
func (m *Machine) begins(r Reason) bool {
	switch r {
	case ReasonIntentional, ReasonHandedOver, ReasonClosedByProgram:
		return false
	case ReasonRestartRequired:
		return !m.paired
	}
	return true
}

// rejected counts one more refusal and says whether it was one too many.
func (m *Machine) rejected() Action {
	up(&m.s.RejectStreak)
	if m.s.RejectStreak > m.p.RejectTries {
		return ActionStop
	}
	return ActionSlowRetry
}

// schedule completes d: a decision to reconnect has an instant, never inside a
// ban; every other has none.
func (m *Machine) schedule(d *Decision, now time.Time) {
	d.Status = m.s.Status
	d.RetryCount = m.s.RetryCount
	switch d.Action {
	case ActionRetry, ActionRestart, ActionWait, ActionSlowRetry, ActionWaitStore:
		d.ShouldReconnect = true
		if ban := m.s.NotBefore.Sub(now); d.Delay < ban {
			d.Delay = ban
		}
		d.NextRetryAt = now.Add(d.Delay)
	default:
		d.Delay = 0
	}
	m.s.NextRetryAt = d.NextRetryAt
}

func up(n *int) { *n = min(*n+1, maxCount) }
