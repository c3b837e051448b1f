package book

import (
	"cmp"
	"slices"
	"time"
)

// asked is a record of the requests to the phone, whichever message they were for.
type asked struct {
	at []time.Time // when the last of them were made, oldest first: at most askMost

	unsent   int       // requests in a row that could not be sent
	unsentAt time.Time // the last one, sent or not
}

func (a *asked) once(sent bool, now time.Time) {
	a.at = append(a.at[max(0, len(a.at)-askMost+1):], now)
	if a.unsent, a.unsentAt = a.unsent+1, now; sent {
		a.unsent = 0
	}
}

// over ends the row of requests that could not be sent. The times stay: the phone was
// asked.
func (a *asked) over() { a.unsent = 0 }

// room is how many requests a phone that is not flooded may get now, and when there is
// room for another one.
func (a *asked) room(now time.Time) (n int, again time.Time) {
	recent := a.at
	for len(recent) > 0 && now.Sub(recent[0]) >= askSpan {
		recent = recent[1:]
	}
	again = now.Add(askSpan)
	if len(recent) > 0 {
		again = recent[0].Add(askSpan)
	}
	return askMost - len(recent), again
}

// next is when a request is tried after one that could not be sent; zero: at any time.
func (a *asked) next() time.Time {
	if a.unsent == 0 {
		return time.Time{}
	}
	return a.unsentAt.Add(min(askPause(a.unsent-1), maxUnsentPause))
}

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
	// A message that was never asked for comes before those that were. Where a
	// request cannot be sent, another one is tried next.
	slices.SortFunc(due, func(x, y Entry) int {
		return cmp.Or(cmp.Compare(x.Tries, y.Tries), x.Last.Compare(y.Last), older(x, y))
	})
	if room, free := b.asked.room(now); len(due) > room {
		due, again = due[:room], free
	}
	next := b.asked.next()
	if next.IsZero() || len(due) == 0 {
		return due, again
	}
	// Nothing can be sent, so one is tried now and then.
	if now.Before(next) {
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
	b.asked.once(sent, now)
	e := b.entries[k]
	if e == nil || e.State != Undecrypted {
		return Entry{}, false
	}
	if e.Last = now; sent {
		e.Tries++
	}
	return *e, true
}
