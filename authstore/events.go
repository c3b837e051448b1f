package authstore

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/store"
)

// The event buffer. A decrypted event is a row of its own until the host's
// handlers are done with it; then its hash joins others of its age in one row.
// All hashes are in memory, so a hash that was never seen costs no read.

// eventTTL is how long the service keeps what was not acknowledged.
const eventTTL = 14 * 24 * time.Hour

var errEventExists = errors.New("authstore: this event is in the buffer already")

// eventMemory is what this term knows of the event buffer beside its rows.
// deviceStore.mu guards it.
type eventMemory struct {
	seenRow  string // the bucket that takes the next finished event
	seenNext int
	unasked  map[string]struct{} // decrypted events of earlier terms that nobody has asked for in this one
}

// goOn lets a row that an earlier term has left take finished events.
func (m *eventMemory) goOn(row string) { m.seenRow = row }

// nextRow gives a new row for finished events.
func (m *eventMemory) nextRow(epoch int64) string {
	m.seenNext++
	m.seenRow = strconv.FormatInt(epoch, 36) + "-" + strconv.Itoa(m.seenNext)
	return m.seenRow
}

// forget is for another device, with rows of its own.
func (m *eventMemory) forget() { m.seenRow = "" }

// begin begins a term: nobody has asked yet for the events that are in the
// buffer now.
func (m *eventMemory) begin(im *image) {
	m.unasked = make(map[string]struct{})
	im.each(tEvent, func(id string, _ []byte) { m.unasked[id] = struct{}{} })
}

// asked notes that the service still has a message.
func (m *eventMemory) asked(id string) { delete(m.unasked, id) }

// isUnasked reports whether an earlier term has left an event that nobody has asked for.
func (m *eventMemory) isUnasked(id string) bool {
	_, ok := m.unasked[id]
	return ok
}

// unaskedRows gives those events with their rows, and forgets those whose row is gone.
func (m *eventMemory) unaskedRows(im *image) map[string][]byte {
	rows := make(map[string][]byte)
	for id := range m.unasked {
		if v, ok := im.get(tEvent, id); ok {
			rows[id] = v
		} else {
			delete(m.unasked, id)
		}
	}
	return rows
}

func eventID(hash [32]byte) string { return hex.EncodeToString(hash[:]) }

// An event is stored as insert time (Unix ms), server time (Unix s) and
// plaintext, a finished one without the plaintext.
func eventValue(inserted, server int64) []byte {
	return fieldsOf(inserted, server)
}

func parseEvent(b []byte) (inserted, server int64, plaintext []byte, err error) {
	f := fields{b: b}
	inserted, server = f.varint(), f.varint()
	return inserted, server, f.b, f.err
}

func (s *deviceStore) GetBufferedEvent(ctx context.Context, hash [32]byte) (*store.BufferedEvent, error) {
	if err := s.ready("get buffered event"); err != nil {
		return nil, err
	}
	id := eventID(hash)
	s.askedFor(id)
	v, open, ok := s.buffered(ctx, id)
	at := id // where it stands
	if !ok {
		var err error
		if v, at, open, ok, err = s.renamed(ctx, id, hash); err != nil {
			return nil, err
		}
		if !ok {
			return s.follow(ctx, hash, nil)
		}
	}
	inserted, server, plaintext, err := parseEvent(v)
	if err != nil {
		from := tSeen
		if open {
			from = tEvent
		}
		return nil, s.setAside(from, at, v, err)
	}
	e := &store.BufferedEvent{InsertTime: time.UnixMilli(inserted), ServerTime: time.Unix(server, 0)}
	if open {
		e.Plaintext = copyOf(plaintext)
	}
	return s.follow(ctx, hash, e)
}

// buffered is the row of an event; open says that it is not finished.
func (s *deviceStore) buffered(ctx context.Context, id string) (v []byte, open, ok bool) {
	if v, ok = s.get(ctx, tEvent, id); ok {
		return v, true, true
	}
	v, ok = s.get(ctx, tSeen, id)
	return v, false, ok
}

// renamed looks for an event under the hashes that its message's delivery knows beside
// that one. An open one is put under hash, where whatsmeow clears it. The mark rides:
// lost in a crash, the event is found here once more. at is where it stands then.
func (s *deviceStore) renamed(ctx context.Context, id string, hash [32]byte) (v []byte, at string, open, ok bool, err error) {
	d := deliveryOf(ctx)
	if d == nil {
		return nil, "", false, false, nil
	}
	for _, other := range d.OtherHashes(ctx, hash) {
		was := eventID(other)
		if v, open, ok = s.buffered(ctx, was); !ok || was == id {
			continue
		}
		if open {
			return v, id, true, true, s.later(ctx, "rename buffered event", soon, del(tEvent, was), put(tEvent, id, v))
		}
		return v, was, false, true, nil
	}
	return nil, "", false, false, nil
}

func (s *deviceStore) PutBufferedEvent(ctx context.Context, hash [32]byte, plaintext []byte, serverTimestamp time.Time) error {
	id := eventID(hash)
	for _, t := range []tableID{tEvent, tSeen} {
		if _, ok := s.get(ctx, t, id); ok {
			return errEventExists
		}
	}
	if d, ok := deliveryOf(ctx).(SecretDelivery); ok {
		if in, ok := d.Secret(plaintext); ok {
			if err := s.PutMessageSecrets(ctx, []store.MessageSecretInsert{in}); err != nil {
				return err
			}
		}
	}
	value := append(eventValue(time.Now().UnixMilli(), serverTimestamp.Unix()), plaintext...)
	if err := s.write(ctx, "put buffered event", put(tEvent, id, value)); err != nil {
		return err
	}
	s.loggedIn()
	return nil
}

// ClearBufferedEventPlaintext marks an event as finished. It rides: lost in a
// crash it means that the event is handed over once more. A handler may return
// when its device is over; the device that took its place is told then.
func (s *deviceStore) ClearBufferedEventPlaintext(ctx context.Context, hash [32]byte) error {
	if d := deliveryOf(ctx); d != nil {
		var plaintext []byte
		if v, ok := s.get(ctx, tEvent, eventID(hash)); ok {
			_, _, plaintext, _ = parseEvent(v)
		}
		if err := d.Finish(ctx, plaintext); err != nil {
			return err
		}
	}
	err := s.finishEvent(ctx, hash)
	if err != nil && s.gate.check("") != nil {
		if next := s.c.successor(s); next != nil {
			return next.finishEvent(ctx, hash)
		}
	}
	return err
}

// successor is the live device that stands on the same rows as s, which is
// over; nil if there is none.
func (c *Container) successor(s *deviceStore) *deviceStore {
	c.mu.Lock()
	next := c.current
	c.mu.Unlock()
	if next == nil || next == s {
		return nil
	}
	s.mu.Lock()
	gen := s.gen
	s.mu.Unlock()
	next.mu.Lock()
	defer next.mu.Unlock()
	if gen == "" || next.gen != gen {
		return nil
	}
	return next
}

func (s *deviceStore) finishEvent(ctx context.Context, hash [32]byte) error {
	id := eventID(hash)
	return s.update(ctx, "clear buffered event", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		v, ok := get(tEvent, id)
		if !ok {
			return nil
		}
		inserted, server, _, err := parseEvent(v)
		if err != nil {
			return []change{del(tEvent, id)}
		}
		done := put(tSeen, id, eventValue(inserted, server))
		done.bucket = s.seenBucketLocked(ctx)
		return []change{del(tEvent, id), done}
	})
}

// seenBucketLocked is the row that takes the next finished event. In a
// transaction, which does not hold mu, it is a row of its own.
func (s *deviceStore) seenBucketLocked(ctx context.Context) string {
	if s.txnOf(ctx) != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	r := s.events.seenRow
	if r == "" || len(s.im.packed[tSeen][r]) >= seenChunk {
		r = s.events.nextRow(s.gate.fence.Epoch())
	}
	return r
}

// DeleteOldBufferedHashes forgets what the service cannot deliver again. A
// message that no handler has finished stays here, however old it is (but see
// leftover.go). Without its plaintext the service's next delivery of it would
// be taken for one that was handled. whatsmeow asks for it with its first
// message and then twice a day.
func (s *deviceStore) DeleteOldBufferedHashes(ctx context.Context) error {
	const op = "delete old buffered events"
	if err := s.ready(op); err != nil {
		return err
	}
	limit := before(s.cfg.retention.FinishedEvents).UnixMilli()
	var changes []change
	s.each(ctx, tSeen, func(id string, v []byte) {
		if inserted, _, _, err := parseEvent(v); err != nil || inserted < limit {
			changes = append(changes, del(tSeen, id))
		}
	})
	s.sweep()
	return s.write(ctx, op, changes...)
}
