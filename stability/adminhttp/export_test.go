package adminhttp

import (
	"maps"
	"slices"
	"strconv"
	"time"

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

// Received is the part wa.messages.received of status-now.
func Received(r stability.ReceivedMessages) any { return new(Handler).received(r) }

// Note lets the page's history see a transition.
func (h *Handler) Note(e stability.Event) { h.history.note(e) }

// History is how much of it is kept.
func (h *Handler) History() (marks, events int) {
	_, m, e := h.history.view()
	return len(m), len(e)
}

// SignIns is how many there are.
func (h *Handler) SignIns() int {
	h.door.signIns.mu.Lock()
	defer h.door.signIns.mu.Unlock()
	return len(h.door.signIns.by)
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

// Situations names the situations in the order in which they are looked for.
func Situations() (names []string) {
	n := map[string]int{}
	for _, s := range situations {
		if n[s.State]++; n[s.State] > 1 {
			names = append(names, s.State+" "+strconv.Itoa(n[s.State]))
		} else {
			names = append(names, s.State)
		}
	}
	return names
}

// Told is how the page explains a status: which situations it is in, as far as
// the texts are theirs, and the texts.
func Told(st stability.Status) (in []string, since time.Time, texts []string) {
	names := Situations()
	for i, s := range situations {
		if s.is(st) {
			in = append(in, names[i])
			if s.tell != nil {
				break
			}
		}
	}
	x, h := explain(st), headlineOf(st)
	return in, x.since, []string{h.Word + ": " + h.Text, st.Summary, x.why, x.next, x.do}
}
