package book

import (
	"slices"
	"time"
)

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
