package stability

import (
	"context"
	"time"

	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
)

// ended notes what became of a message.
func (r *received) ended(d *delivery) {
	d.untold()
	o, why := d.outcome()
	if (o == book.Odd || o == book.Lost) && d.course.Buffered() && !r.past(d) { // else the store is another term's
		d.finished() // acknowledged, and whatsmeow does not come back for what it could not read
	}
	hung := d.ours() && time.Since(d.began) >= hangsAfter
	d.mu.Lock()
	info, contents, hidden, untried := d.info, d.content.kept, d.course.Hidden(), d.course.Untried()
	content := d.content.sent
	d.mu.Unlock()
	now := time.Now()
	var surplus []book.Key
	var took book.Entry // as the row has it, where the message is done with
	r.mu.Lock()
	theirs := d.own.other(r.own) // another account was paired meanwhile
	if r.inHand[d.key] == d {
		delete(r.inHand, d.key)
	}
	if o = r.outlived(d, o); o == book.Left && d.term != r.term.number {
		r.mu.Unlock()
		r.wake.ring()
		r.tell()
		return
	}
	e, write, removed := r.book.Ended(d.key, o, why, now)
	rec := r.more[d.key]
	if rec.Begun { // it did end, and its row says that it did not
		rec.Begun, rec.Deaths = false, max(0, rec.Deaths-1)
		if o != book.Left { // a handler was given it
			rec.Deaths = 0
		}
		if !write && !removed {
			if e, write = r.book.Find(d.key); !write || e.State == book.AtService {
				removed = rec.Deaths == 0
				e.Key, e.State = d.key, rec.State
			}
			hidden = hidden || e.Hidden // it is what it was
		}
		write = true
	}
	switch {
	case removed:
		if rec.unread() { // its sender has sent it again
			for _, sum := range rec.sums(content) {
				surplus = append(surplus, r.found(d.key, foundNote{Sum: sum, At: now}, now)...)
			}
		}
		if rec.Key == (book.Key{}) { // its term is over
			rec.Entry = d.before.Entry
		}
		took = rec.Entry
		delete(r.more, d.key)
	case write:
		if untried { // it is due at once
			if due, ok := r.book.Again(d.key, true, now); ok {
				e = due
			}
		}
		rec.Unread = rec.unread()
		if rec.Of == (ownNames{}) {
			rec.Of = d.own
		}
		rec.Entry, rec.Info = e, info
		rec.Hidden = hidden
		r.book.Hide(d.key, hidden)
		if len(contents) > 0 {
			rec.Contents, rec.OfPhone = contents, rec.OfPhone && d.ours()
		}
		r.note(rec)
	}
	var is change
	if write {
		is = r.changed(d.key)
		if o == book.Handled || o == book.Repeat {
			r.owing.took(took)
		}
	}
	r.mu.Unlock()
	r.forget(surplus)
	if write {
		// A kept or undecrypted message is in the store by now, where it can be:
		// this tells it more. A refused message is at the service.
		// Nothing else is written when a message is handled that was kept here, so the next one
		// waits for the note of it: an outage would forget the notes of all of them.
		err := r.write(context.Background(), is, o == book.Saved || removed && d.ours())
		if declined := why == course.WhyRefused || why == course.WhyUnheard; err == nil && o == book.Saved && declined && !d.ours() {
			d.finished() // whatsmeow has acknowledged it, and does not come back for it
		}
	}
	if theirs && write && !removed {
		r.aside(e, whyAnotherAccount)
	}
	switch o {
	case book.Odd:
		r.dropSurplus()
	case book.Lost:
		r.missTooMany()
	}
	if write || hung || o == book.Left && !d.ours() { // else nothing that is due has changed: most messages are handled at once
		r.wake.ring()
		r.tell()
	}
}

// outlived is what became of a message whose handlers have returned behind the end of
// their term. A message that they did not take was not acknowledged, so it is not theirs
// any more: the store says what is to be done with it, or the service delivers it to the
// next holder. The caller holds mu.
func (r *received) outlived(d *delivery, o book.Outcome) book.Outcome {
	if d.term == r.term.number || o == book.Handled || o == book.Repeat {
		return o
	}
	e, _ := r.book.Find(d.key)
	rec, known := r.more[d.key]
	known = known && r.term.read
	back := !known && e.Back() // and was left at the service
	if back && e.Here() {
		return book.Declined
	}
	r.book.Remove(d.key)
	switch {
	case known:
		r.book.Load([]book.Entry{rec.Entry})
	case back: // the next login brings it
		r.book.Load([]book.Entry{{Key: d.key, State: book.AtService, First: e.First, Since: time.Now()}})
	default:
		delete(r.more, d.key)
	}
	return book.Left
}

// past reports whether the term in which a message was taken in hand is over.
func (r *received) past(d *delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.term != r.term.number
}
