package stability

import (
	"context"
	"time"

	"github.com/wastability/wastability/authstore"
)

// What a killed process has left in the event buffer: see
// ReceivedMessages.PerhapsHandled and authstore.EventLeftovers.

const (
	settleAfter = 15 * time.Minute // behind the backlog of a login: whoever handles it has begun
	settleAgain = 24 * time.Hour
)

// backlog is what waited at the service for a login. The book's mutex guards it.
type backlog struct {
	in       bool      // the service has delivered all of it, on this connection
	settleAt time.Time // when the event buffer is next looked through; zero before that, in this term
}

// delivered notes that the service has delivered all of it.
func (b *backlog) delivered(now time.Time) {
	b.in = true
	// One that is due sooner stays: a host that refuses something for ever makes a login
	// every quarter of an hour.
	if at := now.Add(settleAfter); b.settleAt.IsZero() || at.Before(b.settleAt) {
		b.settleAt = at
	}
}

// hungUp notes that the connection is over.
func (b *backlog) hungUp() { b.in = false }

// settles says whether the event buffer is to be looked through now, and when next; zero
// where a login has to come before.
func (b *backlog) settles(now time.Time) (due bool, next time.Time) {
	if !b.in {
		return false, time.Time{}
	}
	if due = !now.Before(b.settleAt); due {
		b.settleAt = now.Add(settleAgain)
	}
	return due, b.settleAt
}

// stillDelivered tells the store of a message that the service has delivered and
// that whatsmeow is not given.
func (d *delivery) stillDelivered() {
	s := d.a.m.can.leftovers
	if s == nil || d.node == nil {
		return
	}
	for _, p := range d.encrypted() {
		for _, hash := range d.hashesOf(context.Background(), p) {
			s.DeliveredEvent(hash)
		}
	}
}

// settle is called when the service has delivered all that it has.
func (r *received) settle() {
	s := r.m.can.leftovers
	if s == nil {
		return
	}
	before, _ := s.LeftoverEvents()
	if s.SettleEvents(r.judge) != nil {
		return // the term is over
	}
	if n, _ := s.LeftoverEvents(); n > before {
		r.m.cfg.logger.Warn("decrypted messages of an earlier term may have been handled; WhatsApp will not deliver them again", "messages", n)
	}
	r.tell()
}

// judge says whether the book has the message with that plaintext. One
// that does not parse was most likely given to no handler: whatsmeow acknowledges it.
func (r *received) judge(plaintext []byte) authstore.Leftover {
	raw, _, ok := unpadded(plaintext)
	if !ok {
		return authstore.LeftoverUseless
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.more {
		if !rec.OfPhone && rec.has(raw) {
			return authstore.LeftoverKnown
		}
	}
	return authstore.LeftoverPerhapsHandled
}
