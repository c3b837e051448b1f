package book

import (
	"cmp"
	"slices"
	"time"
)

// Asks returns the undecrypted messages that the phone is to be asked for now,
// and when to look again. A phone is not flooded: it is asked for askMost messages
// in any askSpan, and the others wait.
func (b *Book) Asks(now time.Time) (due []Entry, again time.Time) {
	due, again = b.due(now, Undecrypted, func(e *Entry) time.Time {
		if e.Hidden && e.Tries >= maxHiddenAsks {
			return now.Add(askPause(e.Tries))
		}
		return e.Last.Add(askPause(e.Tries))
	})
	recent := b.asked
	for len(recent) > 0 && now.Sub(recent[0]) >= askSpan {
		recent = recent[1:]
	}
	// A message that was never asked for comes before those that were. Where a
	// request cannot be sent, another one is tried next.
	slices.SortFunc(due, func(x, y Entry) int {
		return cmp.Or(cmp.Compare(x.Tries, y.Tries), x.Last.Compare(y.Last), older(x, y))
	})
	if room := askMost - len(recent); len(due) > room {
		due, again = due[:room], now.Add(askSpan)
		if len(recent) > 0 {
			again = recent[0].Add(askSpan)
		}
	}
	if b.unsent == 0 || len(due) == 0 {
		return due, again
	}
	// Nothing can be sent, so one is tried now and then.
	if next := b.unsentAt.Add(min(askPause(b.unsent-1), maxUnsentPause)); now.Before(next) {
		return nil, next
	}
	return due[:1], again
}

const (
	maxHiddenAsks  = 3
	maxUnsentPause = time.Hour
	askMost        = 5
	askSpan        = 30 * time.Second
)

// askPause is the pause before the phone is asked again: it may be off for days.
func askPause(tries int) time.Duration {
	d := 5 * time.Minute
	for range min(tries, 8) {
		d *= 2
	}
	return min(d, 12*time.Hour)
}

// Asked notes that the phone was asked. A request that was not sent is no try.
func (b *Book) Asked(k Key, sent bool, now time.Time) (Entry, bool) {
	b.asked = append(b.asked[max(0, len(b.asked)-askMost+1):], now)
	if b.unsent, b.unsentAt = b.unsent+1, now; sent {
		b.unsent = 0
	}
	e := b.entries[k]
	if e == nil || e.State != Undecrypted {
		return Entry{}, false
	}
	if e.Last = now; sent {
		e.Tries++
	}
	return *e, true
}
