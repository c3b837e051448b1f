package adminhttp

import (
	"maps"
	"slices"

	"github.com/wastability/wastability/stability"
)

// Remembered is how many addresses the limiter keeps.
func (h *Handler) Remembered() int {
	h.door.limit.mu.Lock()
	defer h.door.limit.mu.Unlock()
	return len(h.door.limit.by)
}

// Compatibility is the part wa.compat of status-now.
var Compatibility = compatibility

// Note lets the page's history see a transition.
func (h *Handler) Note(e stability.Event) { h.history.note(e) }

// History is how much of it is kept.
func (h *Handler) History() (marks, events int) {
	_, m, e := h.history.view()
	return len(m), len(e)
}

// Sessions is how many there are.
func (h *Handler) Sessions() int {
	h.door.sessions.mu.Lock()
	defer h.door.sessions.mu.Unlock()
	return len(h.door.sessions.by)
}

// Streams is how many pages hear of changes.
func (h *Handler) Streams() int { return int(h.streams.n.Load()) }

// Explained is what the page says at length.
func Explained(st stability.Status) (why, next, do string) {
	x := explain(st)
	return x.why, x.next, x.do
}

// Deeds is what the buttons of the page can do.
func Deeds() []string { return slices.Sorted(maps.Keys(deeds)) }
