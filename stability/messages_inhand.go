package stability

import (
	"context"
	"errors"
	"fmt"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/internal/book"
)

// of is the delivery that evt belongs to; nil for one that comes in no stanza
// of its own.
func (r *received) of(info types.MessageInfo, evt *events.Message) (found *delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, d := range r.inHand {
		switch {
		case evt != nil && d.isAbout(evt):
			return d
		case k.Copy == "" && k.ID == info.ID && (senderOf(k) == info.Sender.User || senderOf(d.named) == info.Sender.User):
			if found == nil || d.isIn(info) {
				found = d
			}
		}
	}
	return found
}

// isIn reports whether the message of d is one in the chat of info: a sender may use an id
// in two of them.
func (d *delivery) isIn(info types.MessageInfo) bool {
	if !info.IsGroup {
		return d.named.Sender == ""
	}
	return d.named.Chat == info.Chat.String()
}

func (d *delivery) isAbout(evt *events.Message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.content.event == evt
}

// senderOf is the user who has sent a message.
func senderOf(k book.Key) string {
	s := k.Sender
	if s == "" {
		s = k.Chat
	}
	j, _ := types.ParseJID(s)
	return j.User
}

// handling are the messages of that id that are in hand: one, unless two chats
// have the same id.
func (r *received) handling(id string) (all []*delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, d := range r.inHand {
		if k.ID == id && k.Copy == "" {
			all = append(all, d)
		}
	}
	return all
}

// acknowledged is told that whatsmeow acknowledges the message of that id.
func (r *received) acknowledged(id string) {
	for _, d := range r.handling(id) {
		d.mu.Lock()
		d.course.Acknowledged()
		d.mu.Unlock()
	}
}

// refused is told that a handler returned false for the message of that id. One that
// was added before the client was attached keeps it from the Manager's handler.
func (r *received) refused(id string) {
	for _, d := range r.handling(id) {
		d.mu.Lock()
		first := d.course.RefusedNow()
		d.mu.Unlock()
		if first {
			d.refusedFirst()
		}
	}
}

// undecryptable is told that the message of that id is about to be acknowledged
// although no handler was given it. A failure in decryption itself was noted
// by then; this is for those that did not come that far.
func (r *received) undecryptable(id string, err error) {
	if errors.Is(err, context.Canceled) {
		return // it stays at the service
	}
	for _, d := range r.handling(id) {
		d.mu.Lock()
		noted := d.course.Explained()
		if !noted {
			kind, _ := d.withheld()
			why, hidden := whyWithheld(kind)
			if err != nil {
				why, hidden = "it cannot be decrypted: "+firstLine(err.Error()), false
			}
			d.course.Unreadable(why, hidden)
		}
		rec := d.record(book.Undecrypted, d.course.WhyUnread())
		d.mu.Unlock()
		if !noted {
			_ = r.keepUndecrypted(context.Background(), d, rec) // where it fails, the connection ends before the acknowledgement
		}
	}
}

// panicked is told that a handler panicked.
func (a *attachment) panicked(evt, value any, stack string) {
	a.m.cfg.logger.Error("an event handler of the program panicked", "event", fmt.Sprintf("%T", evt), "panic", fmt.Sprint(value), "stack", stack)
	var d *delivery
	switch e := evt.(type) {
	case *events.Message:
		d = a.m.received.of(e.Info, e)
	case *events.FBMessage:
		d = a.m.received.of(e.Info, nil)
	}
	if d != nil {
		d.mu.Lock()
		d.course.Panicked(panickedWith(value))
		d.mu.Unlock()
	}
}
