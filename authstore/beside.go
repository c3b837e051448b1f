package authstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// A sent message that is not in a full row yet stands beside a session that is
// written anyway, in the same row: so it is as durable as the send itself, and
// costs no row and no commit. In the row the messages are a field of their own:
// see lastfield.go.
//
// A message beside a session stays there until the row of sixteen is written.
// One that an earlier term has left there is taken into the present row when that
// session is written again, and goes when it is too old.

const besideMost = 4 << 10 // with more than that the row of sixteen is written early

// withBeside is a session's row with sent messages beside it.
func withBeside(session, entries []byte) []byte {
	if len(entries) == 0 || !takesField(session) {
		return session
	}
	text := make([]byte, 0, base64.StdEncoding.EncodedLen(len(entries))+2)
	text = base64.StdEncoding.AppendEncode(append(text, '"'), entries)
	return keptSent.appendTo(session, append(text, '"'))
}

// splitBeside takes a session's row apart.
func splitBeside(data []byte) (session, entries []byte) {
	if !bytes.HasSuffix(data, []byte(`"}`)) { // no session of libsignal ends so: most need no search
		return data, nil
	}
	session, text, ok := keptSent.cutFrom(data)
	if !ok || len(text) < 2 || text[0] != '"' {
		return data, nil
	}
	entries, err := base64.StdEncoding.DecodeString(string(text[1 : len(text)-1]))
	if err != nil {
		return data, nil
	}
	return session, entries
}

// rideLocked puts the sent messages that no row has yet beside a session that is
// about to be written, and sees to those whose session goes.
func (s *deviceStore) rideLocked(changes map[logicalID]change) {
	p := &s.pack
	carrier := ""
	for _, id := range slices.SortedFunc(maps.Keys(changes), func(a, b logicalID) int { return strings.Compare(a.id, b.id) }) {
		if id.table != tSession {
			continue
		}
		c := changes[id]
		stays := !c.del && takesField(c.value)
		if entries, ok := s.im.beside[id.id]; ok {
			if _, ours := p.beside[id.id]; !ours {
				entries = s.adoptLocked(id.id, entries)
			}
			if !stays {
				delete(s.im.beside, id.id)
				delete(p.beside, id.id)
				p.loose = append(p.loose, entries...)
			}
		}
		if stays && carrier == "" {
			carrier = id.id
		}
	}
	if carrier != "" && len(p.loose) > 0 {
		s.im.beside[carrier] = slices.Concat(s.im.beside[carrier], p.loose)
		p.beside[carrier] = struct{}{}
		p.loose = nil
	}
	if p.full() || len(s.im.beside[carrier]) > besideMost {
		s.packLocked(true)
	}
}

// takeOffRefused takes messages off sessions that were refused for good: they go with
// another one.
func (s *deviceStore) takeOffRefused(refused []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.pack
	for _, c := range refused {
		if _, ours := p.beside[c.id]; !ours || c.table != tSession {
			continue
		}
		if len(p.loose) == 0 {
			p.since = time.Now()
		}
		p.loose = append(p.loose, s.im.beside[c.id]...)
		delete(s.im.beside, c.id)
		delete(p.beside, c.id)
	}
}

// adoptLocked takes the messages of an earlier term that stand beside a session
// into the present row, without those that are too old.
func (s *deviceStore) adoptLocked(address string, entries []byte) (left []byte) {
	p := &s.pack
	limit := before(s.cfg.retention.Sent).UnixMilli()
	_ = decodePacked(entries, func(id string, v []byte) {
		f := fields{b: v}
		if at := f.varint(); f.err == nil && at >= limit {
			entry := packedEntry(id, at, f.b)
			s.addSentLocked(entry, at)
			left = append(left, entry...)
		}
	})
	if delete(s.im.beside, address); len(left) > 0 {
		s.im.beside[address] = left
		p.beside[address] = struct{}{}
	}
	return left
}

// dropBesideLocked takes off what an earlier term has left beside sessions that
// nobody has written since, when all of it is older than limit (Unix ms).
func (s *deviceStore) dropBesideLocked(limit int64) {
	var dropped bool
	for address, entries := range s.im.beside {
		if _, ours := s.pack.beside[address]; ours {
			continue
		}
		old := true
		_ = decodePacked(entries, func(_ string, v []byte) {
			f := fields{b: v}
			old = old && f.varint() < limit
		})
		if old {
			delete(s.im.beside, address)
			s.queue.mark(row{tSession, address})
			dropped = true
		}
	}
	if dropped {
		s.armLocked(lazily)
	}
}

// besideOf is what stands beside the rows of t.
func (im *image) besideOf(t tableID) map[string][]byte {
	if t == tSession {
		return im.beside
	}
	return nil
}

// packBeside gives the sent messages a row of that name, for sessions that go.
func (im *image) packBeside(name string) {
	var all []byte
	var last int64
	for _, address := range slices.Sorted(maps.Keys(im.beside)) {
		_ = decodePacked(im.beside[address], func(id string, v []byte) {
			f := fields{b: v}
			if at := f.varint(); f.err == nil {
				all = append(all, packedEntry(id, at, f.b)...)
				last = max(last, at)
			}
		})
	}
	clear(im.beside)
	if len(all) > 0 {
		im.apply(put(tOutgoing, packedFormat+"/"+name, outgoingValue(last, packedFormat, all)))
	}
}

// Sending is one send of a message, for a store that keeps what is sent.
type Sending struct {
	Chat      types.JID
	ID        types.MessageID
	Plaintext func() []byte // asked for once, when the send's sessions are written; nil: nothing is kept
	kept      bool
}

// Kept reports whether the store was given the message with the sessions of its
// send. Only the goroutine that sends may ask, when it has sent.
func (s *Sending) Kept() bool { return s.kept }

type sendingKey struct{}

// WithSending gives a context for a send. With it, the commit of the send stores
// the message too, which costs no commit of its own.
func WithSending(ctx context.Context, s *Sending) context.Context {
	return context.WithValue(ctx, sendingKey{}, s)
}

// keepSending takes the message of ctx's send, just before its sessions are written.
func (s *deviceStore) keepSending(ctx context.Context) error {
	x, _ := ctx.Value(sendingKey{}).(*Sending)
	if x == nil || x.kept {
		return nil
	}
	plaintext := x.Plaintext()
	if plaintext == nil {
		return nil
	}
	if err := s.KeepSent(ctx, x.Chat, x.ID, plaintext); err != nil {
		return err
	}
	x.kept = true
	return nil
}
