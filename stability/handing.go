package stability

import (
	"context"

	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
)

// handing is told of an event before the handlers are. false keeps it from
// them: the service has the message for another day, or we have.
func (d *delivery) handing(info types.MessageInfo, evt *events.Message, deaf bool) bool {
	r := &d.a.m.received
	admits, aside := d.a.admits(), false
	var raw []byte
	var sent *waE2E.Message
	if admits && !d.ours() {
		if sent = d.asSent(evt); sent != nil && len(d.before.Contents) > 0 {
			raw, _ = proto.Marshal(sent)
		}
		if aside = d.isAside(raw); !aside && r.split(context.Background(), d, raw) != nil {
			admits = false
		}
	}
	keep := !admits && d.early() && evt != nil // it is acknowledged: nobody delivers it again
	if keep && sent == nil {
		sent = d.asSent(evt)
	}
	d.mu.Lock()
	judged, before := d.course.Judged(), d.course.Aside() // at a part before
	d.mu.Unlock()
	poisonous := evt != nil && (judged || !before && r.poisonous(d.key))
	again := admits && sent != nil && r.resent(d, sent)
	if aside || again {
		d.dismiss()
	}
	d.mu.Lock()
	d.info = plainInfo(info)
	d.keepThrown(d.course.Tell())
	d.content.begin(evt)
	if sent != nil && !aside && !again && (admits || keep) {
		d.content.give(sent)
	}
	switch {
	case aside:
		d.course.SetAside()
		d.mu.Unlock()
		return false
	case again:
		d.course.FoundBefore()
		d.mu.Unlock()
		return false
	case !admits && !keep:
		d.course.Leave()
	case keep, deaf && (evt == nil || !judged):
		d.course.Unheard()
		d.mu.Unlock()
		return false
	}
	if d.course.Left() || !poisonous || !d.content.keepOpen() {
		given := d.course.Give()
		d.mu.Unlock()
		return given
	}
	rec := d.record(book.SetAside, course.WhyPoison)
	d.mu.Unlock()
	err := r.setAside(rec)
	if err == nil { // else the service's next delivery of it is handed over beside what is done with it here
		d.dismiss()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.course.SetAside()
	} else {
		d.course.Leave()
	}
	return false
}

// asSent is the content of the event as whatsmeow decrypted it: handlers that stand before
// the Manager's may have written into the event. nil where there is none.
func (d *delivery) asSent(evt *events.Message) *waE2E.Message {
	if evt == nil {
		return nil
	}
	d.mu.Lock()
	raw := withoutPadding(d.content.plaintext)
	d.mu.Unlock()
	var sent waE2E.Message
	if len(raw) > 0 && proto.Unmarshal(raw, &sent) == nil {
		return &sent
	}
	return proto.Clone(evt.RawMessage).(*waE2E.Message)
}

// finished marks what was decrypted of the message as finished, which whatsmeow
// does only for a message that all handlers took.
func (d *delivery) finished() {
	if d.node == nil {
		return // it is handed over from here
	}
	ctx := context.Background()
	for _, hash := range d.known(ctx, d.encrypted()...) {
		_ = d.a.device.EventBuffer.ClearBufferedEventPlaintext(ctx, hash)
	}
}

// dismiss is finished for a message that is kept from the handlers though the service has
// it: whatsmeow acknowledges it at the next login. It does so only for what is in the event
// buffer, so the others are acknowledged here.
func (d *delivery) dismiss() {
	d.mu.Lock()
	buffered := d.course.Buffered()
	d.mu.Unlock()
	if buffered {
		d.finished()
	} else if in, ok := any(d.a.client.DangerousInternals()).(acknowledger); ok && !d.early() && d.node != nil {
		in.SendAck(context.Background(), d.node, 0)
	}
}

// undecryptable is told of the event of that name.
func (d *delivery) undecryptable(evt *events.UndecryptableMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info = plainInfo(evt.Info)
	why, hidden := "", evt.DecryptFailMode == events.DecryptFailHide
	if kind, ok := d.withheld(); ok {
		why, hidden = whyWithheld(kind)
	}
	d.course.Unreadable(why, hidden)
}

// withheld reports whether WhatsApp has sent the message without its content, and its
// word for the kind of such a message; "" where it gives none.
func (d *delivery) withheld() (kind string, ok bool) {
	if d.node == nil || len(d.node.GetChildrenByTag("enc")) > 0 {
		return "", false
	}
	n, ok := d.node.GetOptionalChildByTag("unavailable")
	a := n.AttrGetter()
	return a.OptionalString("type"), ok
}

// whyWithheld says why there is no content. A kind that has a name is meant for the phone
// alone; without one the phone can send the content.
func whyWithheld(kind string) (why string, hidden bool) {
	if kind == "" {
		return "it cannot be decrypted: WhatsApp has not sent its content to this device", false
	}
	return "it is for the phone alone (" + kind + ")", true
}
