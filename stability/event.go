package stability

import (
	"fmt"
	"sync"
	"time"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// EventKind says which transition an Event reports.
type EventKind string

// The transitions of a Manager.
const (
	EventStandby          EventKind = "standby"       // waits for the lock, which another instance holds
	EventActivated        EventKind = "activated"     // holds the lock: a term began
	EventDeactivated      EventKind = "deactivated"   // the term is over; Reason says why
	EventConnecting       EventKind = "connecting"    // an attempt begins
	EventConnected        EventKind = "connected"     // logged in
	EventDisconnected     EventKind = "disconnected"  // a connection or an attempt ended; Decision says what follows
	EventReasonKnown      EventKind = "reason_known"  // a better reason for the same end arrived; Decision may have changed
	EventNeedsPairing     EventKind = "needs_pairing" // the account is not paired, or not any more
	EventQR               EventKind = "qr"            // a code to scan is ready
	EventPaired           EventKind = "paired"        // a phone accepted this device
	EventStoreDown        EventKind = "store_down"    // the backend does not answer; attempts wait
	EventStoreUp          EventKind = "store_up"      // it answers again
	EventHealth           EventKind = "health"        // the health of the live connection changed
	EventHealing          EventKind = "healing"       // a reconnect loop is broken: the term ends, then the process
	EventIncidentOpened   EventKind = "incident_opened"
	EventIncidentResolved EventKind = "incident_resolved"
	EventClosed           EventKind = "closed" // the Manager is closed; nothing follows
)

// Event is one transition. Events arrive in the order in which they happened.
type Event struct {
	Time     time.Time
	Kind     EventKind
	Epoch    int64 // of the lock's term; 0 without one
	Status   reconnect.Status
	Reason   reconnect.Reason   // for disconnected, reason_known, needs_pairing, deactivated
	Detail   string             // plain words; no phone numbers, no secrets
	Decision reconnect.Decision // for disconnected and reason_known
	Attempt  int                // for connecting and connected: attempts since the connection was lost
	Health   keepalive.Health   // for health
	Incident string             // id, for incident_opened and incident_resolved
	Offline  time.Duration      // for connected: how long it had been away; 0 for the first time
	Kept     bool               // for deactivated: the lock was not given up, and this instance's next term follows
}

// String is one line for a log or a terminal.
func (e Event) String() string {
	switch e.Kind {
	case EventDisconnected, EventReasonKnown:
		if e.Decision.ShouldReconnect {
			return fmt.Sprintf("%s: %s; next attempt in %s", e.Kind, e.Reason, e.Decision.Delay.Round(100*time.Millisecond))
		}
		if e.Decision.Action == reconnect.ActionStandby && e.Reason != reconnect.ReasonLockLost {
			return fmt.Sprintf("%s: %s; the lock is given up, so that another instance can try", e.Kind, e.Reason)
		}
		return fmt.Sprintf("%s: %s; no attempt is planned", e.Kind, e.Reason)
	case EventConnected:
		if e.Offline > 0 {
			return fmt.Sprintf("%s after %s", e.Kind, e.Offline.Round(100*time.Millisecond))
		}
	case EventDeactivated, EventNeedsPairing:
		if e.Kept {
			return fmt.Sprintf("%s: %s; the lock is kept for a new term", e.Kind, e.Reason)
		}
		if e.Reason != "" {
			return fmt.Sprintf("%s: %s", e.Kind, e.Reason)
		}
	case EventHealth:
		return fmt.Sprintf("%s: %s", e.Kind, e.Health)
	case EventIncidentOpened, EventIncidentResolved:
		return fmt.Sprintf("%s: %s", e.Kind, e.Incident)
	case EventStoreDown, EventHealing:
		return fmt.Sprintf("%s: %s", e.Kind, e.Detail)
	}
	return string(e.Kind)
}

// notifier calls the observers, in order, from a goroutine that lives only
// while there is something to deliver. Posting never blocks and may happen
// under a lock; the call never does.
type notifier struct {
	observers []func(Event)

	mu      sync.Mutex
	queue   []func()
	running bool
	idle    chan struct{} // closed when the present run ends
}

func (n *notifier) post(e Event) {
	for _, f := range n.observers {
		n.add(func() { f(e) })
	}
}

func (n *notifier) show(q QR, to []func(QR)) {
	for _, f := range to {
		n.add(func() { f(q) })
	}
}

func (n *notifier) add(call func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue = append(n.queue, call)
	if !n.running {
		n.running = true
		n.idle = make(chan struct{})
		go n.run(n.idle)
	}
}

func (n *notifier) run(idle chan struct{}) {
	defer close(idle)
	for {
		n.mu.Lock()
		if len(n.queue) == 0 {
			n.queue, n.running = nil, false
			n.mu.Unlock()
			return
		}
		batch := n.queue
		n.queue = nil
		n.mu.Unlock()
		for _, call := range batch {
			call()
		}
	}
}

// drained is closed when everything posted so far was delivered.
func (n *notifier) drained() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running {
		return n.idle
	}
	done := make(chan struct{})
	close(done)
	return done
}
