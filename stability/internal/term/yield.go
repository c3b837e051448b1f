package term

import (
	"log/slog"
	"time"

	"github.com/wastability/wastability/reconnect"
)

// Giving the lock up, because this instance cannot connect for a reason that
// may be its own. It is decided with each end: when it falls due, nothing is
// begun any more, people are told, and the term ends in good order.

// leastTry is how long an attempt is given that is under way when the lock is
// to be given up.
const leastTry = 10 * time.Second

// resumeUnfit takes up what the terms before this one have left.
func (c *Core) resumeUnfit(st reconnect.State, now time.Time) {
	c.began, c.yields = now, st.YieldsOf(c.cfg.Holder)
	last, _ := st.LastYield()
	again := c.cfg.Again && c.yields > 0 && last.To == ""
	if c.machine.Began(c.cfg.Holder, c.cfg.Again, now) {
		c.changed()
	}
	if !again || !c.yielding() {
		return
	}
	if st.Status == reconnect.StatusNeedsPairing {
		c.offer, c.kept = st.NextRetryAt, st.NextRetryAt
	}
	// There may be no attempt for long, by which this instance could show that
	// it is fit again.
	if last.Stopped || st.NextRetryAt.Sub(now) > 2*c.policy.MaxDelay {
		c.yieldAt, c.unfit = c.keepUntil(), last
	}
}

func (c *Core) yielding() bool { return c.policy.YieldAfter != reconnect.NoYield }

// keepUntil is how long this term keeps the lock at least.
func (c *Core) keepUntil() time.Time { return c.began.Add(c.policy.YieldPause(c.yields)) }

// yieldBy is when the lock is given up at the latest, if attempts go on failing.
func (c *Core) yieldBy() time.Time {
	at := c.unfitAt.Add(c.policy.YieldAfter)
	if keep := c.keepUntil(); at.Before(keep) {
		return keep
	}
	return at
}

// weighed is the decision about an end, when it was considered whether to give
// the lock up for it.
func (c *Core) weighed(cause reconnect.Cause) reconnect.Decision {
	d := c.slowed(c.machine.Disconnected(cause, c.now))
	c.yieldAt = time.Time{}
	cause = reconnect.Cause{Reason: d.Reason, Code: d.Code, Detail: d.Detail} // the best that is known of this end
	switch {
	case !c.yielding() || c.phase&(Working|Breaking|Broken) == 0: // a loop that is being broken may not be recorded
		return d
	case !cause.OfInstance():
		if cause.Reason.Class() != reconnect.ClassTransient || cause.Reason == reconnect.ReasonServiceUnavailable {
			c.unfitAt = time.Time{} // the service has answered
		}
		return d
	case c.conn.seen.has(wasUp):
		return d // an attempt will tell
	}
	if c.unfitAt.IsZero() {
		c.unfitAt = c.now
	}
	c.unfit = reconnect.Yield{Reason: cause.Reason, Code: cause.Code, Detail: cause.Detail}
	c.yieldAt = c.yieldBy()
	if d.Action == reconnect.ActionStop || d.Action == reconnect.ActionSlowRetry {
		c.yieldAt = c.keepUntil()
	}
	if !c.yieldAt.After(c.now) {
		d.Action, d.ShouldReconnect, d.Delay, d.NextRetryAt = reconnect.ActionStandby, false, 0, time.Time{}
	}
	return d
}

// fit forgets that this instance may be unfit.
func (c *Core) fit() { c.unfitAt, c.yieldAt = time.Time{}, time.Time{} }

func yieldDue(c *Core) (time.Time, bool) {
	return c.yieldAt, !c.yieldAt.IsZero() && c.conn.phase&between != 0 && c.save == Saved
}

func yield(c *Core) {
	cause := reconnect.Cause{Reason: c.unfit.Reason, Code: c.unfit.Code, Detail: c.unfit.Detail}
	c.machine.Yielded(c.cfg.Holder, cause, c.state().NextRetryAt.IsZero(), c.now)
	c.changed()
	c.phase = Yielding
	c.planTo(NoPlan)
	c.log(slog.LevelWarn, "giving the lock up: this instance may be the one that cannot connect", "reason", cause.Reason, "code", cause.Code, "detail", cause.Detail)
	c.do(TellLoop{})
}

func yieldTold(c *Core, e Evidence) { c.leave(Leaving, Why{Unfit: true, Yielded: true}) }

// overdue ends an attempt that has come to nothing when the lock is to be given up.
func overdue(c *Core, e Evidence) {
	k := &c.conn
	c.end(reconnect.Cause{Reason: reconnect.ReasonTimedOut, Source: reconnect.SourceHost, Detail: "the server did not answer in time"})
	if k.call == Running {
		c.do(CancelCall{k.number})
	}
}

// healYields records in a machine that a heal gives the lock up too. A process
// that ends is gone: only one that goes on could take it back.
func (c *Core) healYields(m *reconnect.Machine) {
	if k := &c.conn; c.cfg.HealInProcess && c.yielding() && k.cause.OfInstance() {
		m.Yielded(c.cfg.Holder, k.cause, false, c.now)
	}
}
