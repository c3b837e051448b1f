package wasim

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// nackInvalid is the error of an acknowledgement that refuses a stanza.
const nackInvalid = 479

// handleMessage fans a message out to the devices it is for, and acknowledges
// it once all of them have it in their pending lists.
func (c *conn) handleMessage(n *node) {
	to, id := jid(n, "to"), str(n, "id")
	c.dev.stats.MessagesSent++
	if f := c.takeMessage(to); f != nil {
		if f.hang {
			c.dev.stats.MessagesIgnored++
			return
		}
		c.dev.stats.MessagesRefused++
		c.ackMessage(n, f.status, "")
		return
	}
	var phash string
	err := fmt.Errorf("no recipient or no id")
	if id != "" && !to.IsEmpty() {
		switch {
		case to.Server == types.GroupServer:
			phash, err = c.toGroup(n, to)
		case to.Server == types.BroadcastServer:
			err = c.toBroadcast(n, to)
		case c.s.account(to) == nil:
			c.ackMessage(n, 404, "")
			return
		case child(n, "participants") != nil:
			phash, err = c.toUsers(n, to)
		case child(n, "enc") != nil:
			err = c.toOne(n, to, to)
		default:
			err = fmt.Errorf("neither participants nor enc")
		}
	}
	if err != nil {
		c.s.violation("message %s from %s to %s: %v", id, c.dev.jid(), to, err)
		c.ackMessage(n, nackInvalid, "")
		return
	}
	c.ackMessage(n, 0, phash)
}

func (c *conn) ackMessage(n *node, code int, phash string) {
	a := attrs{"class": "message", "id": str(n, "id"), "from": jid(n, "to"), "t": time.Now().Unix()}
	if code != 0 {
		a["error"] = code
	}
	if phash != "" {
		a["phash"] = phash
	}
	if p := jid(n, "participant"); !p.IsEmpty() {
		a["participant"] = p
	}
	c.reply(node{Tag: "ack", Attrs: a})
}

// reply sends an acknowledgement, or keeps it while acknowledgements are held.
func (c *conn) reply(n node) {
	if c.held != nil {
		*c.held = append(*c.held, n)
		return
	}
	c.send(n)
}

// recipients checks a message's participants list. ok says which accounts may
// be addressed.
func (c *conn) recipients(n *node, server string, ok func(*Account) bool) (map[*Device]*node, error) {
	out := map[*Device]*node{}
	list := child(n, "participants")
	if list == nil {
		return out, nil
	}
	for _, p := range list.GetChildren() {
		j := jid(&p, "jid")
		enc := child(&p, "enc")
		acct := c.s.account(j)
		switch {
		case p.Tag != "to" || j.IsEmpty():
			return nil, fmt.Errorf("malformed participant <%s>", p.Tag)
		case enc == nil || len(content(enc)) == 0 || str(enc, "type") == "":
			return nil, fmt.Errorf("participant %s without a ciphertext", j)
		case j.Server != server:
			return nil, fmt.Errorf("participant %s is not addressed as the recipient is (%s)", j, server)
		case acct == nil || !ok(acct):
			return nil, fmt.Errorf("participant %s does not belong to the chat", j)
		}
		if d := acct.devices[j.Device]; d != nil { // else a stale device list
			out[d] = enc
		}
	}
	return out, nil
}

// toUsers delivers a 1:1 message to the recipient's devices and to the
// sender's other ones.
func (c *conn) toUsers(n *node, to types.JID) (phash string, err error) {
	rcpt, own := c.s.account(to), c.dev.acct
	encs, err := c.recipients(n, to.Server, func(a *Account) bool { return a == rcpt || a == own })
	if err != nil {
		return "", err
	}
	own.knows(rcpt)
	rcpt.knows(own)
	base := c.base(n)
	c.alt(base, "sender", to.Server)
	base["from"] = c.dev.in(to.Server)
	for d, enc := range encs {
		if d == c.dev {
			return "", fmt.Errorf("participant %s is the sender itself", d.jid())
		}
		a := cloneAttrs(base)
		if d.acct == own {
			a["recipient"] = rcpt.in(to.Server)
			other := "peer_recipient_lid"
			if to.Server == types.HiddenUserServer {
				other = "peer_recipient_pn"
			}
			a[other] = rcpt.in(otherServer(to.Server))
		}
		d.deliver(node{Tag: "message", Attrs: a, Content: append([]node{*enc}, extras(n, enc)...)}, true)
	}
	accts := []*Account{rcpt}
	if own != rcpt {
		accts = append(accts, own)
	}
	return c.phash(accts, encs, to.Server), nil
}

// toOne delivers a ciphertext for a single device: the answer to a retry
// receipt, or a peer message to one of the sender's own devices.
func (c *conn) toOne(n *node, chat, dest types.JID) error {
	enc := child(n, "enc")
	if p := c.s.phoneAt(dest); p != nil && p.a == c.dev.acct && str(n, "category") == "peer" {
		answer := func() {
			if err := p.asked(c.dev, n); err != nil { // a session of an earlier life: no answer
				c.s.opt.log.Debug("the phone cannot read a request", "device", c.dev.jid(), "error", err)
			}
		}
		if live := p.a.live; live.on {
			answer()
		} else {
			live.waits = append(live.waits, answer)
		}
		return nil
	}
	d := c.s.device(dest)
	if d == nil { // the phone, or unlinked meanwhile: nobody to have it
		return nil
	}
	if str(n, "category") == "peer" && d.acct != c.dev.acct {
		return fmt.Errorf("peer message to another account")
	}
	a := c.base(n)
	if chat.Server == types.GroupServer {
		a["from"], a["participant"] = chat, c.dev.in(dest.Server)
		c.alt(a, "participant", dest.Server)
		a["addressing_mode"] = mode(dest.Server)
	} else {
		a["from"] = c.dev.in(dest.Server)
		c.alt(a, "sender", dest.Server)
		if r := jid(n, "recipient"); !r.IsEmpty() {
			a["recipient"] = r
		}
	}
	if cat := str(n, "category"); cat != "" {
		a["category"] = cat
	}
	d.deliver(node{Tag: "message", Attrs: a, Content: append([]node{*enc}, extras(n, enc)...)}, true)
	return nil
}

func (c *conn) toGroup(n *node, to types.JID) (phash string, err error) {
	g := c.s.groups[to.User]
	if g == nil || !g.has(c.dev.acct) {
		return "", fmt.Errorf("the sender is not in the group")
	}
	server := g.server()
	if p := jid(n, "participant"); !p.IsEmpty() {
		return "", c.toOne(n, to, p)
	}
	sk := child(n, "enc")
	if sk == nil || str(sk, "type") != "skmsg" || len(content(sk)) == 0 {
		return "", fmt.Errorf("no sender key message")
	}
	encs, err := c.recipients(n, server, g.has)
	if err != nil {
		return "", err
	}
	keys := encs
	if g.keyless > 0 {
		g.keyless--
		keys = nil
	}
	if g.mangled > 0 {
		g.mangled--
		altered := *sk
		altered.Content = g.mangle(slices.Clone(content(sk)))
		sk = &altered
	}
	base := c.base(n)
	base["from"], base["participant"] = to, c.dev.in(server)
	base["addressing_mode"] = mode(server)
	c.alt(base, "participant", server)
	for _, m := range g.members {
		for _, d := range m.devices {
			switch enc := keys[d]; {
			case d == c.dev:
			case enc != nil:
				d.deliver(node{Tag: "message", Attrs: base,
					Content: append([]node{*enc, *sk}, extras(n, enc)...)}, true)
			default:
				d.deliver(node{Tag: "message", Attrs: base,
					Content: append([]node{*sk}, extras(n, sk)...)}, true)
			}
		}
	}
	return c.phash(g.members, encs, server), nil
}

// toBroadcast delivers a status or list message to whoever it is encrypted for.
func (c *conn) toBroadcast(n *node, to types.JID) error {
	sk := child(n, "enc")
	for _, server := range []string{types.DefaultUserServer, types.HiddenUserServer} {
		encs, err := c.recipients(n, server, func(*Account) bool { return true })
		if err != nil {
			if server == types.DefaultUserServer {
				continue
			}
			return err
		}
		base := c.base(n)
		base["from"], base["participant"] = to, c.dev.in(server)
		c.alt(base, "participant", server)
		for d, enc := range encs {
			if d == c.dev {
				continue
			}
			content := []node{*enc}
			if sk != nil {
				content = append(content, *sk)
			}
			d.deliver(node{Tag: "message", Attrs: base, Content: append(content, extras(n, enc)...)}, true)
		}
		return nil
	}
	return nil
}

// base are the attributes that every copy of a message has.
func (c *conn) base(n *node) attrs {
	a := attrs{"id": str(n, "id"), "t": time.Now().Unix(), "notify": c.dev.acct.pushName}
	for _, k := range []string{"type", "edit"} {
		if v := str(n, k); v != "" {
			a[k] = v
		}
	}
	return a
}

// alt adds the sender's address in the other addressing: sender_lid,
// sender_pn, participant_lid or participant_pn.
func (c *conn) alt(a attrs, who, server string) {
	if server == types.HiddenUserServer {
		a[who+"_pn"] = c.dev.acct.JID()
	} else {
		a[who+"_lid"] = c.dev.acct.LID()
	}
}

func otherServer(server string) string {
	if server == types.HiddenUserServer {
		return types.DefaultUserServer
	}
	return types.HiddenUserServer
}

func mode(server string) string {
	if server == types.HiddenUserServer {
		return string(types.AddressingModeLID)
	}
	return string(types.AddressingModePN)
}

// extras are the children of a message that travel with each copy.
func extras(n, enc *node) []node {
	var out []node
	for _, ch := range n.GetChildren() {
		switch ch.Tag {
		case "participants", "enc", "tctoken":
		case "device-identity":
			if str(enc, "type") == "pkmsg" {
				out = append(out, ch)
			}
		default:
			out = append(out, ch)
		}
	}
	return out
}

func cloneAttrs(a attrs) attrs {
	out := make(attrs, len(a)+2)
	for k, v := range a {
		out[k] = v
	}
	return out
}

// phash is the participant hash of the devices a message should have gone to,
// or empty if it did. A client that sees one drops its cached device lists.
func (c *conn) phash(accts []*Account, got map[*Device]*node, server string) string {
	var all []string
	missing := false
	for _, a := range accts {
		for _, d := range a.devices {
			all = append(all, d.in(server).ADString())
			if d != c.dev && got[d] == nil {
				missing = true
			}
		}
	}
	if !missing {
		return ""
	}
	slices.Sort(all)
	h := sha256.Sum256([]byte(strings.Join(all, "")))
	return "2:" + base64.RawStdEncoding.EncodeToString(h[:6])
}
