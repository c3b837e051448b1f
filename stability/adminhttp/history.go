package adminhttp

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// history is what this process has seen of an account, in bounded memory: how
// it was during the last day, and the last transitions.
type history struct {
	mu     sync.Mutex
	since  time.Time // from when on marks tell
	active bool      // this instance holds the lock
	marks  []mark    // in order of time
	events []seen    // newest last
}

// mark says how it was from a time on.
type mark struct {
	at time.Time
	is condition
}

type condition string

const (
	unknown condition = "unknown"
	on      condition = "connected"
	standby condition = "standby"
	off     condition = "off"
)

// seen is a transition, and how often it came in a row.
type seen struct {
	stability.Event
	times int
}

const (
	day       = 24 * time.Hour
	maxMarks  = 1000 // a day of a change every 90 s
	maxEvents = 50
)

// begin takes what the status says as the beginning.
func (h *history) begin(st stability.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.active = st.At, st.Mode == stability.ModeActive
	first := mark{st.At, standby}
	switch {
	case st.Closed:
		first.is = off
	case h.active && st.WA == reconnect.StatusConnected:
		first = mark{st.ConnectedAt, on}
		h.since = st.ConnectedAt
	case h.active:
		first.is = off
	}
	h.marks = append([]mark{first}, slices.DeleteFunc(h.marks, func(m mark) bool { return m.at.Before(st.At) })...)
}

// note takes a transition.
func (h *history) note(e stability.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	is := standby
	switch e.Kind {
	case stability.EventActivated:
		h.active, is = true, off
	case stability.EventStandby, stability.EventDeactivated:
		h.active = false
	case stability.EventClosed:
		h.active, is = false, off
	default:
		if h.active {
			is = off
		}
	}
	if h.active && e.Status == reconnect.StatusConnected {
		is = on
	}
	h.mark(e.Time, is)
	e.Detail = short(e.Detail, 200)
	if n := len(h.events); n > 0 && e.Kind == stability.EventQR && h.events[n-1].Kind == e.Kind {
		h.events[n-1].Event = e
		h.events[n-1].times++
		return
	}
	h.events = append(h.events, seen{e, 1})
	if n := len(h.events); n > maxEvents {
		h.events = slices.Delete(h.events, 0, n-maxEvents)
	}
}

func (h *history) mark(at time.Time, is condition) {
	if n := len(h.marks); n == 0 || h.marks[n-1].is != is {
		h.marks = append(h.marks, mark{at, is})
	}
	gone := max(0, len(h.marks)-maxMarks)
	for gone+1 < len(h.marks) && at.Sub(h.marks[gone+1].at) > day {
		gone++
	}
	if gone > 0 {
		h.marks = slices.Delete(h.marks, 0, gone)
		h.since = h.marks[0].at
	}
}

// view is a copy: marks begin at since, and end now.
func (h *history) view() (since time.Time, marks []mark, events []seen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, slices.Clone(h.marks), slices.Clone(h.events)
}

// sentence says a transition in plain words.
func sentence(e seen) string {
	means := strings.TrimSuffix(e.Reason.Text().Means, ".")
	out := ""
	switch e.Kind {
	case stability.EventStandby:
		out = "Another instance holds the lock: standing by."
	case stability.EventActivated:
		out = fmt.Sprintf("This instance took the lock (term %d).", e.Epoch)
	case stability.EventDeactivated:
		out = "This instance gave the lock up."
		if e.Kept {
			out = "This instance ended its term, and kept the lock for a new one."
		}
		if means != "" {
			out += " " + means + "."
		}
	case stability.EventConnecting:
		out = "An attempt to connect began."
		if e.Attempt > 1 {
			out = fmt.Sprintf("Attempt %d to connect began.", e.Attempt)
		}
	case stability.EventConnected:
		out = "Connected."
		if e.Offline > 0 {
			out = "Connected again, after " + keepalive.Span(e.Offline) + "."
		}
	case stability.EventDisconnected, stability.EventReasonKnown:
		out = "Not connected."
		if means != "" {
			out += " " + means + "."
		}
		if e.Decision.ShouldReconnect {
			if e.Decision.Delay < time.Second {
				out += " The next attempt follows at once."
			} else {
				out += " Next attempt after " + keepalive.Span(e.Decision.Delay) + "."
			}
		}
	case stability.EventNeedsPairing:
		out = "A phone must be linked."
	case stability.EventQR:
		out = "A code to scan was ready."
		if e.times > 1 {
			out = fmt.Sprintf("%d codes to scan were ready, one after the other.", e.times)
		}
	case stability.EventPaired:
		out = "A phone was linked."
	case stability.EventStoreDown:
		return "The backend does not answer: " + e.Detail
	case stability.EventStoreUp:
		out = "The backend answers again."
	case stability.EventHealth:
		out = "Health of the connection: " + string(e.Health) + "."
		if e.Health != keepalive.Down { // the outage has a line of its own
			out += " " + e.Detail
		}
	case stability.EventHealing:
		out = "A loop of reconnects is broken: " + e.Detail
	case stability.EventIncidentOpened:
		out = "An incident began: " + guard.Type(strings.TrimSuffix(e.Incident, "_active")).Title() + "."
	case stability.EventIncidentResolved:
		out = "An incident is over: " + guard.Type(strings.TrimSuffix(e.Incident, "_active")).Title() + "."
	case stability.EventClosed:
		out = "The Manager was closed."
	default:
		out = e.String()
	}
	return out
}

// short cuts a text to about n bytes, at a character, and takes out what is not
// seen but turns the direction of what is.
func short(s string, n int) string {
	cut := len(s) > n
	if cut {
		s = s[:n]
		if i := strings.LastIndexByte(s, ' '); i > n*3/4 { // not within a word
			s = s[:i]
		}
	}
	s = strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if cut {
		s += "…"
	}
	return s
}
