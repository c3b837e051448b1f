package book

import (
	"slices"
	"time"
)

// vain is a row of tries of kept messages that failed, and nothing was handled between
// them.
type vain struct {
	row  int
	last time.Time
}

func (v *vain) failed(now time.Time) { v.row, v.last = v.row+1, now }

func (v *vain) over() { v.row = 0 }

// next is when one message is tried again.
func (v *vain) next(pause func(tries int) time.Duration) time.Time { return v.last.Add(pause(v.row)) }

// Due returns what is to be handed over again now, oldest first, and when to
// look again; zero when nothing is kept.
//
// A host that takes nothing is down, and a try is written down. So of the messages that
// failed, and behind which nothing was handled, one at a time is tried, with pauses:
// the one whose last try is the longest ago. Once a message is handled, all are due.
func (b *Book) Due(now time.Time) (due []Entry, again time.Time) {
	all, again := b.due(now, Kept, func(e *Entry) time.Time { return e.Last.Add(b.pause(e.Tries)) })
	probe, next := -1, b.vain.next(b.pause)
	for _, e := range all {
		switch {
		case e.Tries == 0 || !b.lastHandled.Before(e.Last):
			due = append(due, e)
		case now.Before(next):
			if again.IsZero() || next.Before(again) {
				again = next
			}
		case probe < 0:
			probe, due = len(due), append(due, e)
		case e.Last.Before(due[probe].Last):
			due = append(slices.Delete(due, probe, probe+1), e)
			probe = len(due) - 1
		}
	}
	slices.SortFunc(due, older)
	return due, again
}

// Overdue returns the undecrypted messages that nobody will give any more.
func (b *Book) Overdue(now time.Time) (due []Entry, again time.Time) {
	limit := b.Policy.Defaults().GiveUp
	return b.due(now, Undecrypted, func(e *Entry) time.Time { return e.First.Add(limit) })
}

// Old returns the messages that were set aside so long ago, and when to look again.
func (b *Book) Old(now time.Time, age time.Duration) (due []Entry, again time.Time) {
	return b.due(now, SetAside, func(e *Entry) time.Time { return e.Since.Add(age) })
}

func (b *Book) due(now time.Time, s State, when func(*Entry) time.Time) (due []Entry, again time.Time) {
	for _, e := range b.entries {
		if e.State != s {
			continue
		}
		if at := when(e); !at.After(now) {
			due = append(due, *e)
		} else if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	slices.SortFunc(due, older)
	return due, again
}

// pause is the time after a try that was not taken.
func (b *Book) pause(tries int) time.Duration {
	p := b.Policy.Defaults()
	if tries <= 0 {
		return 0
	}
	d := p.Quiet
	for range min(tries-1, 20) {
		d *= 2
	}
	return min(d, p.AtLatest)
}

func latest(ts ...time.Time) time.Time {
	return slices.MaxFunc(ts, time.Time.Compare)
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
