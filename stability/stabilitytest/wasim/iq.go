package wasim

import (
	"strconv"

	"go.mau.fi/whatsmeow/types"
)

// handleIQ answers a query. A query that is not listed here is unknown, on purpose:
// a client that asks for more than the service knows must be noticed.
func (c *conn) handleIQ(n *node) {
	typ := str(n, "type")
	if typ == "result" || typ == "error" {
		if c.pair != nil {
			c.pair.answered(c, n)
		}
		return
	}
	if f := c.takeQuery(str(n, "xmlns"), typ); f != nil {
		if !f.hang {
			c.iqError(n, f.status, f.text)
		}
		return
	}
	if c.dev == nil {
		switch {
		case str(n, "xmlns") == "w:p":
			c.result(n)
		case str(n, "xmlns") == "md" && child(n, "link_code_companion_reg") != nil:
			c.linkCode(n)
		case str(n, "xmlns") == "md" && c.passkeyStep(n):
		case str(n, "xmlns") == "passive", str(n, "xmlns") == "encrypt":
			// whatsmeow asks these in the background behind a login. If the host logs
			// out and connects meanwhile, they come on the new connection.
			c.iqError(n, 401, "not-authorized")
		case c.s.known[c.static]:
			c.s.seen.stray("iq")
			c.iqError(n, 401, "not-authorized")
		default:
			c.unknown(n)
		}
		return
	}
	switch key := str(n, "xmlns") + " " + typ; key {
	case "w:p get":
		c.dev.stats.Pings++
		c.result(n)
	case "encrypt get", "encrypt set":
		c.encrypt(n)
	case "usync get":
		c.usync(n)
	case "w:g2 get", "w:g2 set":
		c.group(n)
	case "md set":
		if r := child(n, "remove-companion-device"); r != nil {
			c.removeCompanion(n, jid(r, "jid"))
			return
		}
		c.unknown(n)
	case "privacy get":
		c.result(n, node{Tag: "privacy", Content: []node{
			{Tag: "category", Attrs: attrs{"name": "readreceipts", "value": "all"}},
			{Tag: "category", Attrs: attrs{"name": "last", "value": "all"}},
		}})
	case "w:sync:app:state set":
		c.appState(n)
	case "w:profile:picture get", "status get", "w:biz get":
		c.iqError(n, 404, "item-not-found")
	case "w:m set":
		c.result(n, node{Tag: "media_conn", Attrs: attrs{
			"auth": "wasim", "ttl": "300", "auth_ttl": "21600", "max_buckets": "12",
		}, Content: []node{{Tag: "host", Attrs: attrs{"hostname": "mmg.whatsapp.net"}}}})
	case "blocklist get", "blocklist set":
		c.result(n, node{Tag: "list", Attrs: attrs{"dhash": "wasim"}})
	case "passive set", "status set", "privacy set", "disappearing_mode set", "tos get", "tos set",
		"urn:xmpp:whatsapp:dirty set", "urn:xmpp:whatsapp:push get", "urn:xmpp:whatsapp:push set":
		c.result(n)
	default:
		c.unknown(n)
	}
}

func (c *conn) result(n *node, content ...node) {
	out := node{Tag: "iq", Attrs: attrs{"id": str(n, "id"), "type": "result", "from": types.ServerJID}}
	if to := jid(n, "to"); !to.IsEmpty() {
		out.Attrs["from"] = to
	}
	if len(content) > 0 {
		out.Content = content
	}
	c.send(out)
}

func (c *conn) iqError(n *node, code int, text string) {
	c.send(node{Tag: "iq", Attrs: attrs{"id": str(n, "id"), "type": "error", "from": types.ServerJID},
		Content: []node{{Tag: "error", Attrs: attrs{"code": strconv.Itoa(code), "text": text}}}})
}

func (c *conn) removeCompanion(n *node, who types.JID) {
	d := c.s.device(who)
	if d == nil || d.acct != c.dev.acct {
		c.iqError(n, 404, "item-not-found")
		return
	}
	c.result(n)
	d.remove(d != c.dev)
}

// usync answers about users: devices, LID, whether they exist.
func (c *conn) usync(n *node) {
	q, list := child(n, "usync", "query"), child(n, "usync", "list")
	if q == nil || list == nil {
		c.iqError(n, 400, "bad-request")
		return
	}
	var users []node
	for _, u := range list.GetChildren() {
		asked := jid(&u, "jid")
		contact, _ := u.GetOptionalChildByTag("contact")
		number := text(&contact)
		if asked.IsEmpty() && number != "" {
			asked, _ = types.ParseJID(number)
			asked.User = digits(asked.User)
			asked.Server = types.DefaultUserServer
		}
		acct := c.s.account(asked)
		out := node{Tag: "user", Attrs: attrs{"jid": asked}}
		var content []node
		for _, want := range q.GetChildren() {
			switch want.Tag {
			case "devices":
				if acct != nil {
					acct.asked[c.dev] = true
					content = append(content, acct.deviceList())
				}
			case "lid":
				if acct != nil {
					content = append(content, node{Tag: "lid", Attrs: attrs{"val": acct.LID()}})
				}
			case "contact":
				t := "out"
				if acct != nil {
					t = "in"
				}
				content = append(content, node{Tag: "contact", Attrs: attrs{"type": t}, Content: []byte(number)})
			case "status":
				content = append(content, node{Tag: "status", Content: []byte("")})
			case "picture", "business":
			default:
				c.unknown(n)
				return
			}
		}
		if len(content) > 0 {
			out.Content = content
		}
		users = append(users, out)
	}
	us := child(n, "usync")
	c.result(n, node{Tag: "usync", Attrs: attrs{
		"sid": str(us, "sid"), "mode": str(us, "mode"), "last": "true", "index": "0", "context": str(us, "context"),
	}, Content: []node{{Tag: "result"}, {Tag: "list", Content: users}}})
}

func (a *Account) deviceList() node {
	var list []node
	for _, id := range a.ids() {
		d := node{Tag: "device", Attrs: attrs{"id": int(id)}}
		if id != 0 {
			d.Attrs["key-index"] = int(id)
		}
		list = append(list, d)
	}
	return node{Tag: "devices", Content: []node{{Tag: "device-list", Content: list}}}
}

func text(n *node) string {
	switch v := n.Content.(type) {
	case []byte:
		return string(v)
	case string:
		return v
	}
	return ""
}

func digits(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] >= '0' && s[i] <= '9' {
			out = append(out, s[i])
		}
	}
	return string(out)
}
