package term

import (
	"log/slog"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// The rules for the device, its attachment and pairing.

// PasskeyTime is how long a person has for a passkey. WhatsApp's own hand-over
// key lives as long.
const PasskeyTime = 5 * time.Minute

// How long codes to scan are shown: the first of six, and each of the others.
const (
	firstCode = time.Minute
	nextCodes = 20 * time.Second
)

func deviceRead(c *Core, e Evidence) {
	status := c.machine.State().Status
	if e.(DeviceRead).Paired {
		c.deviceTo(Paired)
		c.fulfilled()
		if status == reconnect.StatusNeedsPairing { // restored, or imported
			c.machine.Paired(c.now)
			c.changed()
		}
		return
	}
	c.deviceTo(Unpaired)
	if status != reconnect.StatusNeedsPairing {
		c.machine.NeedsPairing(reconnect.ReasonNone, c.now)
		c.changed()
		c.do(Announce{What: NewsNeedsPairing})
	}
}

// deviceMarked remembers a deletion.
func deviceMarked(c *Core, e Evidence) {
	if c.device == Paired { // another one is not in the store
		c.deviceTo(Deleted)
	}
}

// deviceDeletedLive gives a connection a moment. whatsmeow deletes at the end
// of a device's life, and its reason is on the way. Without one it was the
// host, and a connection that went on would receive what nobody can decrypt.
func deviceDeletedLive(c *Core, e Evidence) {
	if deviceMarked(c, e); c.device == Deleted {
		c.conn.deadline = c.now.Add(c.cfg.DeletedGrace)
	}
}

func deviceDeleted(c *Core, e Evidence) {
	if deviceMarked(c, e); c.device != Deleted {
		return
	}
	c.followDeletion()
	if c.client.auto {
		c.parkOrOffer(reconnect.ReasonLoggedOut, false)
	}
}

// followDeletion follows a deletion that no cause explains: somebody called
// the client's own Logout. It may come after the connection's end.
func (c *Core) followDeletion() {
	if c.device != Deleted {
		return
	}
	c.machine.NeedsPairing(reconnect.ReasonLoggedOut, c.now)
	c.fit() // that is so for everybody
	c.changed()
	c.dropDevice(Gone)
	c.retireClient()
	c.do(Announce{What: NewsNeedsPairing, Reason: reconnect.ReasonLoggedOut, Detail: "the host logged out"})
}

func deviceRestored(c *Core, e Evidence) {
	c.dropDevice(Unread)
	c.unpark()
	c.rounds = 0
	c.retireClient() // the device it offered to pair is over
}

// dropDevice lets the device go. The store is read again.
func (c *Core) dropDevice(p Device) {
	c.deviceTo(p)
	c.do(ForgetDevice{})
}

func phoneAccepted(c *Core, e Evidence) {
	k := &c.conn
	k.codes, k.code, k.until = nil, "", time.Time{}
	k.deadline = c.now.Add(c.cfg.ConnectTimeout)
	if k.phase != Opening && k.phase != Foreign {
		c.to(Accepted)
	}
	phoneAcceptedLate(c, e)
}

func phoneAcceptedLate(c *Core, e Evidence) {
	if c.device&present == 0 {
		return // of a device that is not used any more
	}
	if c.device == Unpaired {
		c.deviceTo(Paired)
	}
	c.rounds = 0
	c.fulfilled()
	c.machine.Paired(c.now)
	if k := &c.conn; k.phase&down != 0 { // the service asked for a new connection before whatsmeow told of the pairing
		k.decision.Status = c.machine.State().Status
	}
	c.changed()
	c.log(slog.LevelInfo, "paired")
	c.do(Announce{What: NewsPaired})
}

// Codes to scan.

func codes(c *Core, e Evidence) {
	s, k := e.(Codes), &c.conn
	if !s.Up || c.linked() || c.client.phase == Retired {
		return
	}
	c.to(Offering)
	k.deadline = time.Time{}
	k.codes, k.code, k.until = append([]string(nil), s.Codes...), "", c.now
	c.rounds++
}

// nextCode shows the next code. They are shown one after the other: the first
// of six lasts a minute, the others 20 s, as WhatsApp's own clients have it.
func nextCode(c *Core) {
	k := &c.conn
	switch {
	case k.phase == Passkey:
		c.end(reconnect.Cause{Reason: reconnect.ReasonPairingFailed, Source: reconnect.SourceHost, Detail: "the passkey that WhatsApp asked for was not given in time"})
		return
	case len(k.codes) == 0:
		c.end(reconnect.Cause{Reason: reconnect.ReasonQRExpired, Source: reconnect.SourceHost, Detail: "no code was scanned in time"})
		return
	}
	lasts := nextCodes
	if len(k.codes) == 6 {
		lasts = firstCode
	}
	k.code, k.codes, k.until = k.codes[0], k.codes[1:], c.now.Add(lasts)
	c.do(ShowCode{Code: k.code, Until: k.until})
	c.do(Announce{What: NewsCode})
}

// offerEnds is when the last of the codes to scan expires.
func (k *connection) offerEnds() time.Time {
	at, more := k.until, len(k.codes)
	if more == 6 {
		at, more = at.Add(firstCode), more-1
	}
	return at.Add(time.Duration(more) * nextCodes)
}

// phoneCode notes a code that is typed instead of scanned. The service forgets
// it with the connection, which ends when nothing is left to scan.
func phoneCode(c *Core, e Evidence) {
	if k := &c.conn; e.(PhoneCode).Conn == k.number {
		k.seen |= typed
	}
}

// passkeyAsked gives a pairing that asks for a passkey the time for it. The
// code was scanned, and the codes behind it are of no use any more: whatsmeow
// gave the device another secret. The host answers with its own client.
func passkeyAsked(c *Core, e Evidence) {
	k := &c.conn
	if !e.(PasskeyAsked).Up {
		return
	}
	if k.phase != Passkey {
		c.log(slog.LevelInfo, "the pairing asks for a passkey: the program must answer whatsmeow's PairPasskeyRequest")
	}
	c.to(Passkey)
	k.codes, k.code, k.until = nil, "", c.now.Add(PasskeyTime)
}

func passkeyFailed(c *Core, e Evidence) {
	if e.(PasskeyFailed).Up {
		c.end(reconnect.Cause{Reason: reconnect.ReasonPairingFailed, Source: reconnect.SourceEvent, Detail: "the passkey step failed"})
	}
}

func passkeyUnread(c *Core, e Evidence) {
	if e.(PasskeyFailed).Up {
		c.log(slog.LevelWarn, "a pairing asked for a passkey in a way that whatsmeow cannot read; the code can be scanned again")
	}
}

// The attachment.

func attach(c *Core, e Evidence) {
	a := e.(Attach)
	if c.client.phase&(Attached|Replaced) != 0 {
		c.retireClient()
	}
	c.clientTo(Attached)
	c.client = attachment{phase: Attached, number: a.Client, auto: a.Auto, tapped: a.Tapped, plan: NoPlan}
	c.conn = connection{phase: NoConn}
}

// ready plans the first attempt of a client of Run's. An account that was parked
// meanwhile waits until somebody asks.
func ready(c *Core, e Evidence) {
	c.client.can = true
	if c.cfg.OnRequest && c.wish != Asked && (c.Unpaired() || !c.linked()) {
		c.wish = Parked
	}
	if c.wish == Parked {
		return
	}
	switch first := c.machine.Resume(c.now); {
	case first.ShouldReconnect && c.crashed:
		c.planAt(first.NextRetryAt.Add(e.(Ready).Jitter))
	case first.ShouldReconnect:
		c.planAt(first.NextRetryAt)
	case c.now.Before(c.offer):
		c.planAt(c.offer)
	default: // a code may be offered
		c.planAt(c.now)
	}
	c.crashed = false
}

func schedule(c *Core, e Evidence) {
	a, k, at := &c.client, &c.conn, e.(Schedule).At
	if a.phase == NoClient || a.phase == Retired || a.auto || a.plan != NoPlan {
		return
	}
	if k.phase&down != 0 {
		if !k.decision.ShouldReconnect {
			c.log(slog.LevelInfo, "not reconnecting after all: a better reason became known", "reason", k.cause.Reason)
			return
		}
		if k.decision.NextRetryAt.After(at) {
			at = k.decision.NextRetryAt
		}
	}
	a.can = true
	c.do(UseConnect{})
	c.planAt(at)
}

// parkOrOffer decides what Run does after an end that is not followed by a
// reconnect: offer a code to scan, on this client or a new one, or wait until
// somebody asks.
//
// vain says that no code came of the attempt that ended. It counts like a set
// that nobody scanned, and the next one waits longer: a service that refuses
// us at once must not be asked in a circle.
func (c *Core) parkOrOffer(why reconnect.Reason, vain bool) {
	pause := c.policy.InitialDelay
	if vain {
		c.rounds++
		pause = min(pause<<min(c.rounds, 16), c.policy.MaxDelay)
	}
	switch {
	case c.phase&ending != 0:
		return
	case why.Action() != reconnect.ActionStop && (c.device == Gone || why.Action() == reconnect.ActionPair):
		if c.rounds < c.cfg.PairingRounds && (c.wish == Asked || !c.cfg.OnRequest) {
			c.offer = c.now.Add(pause)
			c.planAt(c.offer) // a new client asks for it when it is ready
			return
		}
		if c.rounds > 0 {
			c.log(slog.LevelWarn, "nobody scanned a code: call WaitQR, PairPhone or Reconnect to offer a new one")
		}
	default:
		c.log(slog.LevelWarn, "not connecting until somebody asks: call Reconnect when the cause is dealt with", "reason", why)
	}
	c.wish = Parked
}

// fulfilled says that what somebody asked for has come.
func (c *Core) fulfilled() {
	if c.wish == Asked {
		c.wish = Open
	}
}

// unpark lets the policy decide again.
func (c *Core) unpark() {
	if c.wish == Parked {
		c.wish = Open
	}
}

// ask notes that somebody wants the account to go on.
func ask(c *Core, e Evidence) {
	c.wish, c.rounds, c.offer, c.kept = Asked, 0, time.Time{}, time.Time{}
	if c.conn.phase == Up {
		c.wish = Open // there is nothing to ask for
	}
	switch a := &c.client; {
	case a.phase&(NoClient|Retired) != 0:
		c.yieldAt = time.Time{} // the next client tells
	case a.auto && a.phase == Attached && c.conn.phase&between != 0 && a.plan == NoPlan:
		at, _ := c.machine.Allowed(c.now)
		c.planAt(at)
		c.yieldAt = time.Time{} // that attempt tells
	}
}

func (c *Core) banned() bool {
	at, ok := c.machine.Allowed(c.now)
	if !ok {
		c.log(slog.LevelWarn, "not reconnecting: the account is banned for now", "until", at)
	}
	return !ok
}

func againNow(c *Core, e Evidence) {
	if e.(Again).Unasked {
		return // the connection that it was about is over, and the next one comes in its own time
	}
	ask(c, e)
	if a := &c.client; a.phase&(NoClient|Retired) == 0 && !c.banned() && a.can {
		c.planAt(c.now)
		c.yieldAt = time.Time{} // that attempt tells
	}
}

func againSoon(c *Core, e Evidence) {
	back := IfAllowed
	if !e.(Again).Unasked {
		ask(c, e)
		c.wish, back = Asked, AtOnce // for another connection
	}
	// By hand nobody may have said how to connect.
	if a := &c.client; a.phase&(NoClient|Retired) == 0 && !c.banned() && a.can {
		a.back = max(a.back, back)
		c.end(reconnect.Cause{Reason: e.(Again).Reason, Source: reconnect.SourceHost, Detail: e.(Again).Detail})
	}
}
