package wasim

import (
	"context"
	"time"

	"github.com/coder/websocket"
	"go.mau.fi/whatsmeow/types"
)

// Faults of single messages and queries, and stanzas that nobody asked for.

// MessageNack refuses a message of the client with <ack class="message"
// error=…>, and nobody gets it: 400, 429, 463, 479, 500. The sender is chosen
// with For, the chat with To. The client's SendMessage fails with
// whatsmeow.ErrServerReturnedError.
func MessageNack(code int) Fault {
	return Fault{name: "message nack", stage: stageMessage, status: code}
}

// MessageIgnored swallows a message of the client: nobody gets it, and the
// client gets no answer. The sender is chosen with For, the chat with To.
func MessageIgnored() Fault {
	return Fault{name: "message ignored", stage: stageMessage, hang: true}
}

// QueryError answers a query with an error instead of its result. xmlns and typ
// ("get" or "set") say which; an empty one matches all. Pings are queries too:
// "w:p".
func QueryError(xmlns, typ string, code int, text string) Fault {
	return Fault{name: "query error", stage: stageQuery, status: code, text: text, query: [2]string{xmlns, typ}}
}

// QueryIgnored leaves a query without an answer. Its arguments are those of
// QueryError.
func QueryIgnored(xmlns, typ string) Fault {
	return Fault{name: "query ignored", stage: stageQuery, hang: true, query: [2]string{xmlns, typ}}
}

// Stanza sends a stanza as it is, whatever it is, and leaves the connection
// open. It is counted nowhere and not sent again.
func Stanza(n node) Fault {
	return live("stanza <"+n.Tag+">", func(c *conn) func() {
		c.send(n)
		return nil
	})
}

// TextFirst sends a websocket message of text in front of the hello, and goes on
// as ever. whatsmeow lets it pass.
func TextFirst() Fault {
	return Fault{name: "text first", stage: stageHello, text: "hello"}
}

// StrangeFrames sends what no version of whatsmeow knows, and leaves the
// connection open: a message of text, a frame that cannot be decompressed, one
// that holds no stanza, and a stanza with an unknown tag.
func StrangeFrames() Fault {
	return live("strange frames", func(c *conn) func() {
		c.then(func() { _ = c.frames.ws.Write(context.Background(), websocket.MessageText, []byte("hello")) })
		for _, plain := range [][]byte{{2, 'z'}, {0, 0xf8, 0xff}} {
			c.then(func() {
				_ = c.frames.write(c.enc.Seal(nil, nonce(c.wn), plain, nil))
				c.wn++
			})
		}
		c.send(node{Tag: "wasim-strange", Attrs: attrs{"from": types.ServerJID}})
		return nil
	})
}

// LastStanza sends a stanza as it is, for example a stream:error that this
// package does not know, then FIN.
func LastStanza(n node) Fault { return lastWord("last stanza <"+n.Tag+">", n) }

// DropPreKeys makes the service lose all but the first keep of the device's
// one-time prekeys, as if others had used them, and says so with a notification.
// A client with too few then uploads more.
func (d *Device) DropPreKeys(keep int) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if keep < len(d.prekeys) {
		d.prekeys = d.prekeys[:keep:keep]
	}
	d.deliver(node{Tag: "notification", Attrs: attrs{
		"from": types.ServerJID, "type": "encrypt", "id": d.s.id(), "t": time.Now().Unix(),
	}, Content: []node{{Tag: "count", Attrs: attrs{"value": len(d.prekeys)}}}}, true)
}

// TellIdentityChanged tells everybody who knows the account's device list that
// its identity key has changed, as the service does after a reinstallation.
func (a *Account) TellIdentityChanged() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	for d := range a.asked {
		for _, from := range []types.JID{a.JID(), a.LID()} {
			d.deliver(node{Tag: "notification", Attrs: attrs{
				"from": from, "type": "encrypt", "id": a.s.id(), "t": time.Now().Unix(),
			}, Content: []node{{Tag: "identity"}}}, true)
		}
	}
}

// Reinstall closes the contact and pairs it anew under the same address: with
// another identity key, no sessions and no messages. Those who wrote to it before are
// not told; Account.TellIdentityChanged does that. The contact that it returns
// replaces this one.
func (c *Contact) Reinstall(ctx context.Context) (*Contact, error) {
	c.Close()
	c.s.mu.Lock()
	if id := c.dev.ID; id != nil {
		if old := c.acct.devices[id.Device]; old != nil {
			old.remove(true)
			c.acct.reuse = id.Device
		}
	}
	c.s.mu.Unlock()
	return c.s.NewContact(ctx, c.acct.phone, c.opts...)
}
