package stability

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
)

// A phone that was off answers each of the requests that piled up, and a sender
// may have sent the message again meanwhile, or sends it when it is back itself.
// So the messages are remembered that were missed and are found: a further answer about
// one is not handed over, and neither is the same content when its sender sends it again.
// A note of each stands in the store for the next holder: with the entry of the message
// while there is one, and in its place behind that.
type foundMessage struct {
	key book.Key
	foundNote
}

type foundNote struct {
	OfPhone bool   `json:",omitempty"` // and not of its sender
	Asked   bool   `json:",omitempty"` // it was not missed here: the program may ask for it by itself
	Sum     string // of its content
	At      time.Time
}

func (f foundMessage) is(k book.Key, n foundNote) bool {
	return f.key == k && f.Sum == n.Sum && f.OfPhone == n.OfPhone
}

const (
	foundFor  = time.Hour           // the answers come together, unless the link is away; behind that a program may ask again
	resentFor = 14 * 24 * time.Hour // so long the service keeps a retry receipt for a sender that is off
	mostFound = 1000
	mostNotes = 8 // of one id in the store
)

// found notes that a message is here that was missed. It returns those whose
// notes are to be removed from the store. The caller holds mu.
func (r *received) found(k book.Key, n foundNote, now time.Time) (removed []book.Key) {
	if n.Sum == sumOfNothing {
		return nil // a sender's key, and the message itself is behind it
	}
	r.lately = slices.DeleteFunc(r.lately, func(f foundMessage) bool { return f.is(k, n) })
	r.lately = append(r.lately, foundMessage{k, n})
	return r.fewer(now)
}

// fewer drops the notes that are too old or too many. The caller holds mu.
func (r *received) fewer(now time.Time) (removed []book.Key) {
	surplus := len(r.lately) - mostFound
	kept := make([]foundMessage, 0, len(r.lately))
	for i, f := range r.lately {
		age := now.Sub(f.At)
		if i < surplus || age >= resentFor || f.Asked && age >= foundFor {
			removed = append(removed, f.key)
		} else {
			kept = append(kept, f)
		}
	}
	if len(removed) == 0 {
		return nil
	}
	r.lately = kept
	return slices.DeleteFunc(removed, func(k book.Key) bool {
		_, stands := r.more[k] // its row goes with it
		return stands || len(r.notes(k, now)) > 0
	})
}

// notes are those about one id. The caller holds mu.
func (r *received) notes(k book.Key, now time.Time) (out []foundNote) {
	for _, f := range r.lately {
		if f.key == k && now.Sub(f.At) < resentFor {
			out = append(out, f.foundNote)
		}
	}
	return out[max(0, len(out)-mostNotes):]
}

// rowOf is the record of a message; nil where there is none. The caller holds mu.
func (r *received) rowOf(k book.Key) *messageRecord {
	if rec, ok := r.more[k]; ok {
		return &rec
	}
	return nil
}

// forget removes notes from the store.
func (r *received) forget(keys []book.Key) {
	for _, k := range keys {
		r.mu.Lock()
		is := r.changed(k)
		r.mu.Unlock()
		_ = r.write(context.Background(), is, false)
	}
}

// sweepFound removes the notes that are too old.
func (r *received) sweepFound(now time.Time) {
	r.mu.Lock()
	removed := r.fewer(now)
	r.mu.Unlock()
	r.forget(removed)
}

// remember begins a term with the notes that stand in the store. The caller holds mu.
func (r *received) remember(records []messageRecord) {
	now := time.Now()
	for _, rec := range records {
		for _, n := range rec.Found {
			if n.At.After(now) { // a clock was ahead
				n.At = now
			}
			i := slices.IndexFunc(r.lately, func(f foundMessage) bool { return f.is(rec.Key, n) })
			if i < 0 {
				r.lately = append(r.lately, foundMessage{rec.Key, n})
			} else if n.At.After(r.lately[i].At) {
				r.lately[i].At = n.At
			}
		}
	}
	slices.SortStableFunc(r.lately, func(a, b foundMessage) int { return a.At.Compare(b.At) })
}

// sumOf tells contents apart. The wrappers around a message are left out, too: the phone
// may have it without them.
func sumOf(content *waE2E.Message) string {
	m := bareOf(content)
	for _, inner := range innerOf(m) {
		m = inner
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// isEmpty reports whether there is nothing in a message but what goes along with it.
func isEmpty(m *waE2E.Message) bool { return m == nil || sumOf(m) == sumOfNothing }

var sumOfNothing = sumOf(&waE2E.Message{})

// unread reports whether a message could not be decrypted when it came first: the
// phone was asked for it, and may answer yet.
func (rec *messageRecord) unread() bool {
	return rec.Unread || rec.State == book.Undecrypted
}

// sums are those of what the handlers have taken: the last part from whatsmeow,
// or what was kept here.
func (rec *messageRecord) sums(last *waE2E.Message) (out []string) {
	if last != nil {
		return []string{sumOf(last)}
	}
	for _, raw := range rec.Contents {
		var m waE2E.Message
		if proto.Unmarshal(raw, &m) == nil {
			out = append(out, sumOf(&m))
		}
	}
	return out
}

// had reports whether the phone's answer is about a message that was found
// before, or has the same content as one that was missed here. The caller holds mu.
func (r *received) had(id types.MessageID, sum string, users userNames, now time.Time) bool {
	return slices.ContainsFunc(r.lately, func(f foundMessage) bool {
		age := now.Sub(f.At)
		again := age < foundFor || age < resentFor && f.Sum == sum && !f.Asked
		return f.key.ID == id && again && users.sent(f.key)
	})
}

// resent reports whether the message of d was found before, and the book is done
// with it: so its sender has sent it again. A content that is not the same is
// another message under its id; nil stands for one that cannot be read, which is
// taken for the one that the phone has sent.
func (r *received) resent(d *delivery, content *waE2E.Message) bool {
	if d.ours() || d.before.State != "" || content != nil && isEmpty(content) {
		return false
	}
	now := time.Now()
	r.mu.Lock()
	maybe := slices.ContainsFunc(r.lately, func(f foundMessage) bool { return f.key.ID == d.key.ID })
	r.mu.Unlock()
	if !maybe { // as nearly always
		return false
	}
	users := d.users(context.Background()) // the sender may have another name this time
	same := func(k book.Key) bool {
		chat := k.Chat == d.key.Chat || k.Sender == "" && d.key.Sender == ""
		return k == d.key || k.ID == d.key.ID && chat && users.sent(k)
	}
	r.mu.Lock()
	i := slices.IndexFunc(r.lately, func(f foundMessage) bool {
		return same(f.key) && now.Sub(f.At) < resentFor &&
			(content == nil && f.OfPhone || content != nil && f.Sum == sumOf(content))
	})
	if i < 0 || content != nil {
		r.mu.Unlock()
		return i >= 0
	}
	r.lately[i].At = now // whatsmeow may ask the phone for it again
	k := r.lately[i].key
	is := r.isNow(k)
	r.mu.Unlock()
	if k == d.key || is.row == nil { // else the row is about another message, and has the note already
		_ = r.write(context.Background(), is, false)
	}
	return true
}
