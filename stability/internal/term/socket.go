package term

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// The rules for sockets, attempts and logins.

// to moves the newest connection on. The rule that asks for it says whether it may.
func (c *Core) to(p Conn) { c.conn.phase = p }

// begin makes a connection the newest.
func (c *Core) begin(p Conn, call Call) {
	c.conns++
	c.client.back = InItsTime
	c.conn = connection{phase: p, number: c.conns, call: call, started: c.now}
	if !c.linked() {
		c.conn.seen |= forPairing
	}
}

// abort cuts an attempt that is under way, so that nothing waits for dial and
// handshake. An attempt that has not dialed yet is cut when it does.
func (c *Core) abort() {
	if k := &c.conn; k.call == Running && k.socket {
		c.do(Cut{k.number, ErrEndedBefore})
	}
}

func refuse(c *Core, e Evidence) { c.do(Refuse{}) }

func (c *Core) bind() {
	c.conn.socket = true
	c.do(Bind{c.conn.number})
}

func socketOpen(c *Core, e Evidence) {
	if c.client.phase != Attached {
		c.do(Refuse{})
		return
	}
	c.bind()
	if c.conn.phase == Opening {
		c.to(Dialed)
	} else {
		c.to(Waiting)
	}
}

// socketLate is for a socket that is opened while the connection is ended.
func socketLate(c *Core, e Evidence) {
	if k := &c.conn; c.client.phase == Attached && !k.socket && k.call == Running {
		c.bind()
		c.do(Cut{k.number, ErrEndedBefore})
		return
	}
	socketOfHost(c, e)
}

// socketOfHost is for an attempt that the host began by itself.
func socketOfHost(c *Core, e Evidence) {
	if c.client.phase != Attached {
		c.do(Refuse{})
		return
	}
	if k := &c.conn; k.phase&(live|Ended|Drained) != 0 {
		// The client has given the earlier one up.
		c.end(reconnect.Cause{Reason: reconnect.ReasonConnectionClosed, Source: reconnect.SourceRaw})
		if k.socket {
			c.do(Cut{k.number, ErrSuperseded})
		}
		c.tell()
	}
	c.begin(Waiting, Returned)
	c.conn.seen = 0
	c.conn.deadline = c.now.Add(c.cfg.DialTimeout + c.cfg.ConnectTimeout)
	c.bind()
	if until, ok := c.machine.Allowed(c.now); !ok {
		c.do(Cut{c.conn.number, fmt.Errorf("stability: the account is banned until %s: connecting before would make it worse", until.Format(time.RFC3339))})
		return
	}
	c.machine.Attempt(c.now)
	c.kept = time.Time{}
	c.changed()
	c.client.tries++
	c.do(Announce{What: NewsConnecting, Attempt: c.client.tries})
}

func socketGone(c *Core, e Evidence) {
	g, k := e.(SocketGone), &c.conn
	if !k.socket {
		return
	}
	cause := g.Cause
	ours := func(reason reconnect.Reason, detail string) {
		cause.Reason, cause.Detail = reason, detail
	}
	switch {
	case g.By == ByPause:
		ours(reconnect.ReasonConnectionLost, "this process was paused for longer than the lease allows without a confirmation")
	case g.By == ByReset:
		ours(reconnect.ReasonRequested, "this program reset the connection")
	case g.By == ByClient && c.linked() && c.client.auto:
		ours(reconnect.ReasonClosedByProgram, "")
	case g.By == ByClient && c.linked():
		ours(reconnect.ReasonIntentional, "this program closed the connection")
	case k.phase == Offering && len(k.codes) == 0 && k.until.Sub(c.now) < time.Second:
		// The service counts the life of the last code too.
		ours(reconnect.ReasonQRExpired, "no code was scanned in time")
	case g.By == ByClient:
		// whatsmeow itself does so when a pairing fails, and says why next.
		ours(reconnect.ReasonConnectionClosed, "")
	}
	c.end(cause)
}

func callReturnedLeaving(c *Core, e Evidence) {
	r := e.(CallReturned)
	if !r.Failed {
		callReturned(c, e)
		return
	}
	c.stepDown(reconnect.Cause{Reason: reconnect.ReasonHandedOver, Source: reconnect.SourceHost, Err: c.why.Err})
}

func callReturned(c *Core, e Evidence) {
	r, k := e.(CallReturned), &c.conn
	if r.Failed && r.Ends {
		c.end(r.Cause)
		return
	}
	k.call = Returned
	switch k.phase {
	case Opening:
		c.to(Foreign)
	case Dialed:
		c.to(Waiting)
	}
	// The next word may have come already.
	if k.seen.has(toldEarly) && r.Up && k.phase == Waiting {
		c.loggedIn()
	}
	if k.phase&(Waiting|Foreign|Accepted) != 0 && k.deadline.IsZero() {
		k.deadline = c.now.Add(c.cfg.ConnectTimeout)
	}
	if !k.socket {
		c.log(slog.LevelError, "this connection did not go through the Manager's dialer: no fence and no clean end; pass proxies to WithTransport, not to the client")
	}
}

func callReturnedLate(c *Core, e Evidence) {
	switch r := e.(CallReturned); {
	case c.conn.call != Running:
	case r.Failed && r.Ends:
		c.end(r.Cause)
	default:
		c.conn.call = Returned
	}
}

// The login.

func tapSawLogin(c *Core, e Evidence) {
	if c.conn.phase != Over {
		c.conn.seen |= sawLogin
		c.do(TapWorks{})
	}
}

func tapSawService(c *Core, e Evidence) {
	c.conn.seen |= sawService
	c.believe(e.(SawService).Up)
}

func toldLoginEarly(c *Core, e Evidence) { c.conn.seen |= toldEarly }

func toldLogin(c *Core, e Evidence) {
	t, k := e.(ToldLogin), &c.conn
	if !t.Up {
		return // whatsmeow may say so seconds after the socket died
	}
	if c.client.tapped && !k.seen.has(sawLogin) {
		if t.TapSees {
			// Left over from an earlier connection, or the tap missed the login.
			k.seen |= toldUnseen
			c.believe(true)
			return
		}
		c.do(LoginWithoutTap{Blind: true})
	}
	c.loggedIn()
}

// believe ends the doubt about a login that the tap has not seen: the service
// sends what only a client gets that is logged in, or the time for the login
// is over and the connection has lasted.
func (c *Core) believe(up bool) {
	k := &c.conn
	over := !k.deadline.IsZero() && !c.now.Before(k.deadline)
	if !k.seen.has(toldUnseen) || k.phase&(live&^Up) == 0 || !k.socket || !up || !k.seen.has(sawService) && !over {
		return
	}
	c.do(LoginWithoutTap{})
	c.loggedIn()
}

func (c *Core) loggedIn() {
	k, before := &c.conn, c.machine.State()
	c.to(Up)
	k.seen |= wasUp
	c.fit()
	if c.device != Deleted { // else its time is short
		k.deadline = time.Time{}
	}
	c.machine.Connected(c.now)
	k.stable = c.now.Add(c.policy.StableAfter)
	if c.device == Unpaired {
		c.deviceTo(Paired)
	}
	c.vital.begin()
	c.rounds, c.wish = 0, Open
	c.changed()
	k.codes, k.code, k.until = nil, "", time.Time{}
	a := Announce{What: NewsConnected, Attempt: c.client.tries}
	if !before.DisconnectedSince.IsZero() {
		a.Offline = c.now.Sub(before.DisconnectedSince)
	}
	c.client.tries = 0
	c.log(slog.LevelInfo, "connected", "attempt", a.Attempt, "offline", a.Offline)
	c.do(a)
	if c.repair {
		c.repair = false
		c.do(Repair{k.number})
	}
}
