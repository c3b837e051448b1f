package book

import (
	"time"
)

// redeliveries is a row of connections that were made for refused messages, and after
// which none of these was handled.
type redeliveries struct {
	row  int
	last time.Time
}

func (r *redeliveries) begins(now time.Time) { r.row, r.last = r.row+1, now }

func (r *redeliveries) over() { r.row = 0 }

// next is when another one is made at the earliest.
func (r *redeliveries) next(pause func(tries int) time.Duration) time.Time {
	return r.last.Add(pause(r.row))
}

// Redelivery is when a new connection is to be made so that the service delivers again
// messages that were refused, or left there. It is zero while no such message waits.
// connected is when the present connection began, busy when a send or a handler was last
// seen under way. Such work puts it off for as long as it lasts, and past AtLatest for at
// most Quiet.
func (b *Book) Redelivery(connected, busy time.Time) time.Time {
	p := b.Policy.Defaults()
	var last time.Time // the last refusal on this connection
	var first, left time.Time
	waits := false
	for _, e := range b.entries {
		waits = waits || e.State == Refused || e.before == Refused
		if e.left() && (left.IsZero() || e.Since.Before(left)) {
			left = e.Since
		}
		if e.State != Refused {
			continue
		}
		if e.Last.After(last) {
			last = e.Last
		}
		if first.IsZero() || e.Last.Before(first) {
			first = e.Last
		}
	}
	if !waits {
		b.redeliveries.over() // the row is over, however they ended
	}
	put := func(at, must time.Time) time.Time {
		return latest(at, earliest(busy.Add(time.Second), must.Add(p.Quiet)))
	}
	if !left.IsZero() { // whatever kept it from the handlers may last
		left = latest(left, connected).Add(p.AtLatest)
		left = put(left, left)
	}
	if first.IsZero() {
		return left
	}
	from := latest(first, connected) // a login has just offered them again
	quiet := latest(from, last, b.lastArrival, busy).Add(p.Quiet)
	must := from.Add(p.AtLatest)
	at := latest(put(earliest(quiet, must), must), b.redeliveries.next(b.pause))
	if left.IsZero() {
		return at
	}
	return earliest(at, left)
}

// ForRedelivery are the messages that Redelivery is about.
func (b *Book) ForRedelivery() (g Group) {
	for _, e := range b.entries {
		if e.State != Refused && !e.left() {
			continue
		}
		if g.Count++; g.Oldest.IsZero() || e.First.Before(g.Oldest) {
			g.Oldest = e.First
		}
	}
	return g
}

// Redelivering notes that a new connection is made for what was refused.
func (b *Book) Redelivering(now time.Time) {
	b.redeliveries.begins(now)
}
