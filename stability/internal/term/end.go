package term

import (
	"log/slog"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// The rules for the end of a connection. The first cause ends it; later
// ones can only make the reason better.

// end takes a cause for the end of the newest connection.
func (c *Core) end(cause reconnect.Cause) {
	k := &c.conn
	if k.phase == NoConn || k.phase == Over && c.client.plan == Recorded {
		return // the next attempt counts already
	}
	if cause.Reason == reconnect.ReasonMultideviceMismatch && c.linked() {
		cause.Reason = reconnect.ReasonConnectRejected // no code is shown that a phone could scan
	}
	if k.phase&live != 0 {
		c.endNow(cause, func() reconnect.Decision { return c.weighed(cause) })
		c.changed()
		c.abort()
		return
	}
	best := reconnect.Better(k.cause, cause)
	same := best.Reason == k.cause.Reason && best.Code == k.cause.Code && best.Expire == k.cause.Expire
	k.cause = best
	if same {
		return
	}
	k.decision = c.weighed(best)
	c.changed()
	if k.seen.has(toldEnd) {
		c.log(slog.LevelInfo, "a better reason became known", "reason", best.Reason, "code", best.Code, "detail", best.Detail)
		c.do(Announce{What: NewsReasonKnown, Reason: best.Reason, Detail: best.Detail, Decision: k.decision})
	}
	if k.phase == Over { // its end was already acted upon
		c.follow()
	}
}

// endNow makes the newest connection an ended one.
func (c *Core) endNow(cause reconnect.Cause, decide func() reconnect.Decision) {
	k := &c.conn
	if k.phase&pairing != 0 {
		k.seen |= codeOffered
	}
	k.codes, k.code, k.until, k.deadline = nil, "", time.Time{}, time.Time{}
	k.cause, k.decision = cause, decide()
	c.to(Ended)
}

func tapSawEnd(c *Core, e Evidence) {
	s := e.(SawEnd)
	if s.Behind && c.conn.phase&live != 0 {
		return
	}
	c.conn.seen |= sawEnd
	c.end(s.Cause)
}

// whatsmeowToldEnd takes what an event tells. Events come late and from other
// goroutines, so what cannot belong to the newest connection is left out: the
// tap sees every stanza, so an event that comes from one that it has not seen
// was left over. A tap that is blind says nothing.
func whatsmeowToldEnd(c *Core, e Evidence) {
	t := e.(ToldEnd)
	if t.FromStanza && c.client.tapped && t.TapSees && !c.conn.seen.has(sawEnd) {
		return
	}
	c.end(t.Cause)
}

func hostEndUnseen(c *Core, e Evidence) {
	if c.client.phase == NoClient {
		return
	}
	c.begin(Opening, NoCall)
	c.conn.seen = 0
	hostEnd(c, e)
}

func hostEnd(c *Core, e Evidence) {
	c.end(e.(HostEnd).Cause)
	c.conn.seen |= hostKnows
	if c.client.silent && c.client.plan != NoPlan && !c.Ending() { // from here on it is the host's move
		c.planTo(NoPlan)
	}
}

func loggedOut(c *Core, e Evidence) {
	c.end(reconnect.Cause{Reason: reconnect.ReasonLoggedOut, Source: reconnect.SourceHost, Detail: "the host logged out"})
}

// tell reports the end of a connection, once.
func (c *Core) tell() {
	k := &c.conn
	if k.seen.has(toldEnd) {
		return
	}
	k.seen |= toldEnd
	c.log(slog.LevelInfo, "disconnected", "reason", k.cause.Reason, "code", k.cause.Code, "detail", k.cause.Detail,
		"attempt", k.decision.RetryCount, "delay", k.decision.Delay, "reconnect", k.decision.ShouldReconnect)
	c.do(Announce{What: NewsDisconnected, Reason: k.cause.Reason, Detail: k.cause.Detail, Decision: k.decision})
	if c.Unpaired() && asksForPairing(k.cause.Reason) && !k.seen.has(ofNoUse) {
		c.do(Announce{What: NewsNeedsPairing, Reason: k.cause.Reason, Detail: k.cause.Detail})
	}
}

// asksForPairing reports whether a person has to pair because of an end. Without
// a device all other ends are of attempts to offer a code: they were told already
// that there is none. So is a code that nobody scanned.
func asksForPairing(r reconnect.Reason) bool {
	return r.Class() == reconnect.ClassPermanent || r.Class() == reconnect.ClassUser && r != reconnect.ReasonQRExpired
}

func late(c *Core, e Evidence) { c.tell() }

func cleanedUp(c *Core, e Evidence) {
	if k := &c.conn; k.cause.Reason == reconnect.ReasonConnectionReplaced {
		c.to(Drained)
		c.do(AskLock{k.number})
		return
	}
	c.over()
}

func lockAsked(c *Core, e Evidence) { c.over() }

// over decides what follows an end, behind which the client can be used again.
func (c *Core) over() {
	c.tell()
	c.to(Over)
	if c.client.phase == Replaced {
		c.followReplaced()
		return
	}
	c.follow()
}

// followReplaced is what follows when the client in its place decides: what
// the end means for the device, if it was not the replacement that ended it.
func (c *Core) followReplaced() {
	switch {
	case c.phase&holding == 0:
	case c.conn.cause.Reason == reconnect.ReasonIntentional:
		c.followDeletion()
	default:
		c.followDevice()
	}
}

// follow does what the decision about an ended connection says.
func (c *Core) follow() {
	d, k, a := c.conn.decision, &c.conn, &c.client
	if k.seen.has(ofNoUse) {
		c.followReplaced()
		return
	}
	c.repair = c.repair || d.Repair
	c.followDevice()
	switch {
	case (a.back == AtOnce || a.back == IfAllowed && d.ShouldReconnect) && !c.machine.State().NotBefore.After(c.now):
		c.planAt(c.now)
	case d.ShouldReconnect && a.auto && c.wish == Parked && c.cfg.OnRequest && !c.linked():
		c.planTo(NoPlan) // nobody has asked for a code yet
	case d.ShouldReconnect && a.auto:
		c.planAt(d.NextRetryAt)
	case d.ShouldReconnect && a.can && (k.call != Returned || !k.seen.has(hostKnows)) && a.plan == NoPlan:
		// An error of the host's connect function, or an end of which
		// whatsmeow told nobody.
		if c.planAt(d.NextRetryAt); k.call == Returned && a.plan == Planned {
			c.planTo(NoPlan)
			c.planTo(Unasked)
			c.client.silent = true
		}
	case d.ShouldReconnect && a.plan != NoPlan && a.at.Before(d.NextRetryAt):
		c.planAt(d.NextRetryAt) // a better reason moves an attempt that is planned
	case d.Action == reconnect.ActionStandby && !c.yieldAt.IsZero(): // the lock is given up
		c.planTo(NoPlan)
	case !d.ShouldReconnect:
		c.planTo(NoPlan) // a terminal cause beats a queued attempt
		if a.auto {
			c.parkOrOffer(k.cause.Reason, k.seen.has(forPairing) && !k.seen.has(codeOffered))
		}
	}
	c.judgeLoop(d.Counted)
}

// followDevice is what an end means for the device.
func (c *Core) followDevice() {
	switch c.conn.cause.Reason {
	case reconnect.ReasonLoggedOut, reconnect.ReasonAccountLocked, reconnect.ReasonAccountBanned:
		if c.device != Unread { // else it is about one before that
			c.dropDevice(Gone)
		}
		c.retireClient()
	case reconnect.ReasonPairingFailed:
		// The leftovers of the pairing in the device make it useless.
		if c.device&present != 0 {
			c.dropDevice(Spoilt)
		}
		c.retireClient()
	default:
		c.followDeletion()
	}
}

// planAt plans an attempt, unless the term ends. One that was planned before is
// forgotten, and with it that it was recorded.
func (c *Core) planAt(at time.Time) {
	if c.client.phase != Attached || c.Ending() {
		return
	}
	if c.client.plan != NoPlan {
		c.planTo(NoPlan)
	}
	c.planTo(Planned)
	c.client.at, c.client.silent = at, false
	if c.client.auto {
		c.unpark() // whoever made the client connect has asked
	}
}

// retireClient says that the client is of no more use.
func (c *Core) retireClient() {
	if a := &c.client; a.phase&(Attached|Replaced) != 0 {
		c.clientTo(Retired)
		if !c.Ending() || c.client.plan != Recorded { // else it counts, see leave
			c.planTo(NoPlan)
		}
		c.do(RetireClient{a.number})
		if c.conn.phase&live != 0 { // nobody must log in or scan a code on it
			c.stepDown(reconnect.Cause{Reason: reconnect.ReasonIntentional, Source: reconnect.SourceHost, Detail: "this client is of no more use"})
			c.conn.seen |= ofNoUse
			c.abort()
		}
	}
}

func stepDown(c *Core, e Evidence) {
	s := e.(StepDown)
	if !s.Why.Yielded {
		c.end(s.Cause)
		return
	}
	c.stepDown(reconnect.Cause{Reason: reconnect.ReasonHandedOver, Source: reconnect.SourceHost, Err: s.Why.Err})
}

// stepDown ends a connection because this instance hands over, or its client is
// of no more use. An attempt that is cut short for it says nothing about the
// outage, whose reason stays for whoever comes next.
func (c *Core) stepDown(cause reconnect.Cause) {
	if c.conn.phase&(live&^Up) == 0 {
		c.end(cause)
		return
	}
	c.endNow(cause, func() reconnect.Decision {
		st := c.machine.State()
		return reconnect.Decision{Status: st.Status, Reason: cause.Reason, RetryCount: st.RetryCount, Action: reconnect.ActionNone, Detail: cause.Detail}
	})
}

func replaceLive(c *Core, e Evidence) {
	c.end(e.(Replace).Cause)
	c.displace()
}

func replaceDown(c *Core, e Evidence) { c.displace() }

// displace says that a newer client takes the place of one that is in use.
func (c *Core) displace() {
	if c.client.phase == Attached {
		c.clientTo(Replaced)
		c.planTo(NoPlan)
	}
}

func retire(c *Core, e Evidence) { c.retireClient() }

func retireDown(c *Core, e Evidence) {
	c.tell()
	c.to(Over)
	if c.client.phase == Replaced {
		c.followReplaced()
	}
	c.retireClient()
}

// givenUpDown is for a client that is given up because its connection cannot be
// brought to its very end. The steps behind that end are decided first: the
// next client must find them.
func givenUpDown(c *Core, e Evidence) {
	c.over()
	givenUp(c, e)
}

func givenUp(c *Core, e Evidence) {
	c.retireClient()
	if !e.(GivenUp).Shut || c.device&present == 0 {
		return
	}
	if c.linked() {
		c.dropDevice(Shut)
	} else {
		c.dropDevice(Spoilt)
	}
}
