package authstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// SentKeeper keeps what was sent, for recipients who could not decrypt it and ask
// again, also after a restart or a hand-over. The stores of a Container's Device
// implement it. Newer versions of whatsmeow keep what they send in outgoing
// events by themselves, and do not need it.
type SentKeeper interface {
	// KeepSent keeps the plaintext of a message that is on its way. It does not
	// wait for I/O.
	KeepSent(ctx context.Context, chat types.JID, id types.MessageID, plaintext []byte) error
	// Sent gives it back: looked for under chat, then under altChat. Missing, or
	// older than Retention.Sent: nil.
	Sent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (plaintext []byte, err error)
}

var _ SentKeeper = (*deviceStore)(nil)

// Sixteen sent messages share a row of the table of outgoing events, and a row is
// written when it is full. Before that a message stands beside a session (see
// beside.go). So a send costs no commit and a sixteenth of a row. A message that
// goes out without WithSending is kept a moment after the commit of its send. It
// goes with the next commit that has a session, with any other one when it has
// waited for packedWait, and at the end of the term. A crash before that costs the
// plaintext, and then such a recipient is answered as if nothing was kept.

const (
	packedCount  = 16
	packedBytes  = 64 << 10 // a row with that much is full too
	packedWait   = 10 * time.Second
	packedFormat = "packed"
	packedKind   = "wa"             // whatsmeow's word for the format of such a plaintext
	packedFresh  = 10 * time.Minute // how long the rows that were read for a lookup stay in memory
)

// sentPack is the row that takes the next sent messages.
type sentPack struct {
	id     string
	data   []byte // entries
	last   int64  // Unix ms of the newest
	count  int
	loose  []byte              // entries that no commit has taken along
	since  time.Time           // of the oldest of these
	beside map[string]struct{} // the addresses of sessions beside which the others stand
	own    string              // tells the rows of this store from those of another one in the same term
	next   int

	read   map[string][]byte // what was read for a lookup, by outgoingID
	readAt time.Time
}

func (p *sentPack) full() bool { return p.count >= packedCount || len(p.data) >= packedBytes }

// packedEntry is an outgoing id, and time and plaintext.
func packedEntry(id string, at int64, plaintext []byte) []byte {
	return appendBytes(appendBytes(nil, []byte(id)), append(fieldsOf(at), plaintext...))
}

// KeepSent implements SentKeeper.
func (s *deviceStore) KeepSent(_ context.Context, chat types.JID, id types.MessageID, plaintext []byte) error {
	const op = "keep a sent message"
	if err := s.ready(op); err != nil || s.cfg.retention.Sent < 0 {
		return err
	}
	s.mu.Lock()
	if s.queue.closed {
		s.mu.Unlock()
		return &overError{op: op, cause: ErrSuperseded}
	}
	now, key := time.Now(), outgoingID(chat, id)
	p := &s.pack
	if len(p.loose) == 0 {
		p.since = now
	}
	entry := packedEntry(key, now.UnixMilli(), plaintext)
	s.addSentLocked(entry, now.UnixMilli())
	p.loose = append(p.loose, entry...)
	s.upkeep.grew(tOutgoing, 1)
	switch {
	case p.read != nil && now.Sub(p.readAt) > packedFresh:
		p.read = nil
	case p.read != nil:
		p.read[key] = append(fieldsOf(p.last), plaintext...)
	}
	full := p.full() || len(plaintext) > besideMost
	if full {
		s.packLocked(true)
	}
	s.mu.Unlock()
	if full {
		return s.DeleteOldOutgoingEvents(context.Background())
	}
	return nil
}

// addSentLocked adds an entry to the row that takes the next sent messages.
func (s *deviceStore) addSentLocked(entry []byte, at int64) {
	p := &s.pack
	if p.count == 0 {
		if p.own == "" {
			p.own = rand.Text()[:8]
		}
		p.next++
		p.id = packedFormat + "/" + strconv.FormatInt(s.gate.fence.Epoch(), 36) + "-" + p.own + "-" + strconv.Itoa(p.next)
		p.beside = make(map[string]struct{})
	}
	p.last = max(p.last, at)
	p.data = append(p.data, entry...)
	p.count++
}

// packLocked lets the next commit write the row of the messages that no commit
// has taken along; with all, also that of the messages that stand beside sessions.
func (s *deviceStore) packLocked(all bool) {
	p := &s.pack
	if p.count == 0 || len(p.loose) == 0 && (!all || len(p.beside) == 0) {
		return
	}
	c := put(tOutgoing, p.id, outgoingValue(p.last, packedFormat, p.data))
	s.queue.postpone(s.im, c)
	for address := range p.beside {
		delete(s.im.beside, address)
	}
	clear(p.beside)
	p.loose = nil
	if p.full() {
		p.data, p.count = nil, 0
	}
}

// packDueLocked is packLocked for a commit that happens anyway.
func (s *deviceStore) packDueLocked() {
	if len(s.pack.loose) > 0 && time.Since(s.pack.since) >= packedWait {
		s.packLocked(false)
	}
}

// Sent implements SentKeeper.
func (s *deviceStore) Sent(_ context.Context, chat, altChat types.JID, id types.MessageID) ([]byte, error) {
	const op = "look for a sent message"
	if err := s.ready(op); err != nil {
		return nil, err
	}
	keys := []string{outgoingID(chat, id)}
	if !altChat.IsEmpty() {
		keys = append(keys, outgoingID(altChat, id))
	}
	plaintext, found, all := s.sentHere(keys)
	if found || all {
		return plaintext, nil
	}
	rows, err := s.scan(s.whole(context.Background()), op, tOutgoing, "")
	if err != nil && !permanent(err) && !errors.Is(err, errLookTooLong) { // an outage, and no table that is too large
		s.gate.cut(fmt.Errorf("%w: %w", ErrUnavailable, err))
		err = s.gate.check(op)
	}
	if err != nil {
		return nil, err
	}
	read := make(map[string][]byte)
	for _, r := range rows {
		unpackRow(read, r.row.bucket, r.data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unpack(read, s.pack.data)
	for id, v := range s.im.flat[tOutgoing] {
		unpackRow(read, id, v)
	}
	s.pack.read, s.pack.readAt = read, time.Now()
	plaintext, _ = s.youngOf(read, keys)
	return plaintext, nil
}

// sentHere looks in memory for a sent message under one of keys. all: the rows
// were read lately, so it is nowhere else.
func (s *deviceStore) sentHere(keys []string) (plaintext []byte, found, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := make(map[string][]byte)
	for _, entries := range s.im.beside {
		unpack(here, entries)
	}
	unpack(here, s.pack.data)
	for id, v := range s.im.flat[tOutgoing] {
		unpackRow(here, id, v)
	}
	if plaintext, found = s.youngOf(here, keys); found {
		return plaintext, true, false
	}
	if s.pack.read == nil || time.Since(s.pack.readAt) > packedFresh {
		return nil, false, false
	}
	plaintext, found = s.youngOf(s.pack.read, keys)
	return plaintext, found, true
}

// youngOf gives the message under one of keys that is not too old.
func (s *deviceStore) youngOf(packed map[string][]byte, keys []string) (plaintext []byte, found bool) {
	limit := before(s.cfg.retention.Sent).UnixMilli()
	for _, key := range keys {
		if v, ok := packed[key]; ok {
			if f := (fields{b: v}); f.varint() >= limit && f.err == nil {
				return copyOf(f.b), true
			}
		}
	}
	return nil, false
}

// unpackRow adds the messages of a row of outgoing events to out. A row of an
// outgoing event itself is one of them.
func unpackRow(out map[string][]byte, id string, v []byte) {
	f := fields{b: v}
	at, format := f.varint(), f.bytes()
	switch {
	case f.err != nil:
	case string(format) == packedFormat:
		unpack(out, f.b)
	case string(format) == packedKind:
		keepNewest(out, id, append(fieldsOf(at), f.b...))
	}
}

func unpack(out map[string][]byte, entries []byte) {
	_ = decodePacked(entries, func(id string, v []byte) { keepNewest(out, id, v) })
}

// keepNewest is for a message that was sent again under its id.
func keepNewest(out map[string][]byte, id string, v []byte) {
	at, here := fields{b: v}, fields{b: out[id]}
	if out[id] == nil || here.varint() <= at.varint() {
		out[id] = v
	}
}
