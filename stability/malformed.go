package stability

import (
	"context"
	"fmt"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/internal/book"
)

// A message can be so malformed that whatsmeow panics at it. Newer versions catch
// that, and acknowledge the message. With older ones the process would die, and
// again at each start, until the message is left alone: three deaths or four for
// each such message that somebody cares to send. So it is caught here.

// acknowledger is the part of a client's inside that acknowledges a message.
type acknowledger interface {
	SendAck(ctx context.Context, node *waBinary.Node, error int)
}

// messageParser is the part that reads what a stanza says of its message.
type messageParser interface {
	ParseMessageInfo(node *waBinary.Node) (*types.MessageInfo, error)
}

// malformed is told that whatsmeow panicked at a message. Where that happened
// behind its decryption, the content is kept and handed over from here; else the
// message counts as one that cannot be decrypted. message is nil where whatsmeow
// has caught it, and acknowledges it next.
func (a *attachment) malformed(id string, message *waBinary.Node, value any, stack string) {
	why := "whatsmeow panicked at it: " + firstLine(fmt.Sprint(value))
	a.m.cfg.logger.Error("whatsmeow panicked at a received message", "id", id, "panic", fmt.Sprint(value), "stack", stack)
	for _, d := range a.m.received.handling(id) {
		if d.node == nil || message != nil && d.node != message || !a.admits() || !a.m.received.survive(d, why) {
			continue // it stays at the service, unless whatsmeow acknowledges it all the same
		}
		d.finished()
		if in, ok := any(a.client.DangerousInternals()).(acknowledger); ok && message != nil {
			in.SendAck(context.Background(), message, 0)
		}
	}
}

// survive writes down a message at which whatsmeow panicked. It reports whether
// the message may be acknowledged.
func (r *received) survive(d *delivery, why string) bool {
	ctx := context.Background()
	d.learn()
	contents, whole := d.decrypted(ctx)
	d.mu.Lock()
	if d.course.Decided() {
		d.mu.Unlock() // the handlers have had a say
		return false
	}
	if len(contents) == 0 || !whole { // the phone has all of it
		d.course.Unreadable("it cannot be decrypted: "+why, d.course.Hidden())
		rec := d.record(book.Undecrypted, d.course.WhyUnread())
		d.mu.Unlock()
		return r.keepUndecrypted(ctx, d, rec) == nil
	}
	d.content.kept = contents
	d.course.Survived(why)
	rec := d.record(book.Kept, why)
	d.mu.Unlock()
	for _, raw := range contents {
		if r.split(ctx, d, raw) != nil {
			return false
		}
	}
	return d.keep(ctx, rec) == nil
}

// decrypted are the parts of a message that the event buffer has. whole: there are
// no others, such as the text behind a sender key that whatsmeow panicked at.
func (d *delivery) decrypted(ctx context.Context) (contents [][]byte, whole bool) {
	parts := d.encrypted()
	whole = len(parts) == len(d.node.GetChildrenByTag("enc"))
	for _, part := range parts {
		if a := part.AttrGetter(); a.OptionalInt("v") != 2 {
			whole = false
			continue
		}
		found := false
		for _, hash := range d.known(ctx, part) {
			e, err := d.a.device.EventBuffer.GetBufferedEvent(ctx, hash)
			if err != nil || e == nil {
				continue
			}
			found = true
			if raw, silent, ok := unpadded(e.Plaintext); ok && !silent {
				contents = append(contents, raw)
			}
			break
		}
		whole = whole && found
	}
	return contents, whole
}
