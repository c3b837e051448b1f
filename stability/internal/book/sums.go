package book

import (
	"time"
)

// Group counts the messages in one state.
type Group struct {
	Count  int
	Oldest time.Time // when the oldest of them was received
	Why    string    // of the one that was tried last

	last time.Time // when that was
}

// Sums are the totals.
type Sums struct {
	Received uint64 // handled here, waiting, or set aside
	Handled  uint64
	Repeated uint64 // came again after they had been handled
	States   map[State]Group
	Missed   map[State]Group // of these without the hidden ones
	Again    map[State]Group // of those in hand the ones that waited before, by what they were; without the hidden ones
}

func (g Group) with(e *Entry) Group {
	g.Count++
	if g.Oldest.IsZero() || e.First.Before(g.Oldest) {
		g.Oldest = e.First
	}
	if at := latest(e.Last, e.Since); e.Why != "" && (at.After(g.last) || at.Equal(g.last) && e.Why > g.Why) {
		g.Why, g.last = e.Why, at
	}
	return g
}

// Counts is the state under which Sums counts a message; missed: it is not hidden.
func (b *Book) Counts(k Key) (s State, missed, ok bool) {
	e := b.entries[k]
	if e == nil {
		return "", false, false
	}
	return e.counts(), !e.Hidden, true
}

// Sums adds up.
func (b *Book) Sums() Sums {
	s := Sums{Received: b.received, Handled: b.handled, Repeated: b.repeated, States: make(map[State]Group), Missed: make(map[State]Group), Again: make(map[State]Group)}
	for _, e := range b.entries {
		st := e.counts()
		s.States[st] = s.States[st].with(e)
		if e.Hidden {
			continue
		}
		s.Missed[st] = s.Missed[st].with(e)
		if st == InHand && e.before != "" {
			s.Again[e.before] = s.Again[e.before].with(e)
		}
	}
	return s
}
