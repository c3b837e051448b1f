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
	"cmp"
	"slices"
	"time"
)

// Key names a message, as its stanza does.
type Key struct {
	ID, Chat, Sender string

	// Copy tells messages with other contents apart that came under one id. It is
	// empty for the newest of them.
	Copy string `json:",omitempty"`
}

// State is where a message is.
type State string

// The states.
const (
	Queued      State = "queued"      // received, not with a handler yet
	InHand      State = "in_hand"     // with the handlers
	AtService   State = "at_service"  // not acknowledged: the service has it, and delivers it again at the next login
	Refused     State = "refused"     // the same, since a handler did not take it
	Kept        State = "kept"        // acknowledged, and its content is with us: to be handed over again
	Undecrypted State = "undecrypted" // acknowledged; its content is asked for
	SetAside    State = "set_aside"   // nothing is done before somebody asks
	LeftAlone   State = "left_alone"  // at the service: the process has died while it was handled, too often
)

// stored reports whether an entry in this state stands in the store.
func (s State) stored() bool {
	switch s {
	case Refused, Kept, Undecrypted, SetAside, LeftAlone:
		return true
	}
	return false
}

// Entry is a message that was not handled yet.
type Entry struct {
	Key   Key
	State State
	First time.Time // when it was received first
	Anew  time.Time `json:",omitzero"` // when its row of tries began anew; zero while it is the first one
	Since time.Time // when it came to wait or was set aside
	Last  time.Time // the last try; zero before the first
	Tries int       // how often handlers did not take it
	Worse int       // how often of these they had taken another one since the try before
	Why   string    // in words, about the last try or the state

	// Hidden says that nobody misses the message: it is for the phone alone, or
	// its sender said that nobody is to be told. The phone is asked for it a few
	// times only.
	Hidden bool

	Missed int // logins in a row that did not bring a refused message again

	before State // what it was when it came again
	came   bool  // on the present connection
	back   bool  // came again in this term, while it was with a handler
}

// Fails reports whether handlers did not take the message, and it waits for the
// next try or is under one.
func (e Entry) Fails() bool {
	s := e.State
	if e.before != "" {
		s = e.before
	}
	return (s == Refused || s == Kept) && e.Tries > 0
}

// Row is when its row of tries began.
func (e Entry) Row() time.Time { return latest(e.First, e.Anew) }

// Here reports whether the service has delivered it on the present connection.
func (e Entry) Here() bool { return e.came }

// Back reports whether the service has delivered it again in this term, while it was
// with a handler: it is unacknowledged.
func (e Entry) Back() bool { return e.back }

// Outcome is what became of a message that was with the handlers.
type Outcome uint8

// The outcomes.
const (
	Left     Outcome = iota // not handed over: unacknowledged, the service has it
	Handled                 // every handler took it
	Repeat                  // it had been handled before
	Declined                // a handler did not take it; unacknowledged
	Saved                   // a handler failed; acknowledged, its content is with us
	Lost                    // it could not be decrypted; acknowledged
	Odd                     // acknowledged, and no handler was given anything
	Poison                  // the handlers did not take it for too long: set aside
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

	redeliveries int       // in a row that brought nothing
	redelivered  time.Time // the last one

	vain  int       // tries of kept messages in a row that failed, and nothing was handled between them
	tried time.Time // the last of these

	asked []time.Time // when the phone was asked last, oldest first: at most askMost

	unsent   int       // requests to the phone in a row that could not be sent
	unsentAt time.Time // the last of these
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
// left there. Whoever sees the messages arrive has said so already.
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
// has to be told: as it is now, or with gone where it is to be removed.
func (b *Book) Ended(k Key, o Outcome, why string, now time.Time) (e Entry, write, gone bool) {
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
			b.vain, b.tried = b.vain+1, now
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
	b.vain = 0
	if was == Refused {
		b.redeliveries = 0
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

// Poisonous reports whether a message that the handlers are about to be given
// again is to be set aside instead: they did not take it for long, while they
// took others.
func (b *Book) Poisonous(k Key, now time.Time) bool {
	e, p := b.entries[k], b.Policy.Defaults()
	return e != nil && e.Worse >= p.PoisonTry && now.Sub(e.Row()) >= p.PoisonTime
}

// Aside sets a message aside.
func (b *Book) Aside(k Key, why string, now time.Time) (Entry, bool) {
	e := b.entries[k]
	if e == nil {
		return Entry{}, false
	}
	e.before, e.State, e.Since, e.Why = "", SetAside, now, why
	return *e, true
}

// Split gives what is known of a message under k a name of its own, since the
// message that is in hand under k is another one. It returns the entry as it is now.
func (b *Book) Split(k, own Key, now time.Time) (Entry, bool) {
	e := b.entries[k]
	if e == nil || e.before == "" {
		return Entry{}, false
	}
	old := *e
	old.Key, old.State, old.before = own, e.before, ""
	if old.State == Refused { // an acknowledgement names the id alone, so the service may not have it any more
		old.State, old.Since = Kept, now
	}
	*e = Entry{Key: k, State: InHand, First: now, Since: now, came: true}
	if b.entries[own] == nil { // else it came twice, and is there
		b.add(&old)
	}
	out := *b.entries[own]
	if out.before != "" { // it is in hand at the moment; its row is about what it was
		out.State, out.before = out.before, ""
	}
	return out, true
}

// Hide says whether nobody misses a message.
func (b *Book) Hide(k Key, hidden bool) {
	if e := b.entries[k]; e != nil {
		e.Hidden = hidden
	}
}

// Recovered notes that the content of an undecrypted message is with us now. It
// may have been set aside meanwhile, for want of that content.
func (b *Book) Recovered(k Key, why string, now time.Time) (Entry, bool) {
	e := b.entries[k]
	if e == nil || e.State != Undecrypted && e.State != SetAside {
		return Entry{}, false
	}
	e.State, e.Since, e.Last, e.Tries, e.Why, e.Hidden = Kept, now, time.Time{}, 0, why, false
	return *e, true
}

// Keep notes a message that the phone has sent, and that was not missed here.
func (b *Book) Keep(k Key, why string, now time.Time) (Entry, bool) {
	if b.entries[k] != nil {
		return Entry{}, false
	}
	e := &Entry{Key: k, State: Kept, First: now, Since: now, Why: why}
	b.add(e)
	return *e, true
}

// Surplus returns the oldest messages in a state, of those that drop names, beyond
// the newest keep; first the hidden ones.
func (b *Book) Surplus(s State, keep int, drop func(Key) bool) (out []Key) {
	var aside []*Entry
	for k, e := range b.entries {
		if e.State == s && drop(k) {
			aside = append(aside, e)
		}
	}
	if len(aside) <= keep {
		return nil
	}
	slices.SortFunc(aside, func(x, y *Entry) int { // whoever sends what nobody misses pushes nothing else out
		switch {
		case x.Hidden && !y.Hidden:
			return -1
		case y.Hidden && !x.Hidden:
			return 1
		}
		return older(*x, *y)
	})
	for _, e := range aside[:len(aside)-keep] {
		out = append(out, e.Key)
	}
	return out
}

// Again makes a message that was set aside, or kept, due at once. content says
// that there is something to hand over.
func (b *Book) Again(k Key, content bool, now time.Time) (Entry, bool) {
	e := b.entries[k]
	if e == nil || e.State != SetAside && e.State != Kept || !content {
		return Entry{}, false
	}
	// Its row of tries begins anew, or it would be set aside again at once.
	e.State, e.Since, e.Anew, e.Last, e.Tries, e.Worse = Kept, now, now, time.Time{}, 0, 0
	return *e, true
}

// Offer gives a message that was left alone one more chance, at the next login.
func (b *Book) Offer(k Key, now time.Time) bool {
	e := b.entries[k]
	if e == nil || e.State != LeftAlone {
		return false
	}
	e.State, e.Since = AtService, now
	return true
}

// Alone lists what was left alone before a moment.
func (b *Book) Alone(before time.Time) (out []Key) {
	for k, e := range b.entries {
		if e.State == LeftAlone && e.Since.Before(before) {
			out = append(out, k)
		}
	}
	return out
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
	b.redeliveries, b.redelivered, b.vain, b.unsent = 0, time.Time{}, 0, 0
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

func older(x, y Entry) int {
	return cmp.Or(x.First.Compare(y.First), cmp.Compare(x.Key.ID, y.Key.ID), cmp.Compare(x.Key.Chat, y.Key.Chat), cmp.Compare(x.Key.Sender, y.Key.Sender), cmp.Compare(x.Key.Copy, y.Key.Copy))
}

// Due returns what is to be handed over again now, oldest first, and when to
// look again; zero when nothing is kept.
//
// A host that takes nothing is down, and a try is written down. So of the messages that
// failed, and behind which nothing was handled, one at a time is tried, with pauses:
// the one whose last try is the longest ago. Once a message is handled, all are due.
func (b *Book) Due(now time.Time) (due []Entry, again time.Time) {
	all, again := b.due(now, Kept, func(e *Entry) time.Time { return e.Last.Add(b.pause(e.Tries)) })
	probe, next := -1, b.tried.Add(b.pause(b.vain))
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

// Redelivery is when a new connection is to be made so that the service delivers
// again what was refused, or left there; zero while nothing of that waits. connected is when the
// present one began, busy when a send or a handler was last seen under way: that
// puts it off for as long as it lasts, and past AtLatest for at most Quiet.
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
		b.redeliveries = 0 // the row is over, however they ended
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
	at := latest(put(earliest(quiet, must), must), b.redelivered.Add(b.pause(b.redeliveries)))
	if left.IsZero() {
		return at
	}
	return earliest(at, left)
}

// left reports whether the service has delivered a message on the present connection
// that is left there, such as while the store did not answer. Nothing but another login
// brings it.
func (e *Entry) left() bool { return e.State == AtService && e.came }

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
	b.redeliveries++
	b.redelivered = now
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

// counts is the state under which Sums counts the message.
func (e *Entry) counts() State {
	if e.before != "" && e.State != InHand { // queued once more
		return e.before
	}
	return e.State
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
