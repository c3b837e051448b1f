package wasim

import (
	"maps"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// login answers the client payload: a paired device gets success or failure,
// a new one its QR codes.
func (c *conn) login() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.payload.Username == nil {
		if f := s.take(stageLogin, c, c.from); f != nil {
			c.fail(f.node)
			return
		}
		c.offerPairing()
		return
	}
	user := strconv.FormatUint(c.payload.GetUsername(), 10)
	dev := s.device(types.JID{User: user, Server: types.DefaultUserServer, Device: uint16(c.payload.GetDevice())})
	c.dev = dev // faults may be meant for this device, whether it gets in or not
	f := s.take(stageLogin, c, c.from)
	c.dev = nil
	switch {
	case f != nil:
		c.fail(f.node)
		return
	case dev == nil:
		c.fail(failureNode(401))
		return
	case dev.noise != c.static:
		s.violation("device %s logged in with another Noise key", dev.jid())
		c.fail(failureNode(401))
		return
	}
	if old := dev.conn; old != nil {
		dev.stats.Replaced++
		old.send(replacedNode())
		old.closeAfter(s.opt.closeDelay)
	}
	c.dev, dev.conn, c.loggedIn, c.loginAt = dev, c, true, time.Now()
	s.known[c.static] = true
	dev.stats.Logins++
	dev.lastLogin = time.Now()
	s.opt.log.Debug("login", "device", dev.jid(), "from", c.from)
	c.send(node{Tag: "success", Attrs: attrs{
		"t": time.Now().Unix(), "lid": dev.lid(), "props": "1", "location": "wasim",
	}})
	if f := s.takeLive(c, true); f != nil {
		s.applyLive(f, c)
	}
	c.deliverOffline()
}

func (c *conn) fail(n node) {
	c.send(n)
	c.closeAfter(c.s.opt.closeDelay)
}

// deliverOffline sends again whatever the device has not acknowledged. On a
// connection that a fault has silenced or ended by now it waits on.
func (c *conn) deliverOffline() {
	if c.silent.Load() || c.ending.Load() {
		return
	}
	if n := len(c.dev.pending); n > 0 {
		per := map[string]int{}
		for _, p := range c.dev.pending {
			per[p.Node.Tag]++
		}
		c.send(node{Tag: "ib", Attrs: attrs{"from": types.ServerJID}, Content: []node{{
			Tag: "offline_preview", Attrs: attrs{
				"count": n, "appdata": per["appdata"], "message": per["message"],
				"notification": per["notification"], "receipt": per["receipt"],
			},
		}}})
	}
	for i, p := range c.dev.pending {
		again := p.Node
		again.Attrs = maps.Clone(p.Node.Attrs)
		again.Attrs["offline"] = strconv.Itoa(i)
		c.dev.out(&again, p)
		c.send(again)
		c.brings(p)
	}
	c.send(node{Tag: "ib", Attrs: attrs{"from": types.ServerJID}, Content: []node{{
		Tag: "offline", Attrs: attrs{"count": len(c.dev.pending)},
	}}})
}

func failureNode(reason int) node {
	return node{Tag: "failure", Attrs: attrs{"reason": strconv.Itoa(reason), "location": "wasim"}}
}

func replacedNode() node {
	return node{Tag: "stream:error", Content: []node{{Tag: "conflict", Attrs: attrs{"type": "replaced"}}}}
}

func removedNode() node {
	return node{Tag: "stream:error", Attrs: attrs{"code": "401"},
		Content: []node{{Tag: "conflict", Attrs: attrs{"type": "device_removed"}}}}
}
