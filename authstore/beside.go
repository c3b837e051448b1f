package authstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"go.mau.fi/whatsmeow/types"
)

// A sent message that is not in a full row yet stands beside a session that is
// written anyway, in the same row: so it is as durable as the send itself, and
// costs no row and no commit. libsignal writes a session as a JSON object, and
// passes over fields that it does not know: the messages are one more field at
// its end, which is taken off when the row is read.
//
// A message beside a session stays there until the row of sixteen is written.
// One that an earlier term has left there is taken into the present row when that
// session is written again, and goes when it is too old.

const (
	besideField = `,"KeptSent":"`
	besideEnd   = `"}`
	besideMost  = 4 << 10 // with more than that the row of sixteen is written early
)

// withBeside is a session's row with sent messages beside it.
func withBeside(session, entries []byte) []byte {
	if len(entries) == 0 || !takesBeside(session) {
		return session
	}
	out := make([]byte, 0, len(session)+len(besideField)+base64.StdEncoding.EncodedLen(len(entries))+1)
	out = append(out, session[:len(session)-1]...)
	out = append(out, besideField...)
	out = base64.StdEncoding.AppendEncode(out, entries)
	return append(out, besideEnd...)
}

// takesBeside reports whether a session is a JSON object with fields.
func takesBeside(session []byte) bool {
	return len(session) > 2 && session[0] == '{' && session[len(session)-1] == '}'
}

// splitBeside takes a session's row apart.
func splitBeside(data []byte) (session, entries []byte) {
	if !bytes.HasSuffix(data, []byte(besideEnd)) {
		return data, nil
	}
	at := bytes.LastIndex(data, []byte(besideField))
	if at < 0 {
		return data, nil
	}
	entries, err := base64.StdEncoding.DecodeString(string(data[at+len(besideField) : len(data)-len(besideEnd)]))
	if err != nil {
		return data, nil
	}
	return append(data[:at:at], '}'), entries
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
		stays := !c.del && takesBeside(c.value)
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
			s.dirty[row{tSession, address}] = struct{}{}
			dropped = true
		}
	}
	if dropped {
		s.armLocked(lazily)
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

// WithSending lets the commit that a send under the context makes take the
// message along. It costs no commit of its own.
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
