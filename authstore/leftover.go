package authstore

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// Leftovers of the event buffer.
//
// whatsmeow decrypts a part of a message and puts it into the buffer, gives it to the
// handlers, marks it as finished when they took it, and acknowledges the
// message. The mark rides, up to a second late. So a process that is killed
// behind the acknowledgement leaves the plaintext without its mark, and nobody
// comes back for it: the service has the message no more. (A part that
// whatsmeow acknowledged because it could not parse it is left too.)
//
// Such a row is not handed over again. The service keeps a message until it is
// acknowledged, and whatsmeow acknowledges behind the handlers: they have taken
// it, unless the account was away for so long that the service dropped the
// message. Nor could it be: the row does not know its sender and chat.
//
// So it is counted as a message that was perhaps handled, and goes in the end.

// EventLeftovers is a Store that knows which decrypted messages an earlier term
// has left in the event buffer without the mark that they are finished. Its caller
// tells it when the service has delivered all that it has. *Container implements it.
type EventLeftovers interface {
	// DeliveredEvent says that the service still has the part of a message whose
	// ciphertext has that hash, although whatsmeow was not given it.
	DeliveredEvent(hash [32]byte)
	// SettleEvents says that the service has delivered all that it has. A message
	// that an earlier term has left, and that nobody has asked for in this one,
	// was perhaps handled. It is kept for Retention.FinishedEvents from now on,
	// and removed by a later call. judge says what the caller knows of a plaintext
	// (padded, as whatsmeow decrypted it). Changes ride with the next commit.
	SettleEvents(judge func(plaintext []byte) Leftover) error
	// LeftoverEvents counts the messages that were perhaps handled, and says when
	// the oldest of them was received. From memory.
	LeftoverEvents() (n int, oldest time.Time)
}

// Leftover is what the caller of SettleEvents knows of a plaintext.
type Leftover uint8

// States of what is known of a plaintext.
const (
	LeftoverPerhapsHandled Leftover = iota // nothing: it was perhaps handled
	LeftoverKnown                          // what became of it: it is left alone
	LeftoverUseless                        // nothing that can be read as a message: it goes in the end, and is not counted
)

var _ EventLeftovers = (*Container)(nil)

const leftoverID = "leftovers" // a single value: the ids of leftovers, and when each was found; negative where it is useless

// askedFor notes that the service still has a message.
func (s *deviceStore) askedFor(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.asked(id)
}

// leftoversLocked are the leftovers that were found, by id, with the time at which
// each was found. mu is held.
func (s *deviceStore) leftoversLocked() map[string]int64 {
	v, ok := s.im.get(tMisc, leftoverID)
	if !ok {
		return nil
	}
	out := make(map[string]int64)
	for f := (fields{b: v}); len(f.b) > 0; {
		id, at := hex.EncodeToString(f.bytes()), f.varint()
		if f.err != nil {
			break // found anew
		}
		_, there := s.im.get(tEvent, id)
		if there && s.events.isUnasked(id) {
			out[id] = at
		}
	}
	return out
}

// DeliveredEvent implements EventLeftovers.
func (c *Container) DeliveredEvent(hash [32]byte) {
	if s, err := c.device("note a delivery"); err == nil {
		s.askedFor(eventID(hash))
	}
}

// SettleEvents implements EventLeftovers.
func (c *Container) SettleEvents(judge func(plaintext []byte) Leftover) error {
	const op = "look for what the event buffer has left"
	s, err := c.device(op)
	if err != nil {
		return err
	}
	if err := s.ready(op); err != nil {
		return err
	}
	s.mu.Lock()
	rows := s.events.unaskedRows(s.im)
	s.mu.Unlock()
	useless := make(map[string]bool)
	for id, v := range rows {
		_, _, plaintext, err := parseEvent(v)
		if err != nil {
			continue
		}
		switch judge(plaintext) {
		case LeftoverKnown:
			delete(rows, id)
		case LeftoverUseless:
			useless[id] = true
		}
	}
	now, limit := time.Now(), before(s.cfg.retention.FinishedEvents).Unix()
	return s.update(context.Background(), op, lazily, func(get func(tableID, string) ([]byte, bool)) (changes []change) {
		found := s.leftoversLocked()
		var note []byte
		for _, id := range slices.Sorted(maps.Keys(rows)) {
			if !s.events.isUnasked(id) { // meanwhile somebody has asked
				continue
			}
			at, ok := found[id]
			if ok && max(at, -at) < limit {
				changes = append(changes, del(tEvent, id))
				continue
			}
			if !ok || max(at, -at) > now.Unix() { // the clock was ahead when it was found
				if at = now.Unix(); useless[id] {
					at = -at
				}
			}
			if raw, err := hex.DecodeString(id); err == nil {
				note = append(appendBytes(note, raw), fieldsOf(at)...)
			}
		}
		switch old, ok := get(tMisc, leftoverID); {
		case len(note) == 0 && ok:
			changes = append(changes, del(tMisc, leftoverID))
		case len(note) > 0 && !same(old, ok, note):
			changes = append(changes, put(tMisc, leftoverID, note))
		}
		return changes
	})
}

// LeftoverEvents implements EventLeftovers.
func (c *Container) LeftoverEvents() (n int, oldest time.Time) {
	s, err := c.device("count what the event buffer has left")
	if err != nil {
		return 0, time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.leftoversLocked() {
		if at < 0 { // useless
			continue
		}
		v, _ := s.im.get(tEvent, id)
		inserted, _, _, err := parseEvent(v)
		if err != nil {
			continue
		}
		n++
		if at := time.UnixMilli(inserted); oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	return n, oldest
}
