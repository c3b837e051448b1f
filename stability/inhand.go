package stability

import (
	"sync"

	waBinary "go.mau.fi/whatsmeow/binary"
)

// inHand knows which messages are being handled, by whichever client of the
// Manager. A handler may outlive its connection, its client and its term, and
// the service delivers the message again meanwhile: the second one is left
// alone then, unacknowledged, until the first has returned.
type inHand struct {
	mu  sync.Mutex
	ids map[messageID]struct{}
}

// messageID is what a sender calls a message, and where it was sent.
type messageID struct{ id, chat string }

func idOf(message *waBinary.Node) messageID {
	a := message.AttrGetter()
	return messageID{a.OptionalString("id"), a.OptionalJIDOrEmpty("from").String()}
}

// begin notes that a message is being handled until end is called; false when
// it is already.
func (h *inHand) begin(message *waBinary.Node) (end func(), ok bool) {
	id := idOf(message)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, busy := h.ids[id]; busy {
		return nil, false
	}
	if h.ids == nil {
		h.ids = make(map[messageID]struct{})
	}
	h.ids[id] = struct{}{}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.ids, id)
	}, true
}
