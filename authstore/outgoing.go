package authstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// Outgoing events: sent messages are kept, so that a peer who could not
// decrypt one can ask again, also after a restart. whatsmeow adds one just
// before it encrypts, so it rides on the commit of that send's sessions and
// costs none of its own. One in the common format costs no row either: it is
// kept as KeepSent keeps what is sent.
//
// whatsmeow asks with every send that old ones be deleted, and an error would
// fail the send. So a send never waits for it: it happens beside, twice a day
// however many terms there are, in one look at the table, and what goes rides
// too. The account remembers when that was. Received messages ask for it as well:
// an account that sends little, and a whatsmeow that never asks, keep nothing for
// longer. A look that fails is repeated after an hour; it never ends the term.

const (
	outgoingTTL   = 7 * 24 * time.Hour // see Retention.Sent
	outgoingMost  = 10_000             // what is left of more, however young: Retention.SentCount
	outgoingEvery = 12 * time.Hour     // how often old ones are looked for
	outgoingAgain = time.Hour          // after a look that failed

	outgoingNote = "outgoing_sweep" // a single value: when the table was last looked at
)

func outgoingID(chat types.JID, id types.MessageID) string {
	return outgoingIDOf(chat.ToNonAD().String(), string(id))
}

func outgoingIDOf(chat, id string) string { return shortHash(id) + "/" + shortHash(chat) }

// outgoingValue is a time (Unix ms), a format and a plaintext.
func outgoingValue(at int64, format string, plaintext []byte) []byte {
	return append(appendBytes(fieldsOf(at), []byte(format)), plaintext...)
}

func (s *deviceStore) AddOutgoingEvent(ctx context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error {
	const op = "add outgoing event"
	if format == packedKind {
		return s.KeepSent(ctx, chat, id, plaintext)
	}
	if s.cfg.retention.Sent < 0 {
		return s.ready(op)
	}
	s.mu.Lock()
	s.upkeep.grew(tOutgoing, 1)
	s.mu.Unlock()
	return s.later(ctx, op, soon,
		put(tOutgoing, outgoingID(chat, id), outgoingValue(time.Now().UnixMilli(), format, plaintext)))
}

// OutgoingCounter is a Store that counts what whatsmeow looked for among the
// outgoing events, where newer versions keep what they send: recipients asked for
// it again. *Container implements it. The counts are of this process.
type OutgoingCounter interface {
	OutgoingAsked() (found, missing, failed uint64)
}

var _ OutgoingCounter = (*Container)(nil)

// outgoingAsked are the counters behind OutgoingAsked.
type outgoingAsked struct{ found, missing, failed atomic.Uint64 }

// OutgoingAsked counts the lookups of outgoing events in this process: those
// that found one, those of one that was not kept or is too old, and those
// without the KV's answer.
func (c *Container) OutgoingAsked() (found, missing, failed uint64) {
	a := &c.cfg.asked
	return a.found.Load(), a.missing.Load(), a.failed.Load()
}

// GetOutgoingEvent looks under chat, then under altChat. Missing, or older than
// Retention.Sent: empty, nil.
func (s *deviceStore) GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (format string, plaintext []byte, err error) {
	format, plaintext, err = s.outgoingEvent(ctx, chat, altChat, id)
	switch a := &s.cfg.asked; {
	case err != nil:
		a.failed.Add(1)
	case format == "":
		a.missing.Add(1)
	default:
		a.found.Add(1)
	}
	return format, plaintext, err
}

func (s *deviceStore) outgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (format string, plaintext []byte, err error) {
	const op = "get outgoing event"
	if err := s.ready(op); err != nil {
		return "", nil, err
	}
	ids := []string{outgoingID(chat, id)}
	if !altChat.IsEmpty() {
		ids = append(ids, outgoingID(altChat, id))
	}
	// Memory first: a row that it drops between the two looks is durable by then.
	if format, plaintext, err = s.outgoingIn(ids, func(rowID string) ([]byte, bool, error) {
		v, ok := s.get(ctx, tOutgoing, rowID)
		return v, ok, nil
	}); err != nil || format != "" {
		return format, plaintext, err
	}
	if plaintext, found, _ := s.sentHere(ids); found {
		return packedKind, plaintext, nil
	}
	if format, plaintext, err = s.outgoingIn(ids, func(rowID string) ([]byte, bool, error) {
		return s.readRow(op, row{tOutgoing, rowID})
	}); err != nil || format != "" {
		return format, plaintext, err
	}
	if plaintext, err = s.Sent(ctx, chat, altChat, id); err != nil || plaintext == nil {
		return "", nil, err
	}
	return packedKind, plaintext, nil
}

// outgoingIn gives the first of the rows that is there and not too old.
func (s *deviceStore) outgoingIn(ids []string, look func(rowID string) ([]byte, bool, error)) (format string, plaintext []byte, err error) {
	for _, rowID := range ids {
		v, ok, err := look(rowID)
		if err != nil {
			return "", nil, err
		}
		if !ok {
			continue
		}
		f := fields{b: v}
		at, kind := f.varint(), string(f.bytes())
		if f.err != nil {
			if err := s.setAside(tOutgoing, rowID, v, f.err); err != nil {
				return "", nil, err
			}
			continue
		}
		if at < before(s.cfg.retention.Sent).UnixMilli() {
			continue // it goes with the next look at the table
		}
		return kind, copyOf(f.b), nil
	}
	return "", nil, nil
}

// DeleteOldOutgoingEvents returns at once: see above.
func (s *deviceStore) DeleteOldOutgoingEvents(context.Context) error {
	const op = "delete old outgoing events"
	if err := s.ready(op); err != nil {
		return err
	}
	s.mu.Lock()
	now := time.Now()
	due := s.upkeep.due(tOutgoing, now) && !s.outgoingLookedLocked(now)
	if due {
		s.upkeep.lookAgain(tOutgoing, now.Add(outgoingEvery))
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	s.inBackground(func() {
		if err := s.deleteOldOutgoing(op); err != nil && s.gate.check("") == nil {
			s.cfg.log.Warn("old outgoing events were not deleted; the deletion is tried again in an hour", "error", err)
			s.mu.Lock()
			s.upkeep.lookAgain(tOutgoing, time.Now().Add(outgoingAgain))
			s.mu.Unlock()
		}
	})
	return nil
}

// outgoingLookedLocked reports whether an earlier look, perhaps of an earlier term, is
// young enough. If nothing may be kept, the kept events go at once.
func (s *deviceStore) outgoingLookedLocked(now time.Time) bool {
	v, ok := s.im.get(tMisc, outgoingNote)
	f := fields{b: v}
	looked := time.Unix(f.varint(), 0)
	// Ahead of now: a clock was wrong, and nothing waits for that time to come.
	return ok && f.err == nil && s.cfg.retention.Sent >= 0 && !looked.After(now) && now.Before(looked.Add(outgoingEvery))
}

func (s *deviceStore) deleteOldOutgoing(op string) error {
	by := reader{
		scan: func(op string, f func(context.Context) error) error { return s.gate.look(context.Background(), op, f) },
		get:  func(op string, f func(context.Context) error) error { return s.cfg.call(context.Background(), op, f) },
	}
	look, end := s.beginLook()
	defer end()
	stored, err := s.scanTable(by, op, tOutgoing, "")
	if err != nil {
		return err
	}
	type event struct {
		id    string
		at    int64
		count int // messages in it
	}
	var events []event
	for _, r := range stored {
		f := fields{b: r.data}
		switch at := f.varint(); {
		case errors.Is(r.err, ErrCorrupt):
			s.quarantine(look, []loadedRow{r})
		case r.err == nil:
			e := event{r.row.bucket, at, 1}
			if string(f.bytes()) == packedFormat {
				e.count = packedCount
			}
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(b.at, a.at) })
	limit := before(s.cfg.retention.Sent).UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.closed {
		return nil
	}
	var old []change
	kept, left := 0, s.pack.count
	for _, e := range events {
		if _, newer := s.im.get(tOutgoing, e.id); !newer && (e.at < limit || kept >= s.cfg.retention.SentCount) {
			old = append(old, del(tOutgoing, e.id))
		} else if e.id != s.pack.id {
			left += e.count
		}
		kept += e.count
	}
	s.upkeep.counted(tOutgoing, left)
	for id, v := range s.im.flat[tOutgoing] {
		if f := (fields{b: v}); f.varint() < limit {
			old = append(old, del(tOutgoing, id))
		}
	}
	if len(old) > 0 {
		s.laterLocked(lazily, old...)
	}
	// The next commit takes it along; if it is lost, there is one look more.
	s.laterLocked(outgoingAgain, put(tMisc, outgoingNote, fieldsOf(time.Now().Unix())))
	s.dropBesideLocked(limit)
	return nil
}
