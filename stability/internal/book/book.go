// Package book accounts for the messages that this device receives: what became
// of each, which of them wait and for what, and when something is to be done
// about them.
//
// Everything here is pure: no clock, no I/O, no lock. Package stability owns
// those, and asks.
//
//	            +--> handled
//	received ---+--> waiting: queued, with the handlers, at the service, with us, undecrypted
//	            +--> set aside
//
// Each message is in one of the three places. A message that comes again while
// it waits is the same message. One that comes again after it was handled is
// counted as repeated and as nothing else.
//
// Messages that must not be forgotten with the process are Entries ([Entry]) that
// stand in the store: refused, kept, undecrypted and set-aside messages. The others are still
// at the service, which delivers them again to whoever logs in next.
package book

import (
	"slices"
	"time"
)

// Policy says when something is done about what waits.
type Policy struct {
	Quiet      time.Duration // how long nothing must come before a redelivery. 1 min
	AtLatest   time.Duration // a redelivery comes then, however busy the account is; also the longest pause. 15 min
	PoisonTry  int           // tried so often with others handled between the tries, ... 20
	PoisonTime time.Duration // ... and for so long: set aside. 24 h
	GiveUp     time.Duration // an undecrypted message is set aside. 14 days
}

// Defaults fills what is zero.
func (p Policy) Defaults() Policy {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&p.Quiet, time.Minute)
	def(&p.AtLatest, 15*time.Minute)
	def(&p.PoisonTime, 24*time.Hour)
	def(&p.GiveUp, 14*24*time.Hour)
	if p.PoisonTry <= 0 {
		p.PoisonTry = 20
	}
	return p
}

// Book is the account. The zero value is empty and has the default policy.
type Book struct {
	Policy Policy

	entries     map[Key]*Entry
	queue       []Key // of this connection, in the order of their arrival
	received    uint64
	handled     uint64
	repeated    uint64
	lastHandled time.Time
	lastArrival time.Time

	redeliveries redeliveries
	vain         vain
	asked        asked
}

// Arrived notes that the service delivered a message.
func (b *Book) Arrived(k Key, now time.Time) {
	b.lastArrival = now
	b.arrived(k, now)
	b.queue = append(b.queue, k)
	b.queue = b.queue[max(0, len(b.queue)-maxQueue):]
}

func (b *Book) arrived(k Key, now time.Time) {
	if e := b.entries[k]; e != nil {
		switch e.State {
		case AtService:
			e.State = Queued
		case Refused: // once more; what is known of it stays
			e.before, e.State, e.Missed = Refused, Queued, 0
		case InHand:
			e.back = true
		}
	} else {
		b.add(&Entry{Key: k, State: Queued, First: now, Since: now})
	}
	b.entries[k].came = true
}

// Back notes that the service has delivered a message again that is with a handler: it is
// left there. Arrived was called for it before.
func (b *Book) Back(k Key) {
	if e := b.entries[k]; e != nil && e.State == InHand {
		e.back, e.came = true, true
	}
}

// Is notes that the message that has arrived under k is the one that is known under
// another name of its sender.
func (b *Book) Is(k, known Key, now time.Time) {
	e := b.entries[k]
	if e == nil || e.State != Queued || e.before != "" {
		return
	}
	delete(b.entries, k)
	b.received--
	if i := slices.Index(b.queue, k); i >= 0 {
		b.queue[i] = known
	}
	b.arrived(known, now)
}

// maxQueue bounds what is remembered of the order of arrival: some messages are
// left alone without having begun.
const maxQueue = 10_000

func (b *Book) add(e *Entry) {
	if b.entries == nil {
		b.entries = make(map[Key]*Entry)
	}
	b.entries[e.Key] = e
	b.received++
}

// Begun notes that the handlers are given a message that the service has delivered.
func (b *Book) Begun(k Key, now time.Time) {
	if i := slices.Index(b.queue, k); i == 0 { // as nearly always: nothing is moved
		b.queue = b.queue[1:]
	} else if i > 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	} else if len(b.queue) > 0 && b.entries[k] == nil {
		// Messages begin in the order of their arrival. The name of this one was
		// misread when it arrived: a text in a stanza can imitate an attribute.
		first := b.queue[0]
		b.queue = b.queue[1:]
		if e := b.entries[first]; e != nil && e.State == Queued && e.before == "" {
			delete(b.entries, first)
			b.received--
		}
	}
	b.Tried(k, now)
}

// Tried notes that the handlers are given a message, such as one that is kept: it
// stands in no queue.
func (b *Book) Tried(k Key, now time.Time) {
	e := b.entries[k]
	if e == nil { // nobody saw it arrive
		e = &Entry{Key: k, First: now, Since: now, came: true}
		b.add(e)
	}
	if e.State.stored() && e.before == "" {
		e.before = e.State
	}
	e.State, e.Missed = InHand, 0
}

// Ended notes what became of a message. It returns its entry where the store
// has to be told: as it is now, or with removed where it is to be removed.
func (b *Book) Ended(k Key, o Outcome, why string, now time.Time) (e Entry, write, removed bool) {
	at := b.entries[k]
	if at == nil { // a handler that outlived the term
		at = &Entry{Key: k, First: now, Since: now}
		b.add(at)
	}
	if at.State == SetAside { // while it was in hand, and written down
		return Entry{}, false, false
	}
	was := at.before
	at.before = ""
	to := func(s State) (Entry, bool, bool) {
		if s != was {
			at.Since = now
		}
		at.State, at.Last, at.Why = s, now, why
		return *at, true, false
	}
	switch o {
	case Left:
		if was != "" {
			at.State = was
		} else {
			at.State = AtService
		}
		return Entry{}, false, false
	case Declined:
		b.failed(at)
		return to(Refused)
	case Saved:
		if b.failed(at); was == Kept {
			b.vain.failed(now)
		}
		return to(Kept)
	case Lost:
		if was == SetAside || was == Kept { // what we have of it stays
			at.State = was
			return Entry{}, false, false
		}
		return to(Undecrypted)
	case Odd:
		if was == Undecrypted || was == Kept || was == SetAside { // what we have of it stays
			at.State = was
			return Entry{}, false, false
		}
		return to(SetAside)
	case Poison:
		return to(SetAside)
	case Repeat:
		if was == "" {
			delete(b.entries, k)
			b.received--
			b.repeated++
			return Entry{}, false, false
		}
		if was != Refused { // what we have of it stays
			at.State = was
			return Entry{}, false, false
		}
	}
	delete(b.entries, k)
	b.handled++
	b.lastHandled = now
	b.vain.over()
	if was == Refused {
		b.redeliveries.over()
	}
	return *at, was != "", true
}

// failed counts a try. A host that takes nothing at all is down, which says
// nothing about a message.
func (b *Book) failed(e *Entry) {
	e.Tries++
	if !e.Last.IsZero() && !b.lastHandled.Before(e.Last) {
		e.Worse++
	}
}

// Remove forgets a message.
func (b *Book) Remove(k Key) {
	if b.entries[k] != nil {
		delete(b.entries, k)
		b.received--
	}
}

// HungUp notes that the connection is over. Messages that it had not begun are at the service.
func (b *Book) HungUp() {
	b.queue = nil
	for _, e := range b.entries {
		e.came = false
		if e.State == Queued {
			e.State = AtService
			if e.before != "" {
				e.State, e.before = e.before, ""
			}
		}
	}
}

// Load begins a term with what the store has.
func (b *Book) Load(entries []Entry) {
	for _, e := range entries {
		if b.entries[e.Key] == nil && (e.State.stored() || e.State == AtService) { // that one was offered once more
			b.add(&e)
		}
	}
}

// Leave ends a term: waiting messages are the next holder's. Those still with a
// handler stay.
func (b *Book) Leave() {
	for k, e := range b.entries {
		e.back = false
		if e.State != InHand {
			delete(b.entries, k)
			b.received--
		}
	}
	b.redeliveries = redeliveries{}
	b.vain.over()
	b.asked.over()
}

// maxMissed is how many logins must not have brought a refused message.
const maxMissed = 3

// Synced notes that the service has delivered all that waited at a login. It
// returns the refused messages that it does not have any more: somebody has
// acknowledged them, and their entries did not learn of it. Other messages that the
// service did not deliver are not with it any more. They are forgotten, except
// for those that offered names, which are among the missing.
func (b *Book) Synced(offered func(Key) bool) (missing []Key) {
	for k, e := range b.entries {
		if e.State == AtService && !e.came {
			if offered(k) {
				missing = append(missing, k)
			} else {
				b.Remove(k)
			}
		}
		if e.State != Refused {
			continue
		}
		if e.Missed++; e.Missed >= maxMissed {
			missing = append(missing, k)
		}
	}
	return missing
}

// Find gives an entry.
func (b *Book) Find(k Key) (Entry, bool) {
	if e := b.entries[k]; e != nil {
		return *e, true
	}
	return Entry{}, false
}

// Entries lists what stands in the store, oldest first.
func (b *Book) Entries() []Entry {
	var out []Entry
	for _, e := range b.entries {
		if e.State.stored() || e.before != "" {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, older)
	return out
}
