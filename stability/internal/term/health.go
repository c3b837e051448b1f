package term

import (
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// vital is how alive the connection is. The verdict is the account's, also
// while there is no connection; the rest is about the newest connection.
type vital struct {
	monitor  keepalive.Monitor
	verdict  keepalive.Verdict // the last one; without a value before the first
	pinging  bool
	pingedAt time.Time // a ping of ours was sent
	answered time.Time // one was answered
	failed   int       // pings in a row without an answer
}

// begin forgets the pings of the connection before.
func (v *vital) begin() { *v = vital{monitor: v.monitor, verdict: v.verdict} }

// observed is what is seen, with what the core knows by itself.
func (c *Core) observed(o keepalive.Observation, up bool) keepalive.Observation {
	st := c.machine.State()
	if !c.Ready(up) {
		return keepalive.Observation{DisconnectedAt: st.DisconnectedSince, DownBecause: string(st.LastDisconnectReason)}
	}
	o.Connected, o.ConnectedAt, o.DisconnectedAt, o.DownBecause = true, st.ConnectedAt, time.Time{}, ""
	o.LastProbeAt, o.ProbeSentAt, o.ProbesFailed = c.vital.answered, c.vital.pingedAt, c.vital.failed
	return o
}

func see(c *Core, e Evidence) {
	s, v, was := e.(Seen), &c.vital, c.vital.verdict.Health
	v.verdict = v.monitor.Check(c.observed(s.Of, s.Up), c.now)
	if is := v.verdict; is.Health != was && was != "" {
		c.do(TellHealth{was, is})
	}
	switch k := &c.conn; {
	case !c.Ready(s.Up):
	case v.verdict.Reconnect:
		c.end(reconnect.Cause{Reason: reconnect.ReasonConnectionLost, Source: reconnect.SourceRaw, Detail: v.verdict.Text})
	case v.verdict.Probe && !v.pinging:
		v.pinging, v.pingedAt = true, c.now
		c.do(Ping{k.number})
	}
}

func pinged(c *Core, e Evidence) {
	p, v := e.(Pinged), &c.vital
	v.pinging = false
	switch {
	case p.Answered:
		v.answered, v.failed = c.now, 0
	case p.Failed:
		v.failed++
	}
}

func pingsFailed(c *Core, e Evidence) {
	switch p, v := e.(PingsFailed), &c.vital; {
	case p.InARow == 0:
		v.failed = 0
	case !p.Answered.Before(c.conn.started): // else they are of an earlier connection
		v.failed = max(v.failed, p.InARow)
	}
}

// Verdict is the newest one about the account's connection. Its CheckAt is when
// to look again, if nothing happens before.
func (c *Core) Verdict() keepalive.Verdict { return c.vital.verdict }

// Health is how the connection is at this moment, by what is seen of it, and
// all that is known about that. It changes nothing.
func (c *Core) Health(o keepalive.Observation, now time.Time, s Sight) (keepalive.Verdict, keepalive.Observation) {
	c = c.with(s, now)
	o = c.observed(o, s.Up)
	v := c.vital.verdict
	if v.Health == "" || (v.Health == keepalive.Down) == o.Connected {
		// The loop has not looked yet at what has just changed.
		v = c.vital.monitor.Clone().Check(o, now)
	}
	return v, o
}

// Facts adds what the guard is to know of this term. False while it ends: the end
// of a connection by a hand-over is neither trouble nor its cure, and the next
// holder judges.
func (c *Core) Facts(f *guard.Facts, now time.Time, s Sight) bool {
	if c.Ending() {
		return false
	}
	v := c.View(now, s)
	st := v.State
	f.Holder = true
	f.Connected = v.Ready
	f.NeedsPairing = v.Status == reconnect.StatusNeedsPairing
	f.DisconnectedSince = st.DisconnectedSince
	f.Reason, f.Code, f.Detail = string(st.LastDisconnectReason), st.LastDisconnectCode, st.LastDisconnectDetail
	text := st.LastDisconnectReason.Text()
	f.Means, f.Do = text.Means, text.DoIfItLasts()
	f.RetryCount, f.NextRetryAt, f.NotBefore = st.RetryCount, st.NextRetryAt, st.NotBefore
	switch {
	case !f.NextRetryAt.IsZero():
	case v.Calling: // it is under way
		f.NextRetryAt = now
	default:
		f.NextRetryAt = v.Planned
	}
	f.Replacements = st.Replacements
	f.Loop, f.BudgetExhausted = v.Looping, v.Unbroken
	f.Heal = guard.HealExit
	if c.cfg.HealInProcess {
		f.Heal = guard.HealTerm
	}
	if d := c.vital.verdict; f.Connected && d.Health == keepalive.Degraded {
		f.DegradedSince, f.DegradedText = d.Since, d.Text
	}
	return true
}
