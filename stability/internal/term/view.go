package term

import (
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
)

// Sight is what the caller sees of the newest connection's socket.
type Sight struct {
	Up   bool
	Gone *SocketGone // it is closed, and nobody has brought that evidence yet
}

// View is what a Core knows, for status and for whoever waits.
type View struct {
	Phase  Phase
	Ending bool // this instance must not use the connection any more

	Device Device
	Parked bool // nothing is offered until somebody asks

	Conn     Conn
	Ready    bool      // logged in on a socket that is up
	Calling  bool      // between an attempt and its login
	Planned  time.Time // the next attempt; zero while none is planned
	Code     string    // to scan now
	Until    time.Time // how long it lasts
	Passkey  bool      // WhatsApp asks for a passkey
	Typed    time.Time // how long the code lasts that was given out to be typed; zero without one
	Status   reconnect.Status
	State    reconnect.State // what is written down, or will be next
	Looping  bool            // a loop is being broken
	Unbroken bool            // there is a loop, and the budget of restarts is spent
}

// View says what is. It changes nothing: a socket that is gone shows as if its
// end were known already.
func (c *Core) View(now time.Time, s Sight) View {
	c = c.with(s, now)
	k, a := &c.conn, &c.client
	v := View{
		Phase: c.phase, Ending: c.Ending(),
		Device: c.device, Parked: c.Parked() && !c.Ending(),
		Conn:  k.phase,
		Ready: c.Ready(s.Up), Calling: k.phase&(live&^Up) != 0,
		Code: k.code, Until: k.until, Passkey: k.phase == Passkey,
		Status: c.Status(s.Up), State: c.state(),
		Looping:  c.phase == Broken,
		Unbroken: c.verdict.Action == autoheal.Exhausted && !c.Ready(s.Up),
	}
	if k.phase == Offering && k.seen.has(typed) {
		v.Typed = k.offerEnds()
	}
	if a.plan != NoPlan && !v.Ending {
		v.Planned = c.plannedAt()
	}
	return v
}

// with is this Core as it is when the end of a socket that is gone is known.
func (c *Core) with(s Sight, now time.Time) *Core {
	if s.Gone == nil || c.conn.phase&live == 0 || c.conn.number != s.Gone.Conn {
		return c
	}
	c = c.Clone()
	c.Handle(*s.Gone, now)
	return c
}

// Ready reports whether the client is logged in on a socket that is up.
func (c *Core) Ready(up bool) bool { return c.conn.phase == Up && up }

// Ending reports whether the term ends.
func (c *Core) Ending() bool { return c.phase&ending != 0 }

// Connects reports whether somebody has said how to connect, so that a connection that
// is ended on purpose is followed by another one.
func (c *Core) Connects() bool { return c.client.can }

// Why says why the term ends.
func (c *Core) Why() (why Why, graceful bool) { return c.why, c.graceful }

// Linked reports whether the account has a device.
func (c *Core) Linked() bool { return c.linked() }

// Device is where the device stands.
func (c *Core) Device() Device { return c.device }

// Parked reports whether nothing is offered until somebody asks.
func (c *Core) Parked() bool { return c.wish == Parked }

// Scanning reports whether the newest connection waits for a phone.
func (c *Core) Scanning() bool { return c.conn.phase&pairing != 0 }

// Unpaired reports whether there is no device that could log in.
func (c *Core) Unpaired() bool {
	return c.machine.State().Status == reconnect.StatusNeedsPairing
}

// Steady reports whether the health of the connection, or of there being none,
// can be judged: not while a connection is being brought to its end.
func (c *Core) Steady() bool { return c.phase == Working && c.conn.phase&(Ended|Drained) == 0 }

// Conn is the newest connection. Open: it has not ended, as far as is known.
func (c *Core) Conn() (number int, started time.Time, open bool) {
	return c.conn.number, c.conn.started, c.conn.phase&live != 0
}

// Returned reports whether the connect function of the newest connection has
// returned without an error.
func (c *Core) Returned() bool { return c.conn.call == Returned }

// Over reports whether everything behind the end of the newest connection was
// decided.
func (c *Core) Over() bool { return c.conn.phase == Over }

// Code is the code to scan now, and how long it lasts; empty without one.
func (c *Core) Code() (string, time.Time) { return c.conn.code, c.conn.until }

// OfferEnds is when the newest connection offers no code any more; zero while it
// offers none.
func (c *Core) OfferEnds() time.Time {
	if c.conn.phase != Offering {
		return time.Time{}
	}
	return c.conn.offerEnds()
}

// End is the decision about the newest end, and what it was about. False while
// the newest connection has not ended.
func (c *Core) End() (reconnect.Decision, reconnect.Cause, bool) {
	return c.conn.decision, c.conn.cause, c.conn.phase&down != 0
}

// Resume says what to do at the start of a term.
func (c *Core) Resume(now time.Time) reconnect.Decision { return c.machine.Resume(now) }

// Status is what an operator may believe now: connected only on a socket that
// is up.
func (c *Core) Status(up bool) reconnect.Status {
	switch {
	case c.Ready(up):
		return reconnect.StatusConnected
	case c.Unpaired():
		return reconnect.StatusNeedsPairing
	}
	return reconnect.StatusDisconnected
}

// State is the state that is written down, or will be next.
func (c *Core) State() reconnect.State { return c.state() }

// Unsaved reports whether the state is newer than what is written down.
func (c *Core) Unsaved() bool { return c.save != Saved }
