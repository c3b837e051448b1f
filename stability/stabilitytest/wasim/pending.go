package wasim

import (
	"slices"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// pending is a stanza that the device has not acknowledged.
type pending struct {
	Node  node
	Sends int // how often it went out
	Since time.Time

	brought time.Time // the login of the last connection that it was written to
}

func (p *pending) is(tag, id string, from, participant types.JID) bool {
	return (p.Node.Tag == tag || isMessage(p.Node.Tag) && isMessage(tag)) && str(&p.Node, "id") == id &&
		(from.IsEmpty() || jid(&p.Node, "from") == from) &&
		(participant.IsEmpty() || jid(&p.Node, "participant") == participant)
}

// isMessage reports whether stanzas with that tag are messages.
func isMessage(tag string) bool { return tag == "message" || tag == "appdata" }

// deliver queues a stanza for the device and, if it is online, sends it. With
// keep it stays pending until it is acknowledged. The caller holds s.mu, and
// does not change n afterwards.
func (d *Device) deliver(n node, keep bool) {
	if d.ghost {
		if isMessage(n.Tag) {
			d.stats.MessagesDelivered++
		}
		return
	}
	p := &pending{Node: n, Since: time.Now()}
	if keep {
		d.pending = append(d.pending, p)
	}
	if c := d.conn; c != nil && c.loggedIn && !c.silent.Load() && !c.ending.Load() {
		d.out(&n, p)
		c.send(n)
		c.brings(p)
	}
}

// Deliver sends a stanza of the caller's making to the device, such as a message of a kind
// that nobody here writes, and keeps it until the device acknowledges it.
func (d *Device) Deliver(n node) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.deliver(n, true)
}

// brings notes that p went down the line, behind what was sent before.
func (c *conn) brings(p *pending) {
	at := c.loginAt
	c.then(func() {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		p.brought = at
	})
}

// out counts a stanza that goes out.
func (d *Device) out(n *node, p *pending) {
	d.count(n, false)
	if isMessage(n.Tag) {
		d.stats.MessagesDelivered++
		if p.Sends > 0 {
			d.stats.Redelivered++
		}
	}
	p.Sends++
}

// Ack is one acknowledgement by a device.
type Ack struct {
	Tag     string    // of what was acknowledged: "message", "receipt", "notification"
	ID      string    // its stanza id
	From    types.JID // who it came from
	By      string    // "receipt" (a message was taken), or "ack"
	Type    string    // type of the receipt or of the acknowledged stanza
	Error   string    // error code of a refusing ack
	Sends   int       // how often the stanza had been sent
	At      time.Time
	Unasked bool // nothing with this id was pending
}

// acknowledge takes a stanza off the pending list and writes the ack log.
func (d *Device) acknowledge(a Ack, participant types.JID) {
	a.At = time.Now()
	a.Unasked = true
	for i, p := range d.pending {
		if p.is(a.Tag, a.ID, a.From, participant) {
			a.Unasked, a.Sends = false, p.Sends
			d.pending = append(d.pending[:i:i], d.pending[i+1:]...)
			break
		}
	}
	d.acks = append(d.acks, a)
}

// Acks is the device's ack log, oldest first: every message, receipt and
// notification that it acknowledged, and when.
func (d *Device) Acks() []Ack {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return append([]Ack(nil), d.acks...)
}

// AckedMessages are the ids of the messages that the device acknowledged, in
// that order.
func (d *Device) AckedMessages() []string {
	var ids []string
	for _, a := range d.Acks() {
		if isMessage(a.Tag) && !a.Unasked {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// Pending returns the ids of the messages that the device has not acknowledged,
// in the order in which it will get them.
func (d *Device) Pending() []string {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	var ids []string
	for _, p := range d.pending {
		if isMessage(p.Node.Tag) {
			ids = append(ids, str(&p.Node, "id"))
		}
	}
	return ids
}

// Unacknowledged is a message that was written to a connection of the device, and that
// the device has not acknowledged. A client that reads has it.
type Unacknowledged struct {
	ID                string
	From, Participant types.JID // as its stanza has them
	Login             time.Time // of the last connection that brought it
}

// Unacknowledged are those messages, in the order in which the device will get them again.
func (d *Device) Unacknowledged() (all []Unacknowledged) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	for _, p := range d.pending {
		if isMessage(p.Node.Tag) && !p.brought.IsZero() {
			all = append(all, Unacknowledged{str(&p.Node, "id"), jid(&p.Node, "from"), jid(&p.Node, "participant"), p.brought})
		}
	}
	return all
}

// handleAck takes a device's <ack>.
func (c *conn) handleAck(n *node) {
	class := str(n, "class")
	c.dev.stats.Acks++
	c.dev.acknowledge(Ack{
		Tag: class, ID: str(n, "id"), From: jid(n, "to"), By: "ack", Type: str(n, "type"), Error: str(n, "error"),
	}, jid(n, "participant"))
}

// handleReceipt acknowledges a receipt, takes it as the acknowledgement of the
// message it is about, and passes it on to the sender of that message.
func (c *conn) handleReceipt(n *node) {
	to, id, typ, part := jid(n, "to"), str(n, "id"), str(n, "type"), jid(n, "participant")
	c.dev.stats.Receipts++
	ack := attrs{"class": "receipt", "id": id, "from": to}
	if typ != "" {
		ack["type"] = typ
	}
	if !part.IsEmpty() {
		ack["participant"] = part
	}
	c.send(node{Tag: "ack", Attrs: ack})
	switch types.ReceiptType(typ) {
	case types.ReceiptTypeRetry:
		c.dev.stats.RetryReceipts++
		if p := c.s.phoneAt(to); p != nil && p.a.live.on {
			p.retry(c.dev, n)
		}
	case types.ReceiptTypeDelivered, types.ReceiptTypeInactive, types.ReceiptTypeSender, types.ReceiptTypePeerMsg:
		if c.dev.awaits(id) {
			c.dev.acknowledge(Ack{Tag: "message", ID: id, From: to, By: "receipt", Type: typ}, part)
		}
	}
	c.relayReceipt(n, to, part)
}

// awaits reports whether a message is pending: read receipts and second
// receipts acknowledge nothing.
func (d *Device) awaits(id string) bool {
	for _, p := range d.pending {
		if isMessage(p.Node.Tag) && str(&p.Node, "id") == id {
			return true
		}
	}
	return false
}

func (c *conn) relayReceipt(n *node, to, part types.JID) {
	a := attrs{"id": str(n, "id"), "t": time.Now().Unix()}
	if typ := str(n, "type"); typ != "" {
		a["type"] = typ
	}
	if r := jid(n, "recipient"); !r.IsEmpty() {
		a["recipient"] = r
	}
	target := to
	if to.Server == types.GroupServer || to.Server == types.BroadcastServer {
		if target = part; target.IsEmpty() {
			return
		}
		a["from"], a["participant"] = to, c.dev.in(target.Server)
		c.alt(a, "participant", target.Server)
	} else {
		a["from"] = c.dev.in(to.Server)
		c.alt(a, "sender", to.Server)
	}
	acct := c.s.account(target)
	if acct == nil {
		return
	}
	for _, d := range acct.devices {
		if d != c.dev && (target.Device == 0 || d.id == target.Device) {
			d.deliver(node{Tag: "receipt", Attrs: a, Content: n.Content}, true)
		}
	}
}

// Drop forgets the messages that the device has not acknowledged, as WhatsApp
// does when they are too old.
func (d *Device) Drop() {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.pending = slices.DeleteFunc(d.pending, func(p *pending) bool { return isMessage(p.Node.Tag) })
}
