package stability

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
)

// Nothing keeps a sender from using an id twice. A message that is kept or set
// aside under an id must neither go when another message under it is handled, nor keep
// that message from the handlers. So contents are compared. Where they differ,
// what is here gets an entry of its own.

// isAside reports whether a decrypted part of d was set aside before.
func (d *delivery) isAside(raw []byte) bool {
	return d.before.State == book.SetAside && d.before.has(raw)
}

// has reports whether raw is part of what is here. The phone's form of a message
// may be another one than the sender's.
func (rec *messageRecord) has(raw []byte) bool {
	if rec.OfPhone {
		return len(rec.Contents) > 0
	}
	part := bare(raw)
	for _, c := range rec.Contents {
		if part != nil && proto.Equal(part, bare(c)) {
			return true
		}
	}
	return false
}

// bare is bareOf of a message as it was decrypted; nil for what is none.
func bare(raw []byte) *waE2E.Message {
	var m waE2E.Message
	if len(raw) == 0 || proto.Unmarshal(raw, &m) != nil {
		return nil
	}
	return bareOf(&m)
}

// bareOf is a message without what goes along with it. That is another one each time that the
// message is sent: a key of its sender's, and what it says of devices and secrets, which
// whatsmeow copies into the innermost message before a handler sees it.
func bareOf(m *waE2E.Message) *waE2E.Message {
	m = proto.Clone(m).(*waE2E.Message)
	for _, m := range append(innerOf(m), m) {
		m.SenderKeyDistributionMessage, m.MessageContextInfo = nil, nil
	}
	return m
}

// innerOf are the messages in the wrappers that whatsmeow takes off, in its order (UnwrapRaw),
// the innermost last.
func innerOf(m *waE2E.Message) (all []*waE2E.Message) {
	within := func(inner *waE2E.Message) {
		if inner != nil {
			m, all = inner, append(all, inner)
		}
	}
	within(m.GetDeviceSentMessage().GetMessage())
	within(m.GetBotInvokeMessage().GetMessage())
	within(m.GetEphemeralMessage().GetMessage())
	within(m.GetViewOnceMessage().GetMessage())
	within(m.GetViewOnceMessageV2().GetMessage())
	within(m.GetViewOnceMessageV2Extension().GetMessage())
	within(m.GetLottieStickerMessage().GetMessage())
	within(m.GetDocumentWithCaptionMessage().GetMessage())
	within(m.GetEditedMessage().GetMessage())
	return all
}

// split gives what is kept here under the name of d an entry of its own, unless
// raw is a part of it, or another part of d was: what is kept of a message that
// was refused may be its first part alone. The entry of d begins anew.
func (r *received) split(ctx context.Context, d *delivery, raw []byte) error {
	d.same = d.same || d.before.has(raw)
	if d.same || len(d.before.Contents) == 0 {
		return nil
	}
	d.mu.Lock()
	info := d.info
	d.mu.Unlock()
	h := sha256.New()
	for _, c := range d.before.Contents {
		h.Write(c)
	}
	own := d.key
	own.Copy = hex.EncodeToString(h.Sum(nil)[:8])

	r.mu.Lock()
	e, ok := r.book.Split(d.key, own, time.Now())
	old := r.more[d.key]
	begun := old.Begun
	var rest *messageRecord
	if begun { // the process may die of d, and not of what is kept
		rest = &messageRecord{Entry: book.Entry{Key: d.key, First: d.began, Since: d.began}, Info: info, Deaths: 1, Begun: true, Build: old.Build, Builds: old.Builds}
		old.Begun, old.Deaths = false, max(0, old.Deaths-1)
	}
	old.Entry = e
	if ok {
		r.note(old)
		delete(r.more, d.key)
		if rest != nil {
			r.note(*rest)
		}
	}
	var kept, is change
	if ok {
		kept, is = r.changed(own), r.changed(d.key)
	}
	r.mu.Unlock()
	if !ok {
		return nil
	}
	d.before = messageRecord{}
	if err := r.write(ctx, kept, true); err != nil {
		return err
	}
	err := r.write(ctx, is, begun)
	r.wake.ring()
	return err
}

// keepUndecrypted writes a message down that is acknowledged without content.
func (r *received) keepUndecrypted(ctx context.Context, d *delivery, rec messageRecord) error {
	if r.past(d) { // the store is another term's, and the service delivers the message to that one
		return fmt.Errorf("stability: the term ended before the message was written down: %w", context.Canceled)
	}
	if r.resent(d, nil) {
		d.mu.Lock()
		d.course.FoundBefore()
		d.mu.Unlock()
		return nil
	}
	if err := r.split(ctx, d, nil); err != nil {
		return err
	}
	if d.before.State == book.SetAside || len(d.before.Contents) > 0 { // what we have of it stays
		return nil
	}
	return r.keep(ctx, rec)
}
