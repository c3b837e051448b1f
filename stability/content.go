package stability

import (
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"
)

// content is what a delivery has of the content of its message. The delivery's mutex
// guards it.
type content struct {
	plaintext []byte           // of the last part that the event buffer was asked for, with its padding; nil before it is decrypted
	event     *events.Message  // of the part at work; nil for a kind whose content cannot be kept
	sent      *waE2E.Message   // what the handlers were given with it: they may change the other one
	parts     []*waE2E.Message // that were handed over and are not finished
	kept      [][]byte         // what is to be handed over later
}

// begin notes the event of a part.
func (c *content) begin(evt *events.Message) { c.event, c.sent = evt, nil }

// give notes what the handlers are given.
func (c *content) give(sent *waE2E.Message) {
	c.sent = sent
	c.parts = append(c.parts, sent)
}

// finish notes that the part that was given last is finished.
func (c *content) finish() {
	if len(c.parts) > 0 {
		c.parts = c.parts[:len(c.parts)-1]
	}
}

func (c *content) keep(raw []byte) { c.kept = append(c.kept, raw) }

// drop takes the last keep back.
func (c *content) drop() { c.kept = c.kept[:len(c.kept)-1] }

// keepOpen adds the part at work to what is kept; false where that cannot be.
func (c *content) keepOpen() bool {
	if c.event == nil || c.event.RawMessage == nil {
		return false
	}
	sent := c.event.RawMessage
	if c.sent != nil {
		sent = c.sent
	}
	raw, err := proto.Marshal(sent)
	if err != nil {
		return false
	}
	c.keep(raw)
	return true
}

// keepParts makes the parts that are not finished what is kept of the message.
func (c *content) keepParts() {
	c.kept = nil
	for _, m := range c.parts {
		if raw, err := proto.Marshal(m); err == nil && len(raw) > 0 {
			c.keep(raw)
		}
	}
}
