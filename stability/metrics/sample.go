package metrics

import (
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// State is what a Manager is doing, in one word. It is in exactly one.
type State string

// The states.
const (
	StateConnected    State = "connected"     // holds the lock, and is logged in
	StateConnecting   State = "connecting"    // holds the lock, and an attempt is under way
	StateDisconnected State = "disconnected"  // holds the lock, and is not connected
	StateNeedsPairing State = "needs_pairing" // holds the lock, and no device is linked
	StateStandby      State = "standby"       // does not hold the lock
	StateReleased     State = "released"      // gave the lock up, since it could not connect, and asks again later
	StateFailed       State = "failed"        // Run ended with an error, and nobody has called it again
	StateClosed       State = "closed"
)

// States returns all of them.
func States() []State {
	return []State{
		StateConnected, StateConnecting, StateDisconnected, StateNeedsPairing,
		StateStandby, StateReleased, StateFailed, StateClosed,
	}
}

// StateOf is the state that a status tells of, and since when it is so: for the
// three states without a connection since the connection was lost.
func StateOf(st stability.Status) (s State, since time.Time) {
	switch active := st.Mode == stability.ModeActive; {
	case st.Closed:
		return StateClosed, st.ModeSince
	case !active && st.RunError != nil:
		return StateFailed, st.RunEndedAt
	case st.Mode == stability.ModeReleased:
		return StateReleased, st.ModeSince
	case !active:
		return StateStandby, st.ModeSince
	case st.WA == reconnect.StatusConnected:
		return StateConnected, st.ConnectedAt
	case st.WA == reconnect.StatusNeedsPairing:
		s = StateNeedsPairing
	case st.Connecting:
		s = StateConnecting
	default:
		s = StateDisconnected
	}
	if since = st.DisconnectedSince; since.IsZero() {
		since = st.ModeSince
	}
	return s, since
}

// sample is what one collection reads of one Manager.
type sample struct {
	st        stability.Status
	n         stability.Counts
	received  *stability.ReceivedMessages
	sent      *stability.SentMessages
	state     State
	age       float64
	active    bool
	incidents []guard.Type // open ones
}

func read(m *stability.Manager) *sample {
	s := &sample{st: m.Status(), n: m.Counts()}
	s.received, s.sent = &s.st.Messages.Received, &s.st.Messages.Sent
	s.active = s.st.Mode == stability.ModeActive && !s.st.Closed
	var since time.Time
	s.state, since = StateOf(s.st)
	s.age = s.past(since)
	for _, inc := range m.Incidents() {
		// A former holder only remembers the incidents of the holder.
		if inc.Active && !s.st.Closed && (s.active || !inc.Type.ByHolder()) {
			s.incidents = append(s.incidents, inc.Type)
		}
	}
	return s
}

// past is how long ago something was; 0 for what never was.
func (s *sample) past(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, s.st.At.Sub(t).Seconds())
}

// holds is a value of the holder's; 0 for others.
func (s *sample) holds(v float64) float64 {
	if s.active {
		return v
	}
	return 0
}

// since is the age of something of the holder's; 0 while there is no such thing.
func (s *sample) since(t time.Time) (float64, bool) { return s.past(t), s.active }
