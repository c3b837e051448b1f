package wasim

import (
	"context"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// Fault is something that goes wrong with a connection. Make one with the
// functions of this package and arm it with Service.Fault.
type Fault struct {
	name   string
	stage  stage
	hang   bool
	status int
	delay  time.Duration
	node   node
	chain  func(*Service) []byte // the Noise certificate shown
	text   string
	query  [2]string // namespace and type of the queries struck; "" matches any
	dial   func(context.Context, *Service) error
	// live acts on a connection and says how to undo it, nil where that is
	// impossible. It is called with s.mu held and must not wait.
	live func(*conn) (heal func())
}

func (f Fault) String() string { return f.name }

// stage is the moment in a connection's life at which a fault strikes.
type stage int

const (
	stageLive stage = iota // after success, or while QR codes are shown
	stageDial
	stageTLS
	stageUpgrade
	stageCert
	stageHello
	stageLogin
	stageMessage // one message of a live connection
	stageQuery   // one query
)

type trigger int

const (
	atOnce trigger = iota
	onLogin
	afterStanzas
)

// Injection is a fault with a target and a moment. Its methods return it, so
// that they chain; Now, OnNextLogin and AfterStanzas arm it, and the others
// come before them.
type Injection struct {
	s       *Service
	fault   Fault
	device  types.JID
	to      types.JID
	newOnly bool
	from    string
	hasFrom bool
	left    int // times to strike; negative: always
	when    trigger
	after   int
	fired   int
	armed   bool
}

// Fault prepares a fault: it strikes once, on any connection, unless told
// otherwise, and not before Now, OnNextLogin or AfterStanzas arms it.
func (s *Service) Fault(f Fault) *Injection { return &Injection{s: s, fault: f, left: 1} }

// For limits the fault to a device, by PN or LID, or with a JID that has no
// device number to all devices of an account. The device that connects is known from
// the login on: faults before it need From.
func (i *Injection) For(j types.JID) *Injection {
	switch i.fault.stage {
	case stageLive, stageLogin, stageMessage, stageQuery:
	default:
		panic("wasim: fault " + i.fault.name + " strikes before the device is known; use From with a labelled Transport")
	}
	i.device = j
	return i
}

// To limits a fault of messages (MessageNack) to those for one chat: a user, by
// PN or LID and without a device, or a group.
func (i *Injection) To(chat types.JID) *Injection {
	if i.fault.stage != stageMessage {
		panic("wasim: fault " + i.fault.name + " is not about a message; only those have a chat")
	}
	i.to = chat.ToNonAD()
	return i
}

// ToNewChats limits a fault of messages to those for users with whom the
// sender's account has never exchanged a direct message. Load forgets who has.
func (i *Injection) ToNewChats() *Injection {
	if i.fault.stage != stageMessage {
		panic("wasim: fault " + i.fault.name + " is not about a message; only those have a chat")
	}
	i.newOnly = true
	return i
}

// From limits the fault to connections of transports with this label.
func (i *Injection) From(label string) *Injection {
	i.from, i.hasFrom = label, true
	return i
}

// Times makes the fault strike n connections, or n times, instead of one.
func (i *Injection) Times(n int) *Injection {
	i.left = n
	return i
}

// Always makes the fault strike until Stop.
func (i *Injection) Always() *Injection { return i.Times(-1) }

// Now strikes the matching connections that exist, all of them whatever Times
// says. Faults of connecting (dial to login) strike from the next attempt on,
// those of messages and queries from the next message or query on.
func (i *Injection) Now() *Injection {
	s := i.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.fault.stage != stageLive {
		i.arm(atOnce)
		return i
	}
	for c := range s.conns {
		if i.matches(c) && (c.loggedIn || c.pair != nil) {
			i.fired++
			i.strike(c)
		}
	}
	if i.left < 0 { // and those that come
		i.arm(onLogin)
	}
	return i
}

// OnNextLogin strikes right behind success (or the QR codes of a device that
// is not paired). Faults of connecting strike the next attempt, those of
// messages and queries the next message or query.
func (i *Injection) OnNextLogin() *Injection {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.arm(onLogin)
	return i
}

// AfterStanzas strikes when n more stanzas have come from the target, counted
// after its login. Faults of connecting, messages and queries strike the next
// attempt, message or query.
func (i *Injection) AfterStanzas(n int) *Injection {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.after = n
	i.arm(afterStanzas)
	return i
}

func (i *Injection) arm(t trigger) {
	i.when = t
	if !i.armed {
		i.armed = true
		i.s.injections = append(i.s.injections, i)
	}
}

// Stop disarms the fault and heals what it did where that is possible: black
// holes, silence, slow lines and held acknowledgements end.
func (i *Injection) Stop() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.left = 0
	for c := range i.s.conns {
		if heal := c.heals[i]; heal != nil {
			heal()
			delete(c.heals, i)
		}
	}
	i.s.sweep()
}

// Fired is how often the fault has struck.
func (i *Injection) Fired() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.fired
}

// Heal stops every fault.
func (s *Service) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.injections {
		i.left = 0
	}
	s.injections = nil
	for c := range s.conns {
		for i, heal := range c.heals {
			heal()
			delete(c.heals, i)
		}
	}
}

func (i *Injection) matches(c *conn) bool {
	from := ""
	if c != nil {
		from = c.from
	}
	return i.matchesFrom(from) && i.matchesDevice(c)
}

func (i *Injection) matchesFrom(from string) bool { return !i.hasFrom || i.from == from }

func (i *Injection) matchesDevice(c *conn) bool {
	if i.device.IsEmpty() {
		return true
	}
	if c == nil || c.dev == nil {
		return false
	}
	at := c.dev.in(i.device.Server)
	return at.User == i.device.User && (i.device.Device == 0 || i.device.Device == at.Device)
}

// use counts a strike; the caller holds s.mu.
func (i *Injection) use() {
	i.fired++
	if i.left > 0 {
		i.left--
	}
	i.s.sweep()
}

func (s *Service) sweep() {
	kept := s.injections[:0]
	for _, i := range s.injections {
		if i.left != 0 {
			kept = append(kept, i)
		}
	}
	clear(s.injections[len(kept):])
	s.injections = kept
}

// take finds the fault that strikes a connection at a stage before it is
// live. The caller holds s.mu.
func (s *Service) take(st stage, c *conn, from string) *Fault {
	for _, i := range s.injections {
		if i.fault.stage == st && i.matchesFrom(from) && i.matchesDevice(c) {
			i.use()
			return &i.fault
		}
	}
	return nil
}

// takeMessage finds the fault that strikes a message; the caller holds s.mu.
func (c *conn) takeMessage(to types.JID) *Fault {
	return c.takeOne(stageMessage, func(i *Injection) bool {
		a := c.s.account(to)
		if i.newOnly && (a == nil || c.dev.acct.chats[a]) {
			return false
		}
		if i.to.IsEmpty() || i.to == to.ToNonAD() {
			return true
		}
		return a != nil && a == c.s.account(i.to)
	})
}

// takeQuery finds the fault that strikes a query; the caller holds s.mu.
func (c *conn) takeQuery(xmlns, typ string) *Fault {
	return c.takeOne(stageQuery, func(i *Injection) bool {
		want := i.fault.query
		return (want[0] == "" || want[0] == xmlns) && (want[1] == "" || want[1] == typ)
	})
}

func (c *conn) takeOne(st stage, ok func(*Injection) bool) *Fault {
	for _, i := range c.s.injections {
		if i.fault.stage == st && i.matches(c) && ok(i) {
			i.use()
			return &i.fault
		}
	}
	return nil
}

func (c *conn) take(st stage) *Fault {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.take(st, c, c.from)
}

// takeLive finds the fault that strikes behind a login. The caller holds s.mu.
func (s *Service) takeLive(c *conn, login bool) *Injection {
	for _, i := range s.injections {
		if i.fault.stage == stageLive && login && i.when == onLogin && i.matches(c) {
			i.use()
			return i
		}
	}
	return nil
}

// stanzaSeen counts a stanza for the faults that wait for stanzas. The caller
// holds s.mu.
func (s *Service) stanzaSeen(c *conn) {
	for _, i := range s.injections {
		if i.when != afterStanzas || i.fault.stage != stageLive || !i.matches(c) {
			continue
		}
		if i.after--; i.after <= 0 {
			i.use()
			i.strike(c)
			return
		}
	}
}

func (s *Service) applyLive(i *Injection, c *conn) { i.strike(c) }

func (i *Injection) strike(c *conn) {
	if heal := i.fault.live(c); heal != nil {
		if c.heals == nil {
			c.heals = map[*Injection]func(){}
		}
		c.heals[i] = heal
	}
}
