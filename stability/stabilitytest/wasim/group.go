package wasim

import (
	"fmt"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// Group is a group chat.
type Group struct {
	s       *Service
	user    string
	subject string
	created time.Time
	owner   *Account
	members []*Account
	lid     bool
	keyless int // messages that are delivered without their sender's key

	mangled int                       // messages that are delivered as mangle alters them
	mangle  func(skmsg []byte) []byte // see Mangle
}

// NewGroup makes a group; the first member owns it. It panics without members.
func (s *Service) NewGroup(subject string, members ...*Account) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newGroup(subject, false, members)
}

// NewLIDGroup makes a group whose members are addressed by LID, as the real
// service's newer groups are.
func (s *Service) NewLIDGroup(subject string, members ...*Account) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newGroup(subject, true, members)
}

func (s *Service) newGroup(subject string, lid bool, members []*Account) *Group {
	if len(members) == 0 {
		panic("wasim: a group needs at least one member")
	}
	g := &Group{
		s: s, user: fmt.Sprintf("1203630%011d", len(s.groups)+1), subject: subject,
		created: time.Now(), owner: members[0], members: slices.Clone(members), lid: lid,
	}
	s.groups[g.user] = g
	return g
}

// JID is the group's address.
func (g *Group) JID() types.JID { return types.NewJID(g.user, types.GroupServer) }

// WithoutKeys delivers the next n messages of the group without the sender's key, as
// a sender does that believes the others to have it.
func (g *Group) WithoutKeys(n int) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.keyless = n
}

// Mangle delivers the next n messages of the group as f makes them of what the
// sender encrypted with its sender key: malformed, as a faulty sender writes them.
// The sender knows nothing of it, and answers retry receipts with the message itself.
func (g *Group) Mangle(n int, f func(skmsg []byte) []byte) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.mangled, g.mangle = n, f
}

// Add adds a member and tells the group.
func (g *Group) Add(a *Account) { g.change("add", a) }

// Remove removes a member and tells the group.
func (g *Group) Remove(a *Account) { g.change("remove", a) }

func (g *Group) change(what string, a *Account) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.changeLocked(what, g.owner, a)
}

func (g *Group) changeLocked(what string, by, a *Account) {
	told := slices.Clone(g.members)
	switch {
	case what == "add" && !g.has(a):
		g.members = append(g.members, a)
		told = append(told, a)
	case what == "remove" && g.has(a):
		g.members = slices.DeleteFunc(g.members, func(m *Account) bool { return m == a })
	default:
		return
	}
	g.tell(told, by, node{Tag: what, Content: []node{g.participant(a)}})
}

func (g *Group) tell(who []*Account, by *Account, what node) {
	n := node{Tag: "notification", Attrs: attrs{
		"from": g.JID(), "type": "w:gp2", "participant": by.in(g.server()), "id": g.s.id(), "t": time.Now().Unix(),
	}, Content: []node{what}}
	for _, m := range who {
		for _, d := range m.devices {
			d.deliver(n, true)
		}
	}
}

func (g *Group) has(a *Account) bool { return slices.Contains(g.members, a) }

func (g *Group) server() string {
	if g.lid {
		return types.HiddenUserServer
	}
	return types.DefaultUserServer
}

func (g *Group) participant(a *Account) node {
	at := attrs{"jid": a.in(g.server())}
	if g.lid {
		at["phone_number"] = a.JID()
	} else {
		at["lid"] = a.LID()
	}
	if a == g.owner {
		at["type"] = "superadmin"
	}
	return node{Tag: "participant", Attrs: at}
}

func (g *Group) node() node {
	list := make([]node, len(g.members))
	for i, m := range g.members {
		list[i] = g.participant(m)
	}
	return node{Tag: "group", Attrs: attrs{
		"id": g.user, "subject": g.subject, "creation": g.created.Unix(), "s_t": g.created.Unix(),
		"creator": g.owner.in(g.server()), "s_o": g.owner.in(g.server()),
		"addressing_mode": mode(g.server()), "size": len(list),
	}, Content: list}
}

// group answers the group queries.
func (c *conn) group(n *node) {
	to := jid(n, "to")
	if to.User == "" {
		c.groups(n)
		return
	}
	g := c.s.groups[to.User]
	ch := n.GetChildren()
	switch {
	case g == nil:
		c.iqError(n, 404, "item-not-found")
	case !g.has(c.dev.acct):
		c.iqError(n, 403, "forbidden")
	case len(ch) != 1:
		c.iqError(n, 400, "bad-request")
	case ch[0].Tag == "query":
		c.result(n, g.node())
	case ch[0].Tag == "add" || ch[0].Tag == "remove":
		for _, p := range ch[0].GetChildrenByTag("participant") {
			if a := c.s.account(jid(&p, "jid")); a != nil {
				g.changeLocked(ch[0].Tag, c.dev.acct, a)
			}
		}
		c.result(n, ch[0])
	case ch[0].Tag == "subject":
		g.subject = text(&ch[0])
		g.tell(g.members, c.dev.acct, node{Tag: "subject", Attrs: attrs{"subject": g.subject, "s_t": time.Now().Unix()}})
		c.result(n)
	case slices.Contains([]string{"description", "locked", "unlocked", "announcement", "not_announcement",
		"ephemeral", "not_ephemeral", "member_add_mode", "membership_approval_mode"}, ch[0].Tag):
		c.result(n)
	default:
		c.unknown(n)
	}
}

// groups answers queries that are not about one group.
func (c *conn) groups(n *node) {
	switch ch := n.GetChildren(); {
	case child(n, "participating") != nil:
		var list []node
		for _, g := range c.s.groups {
			if g.has(c.dev.acct) {
				list = append(list, g.node())
			}
		}
		c.result(n, node{Tag: "groups", Content: list})
	case child(n, "create") != nil:
		cr := child(n, "create")
		members := []*Account{c.dev.acct}
		for _, p := range cr.GetChildrenByTag("participant") {
			if a := c.s.account(jid(&p, "jid")); a != nil && !slices.Contains(members, a) {
				members = append(members, a)
			}
		}
		g := c.s.newGroup(str(cr, "subject"), false, members)
		g.tell(members, c.dev.acct, node{Tag: "create", Attrs: attrs{"type": "new", "key": str(cr, "key")},
			Content: []node{g.node()}})
		c.result(n, g.node())
	case len(ch) == 1 && ch[0].Tag == "leave":
		for _, l := range ch[0].GetChildrenByTag("group") {
			id := jid(&l, "id")
			if g := c.s.groups[id.User]; g != nil {
				g.changeLocked("remove", c.dev.acct, c.dev.acct)
			}
		}
		c.result(n)
	default:
		c.unknown(n)
	}
}
