package term

import (
	"time"

	"github.com/wastability/wastability/reconnect"
)

// duty is something that falls due. The first that is due is done at a tick.
// Known facts are acted upon first; the state is written down before anything
// is begun that it should know of.
type duty struct {
	term Phase
	what string
	at   func(*Core) (time.Time, bool) // when; false: not at all
	do   func(*Core)
}

var duties = []duty{
	{Leaving | Dropped, "tear the term down", always, tearDown},
	{Breaking, "record the restart that breaks a loop", always, record},
	{Working, "bring an ended connection to its very end", inPhase(Ended), cleanUp},
	{Working, "end a connection on which the next step did not happen in time", deadline, expire},
	{Working, "show the next code, or give up showing them", codeOver, nextCode},
	{Working, "forget a trouble behind a connection that has proved stable", stableAt, settle},
	{Working, "write the state down", saveDue, saveState},
	{Working, "give the lock up to an instance that may be fit", yieldDue, yield},
	{Working, "record the attempt that is due", recordDue, recordAttempt},
	{Working, "make the attempt", attemptDue, connect},
}

// tick does the first thing that is due.
func (c *Core) tick(t Tick) {
	c.held, c.up = t.Held, t.Up
	for i := range c.duties {
		d := &c.duties[i]
		if d.term&c.phase == 0 {
			continue
		}
		if at, ok := d.at(c); ok && !c.now.Before(at) {
			d.do(c)
			return
		}
	}
}

// Next is when to tick again, if nothing happens before; zero when there is
// nothing to wait for. Something is due already at times that are not in the
// future.
func (c *Core) Next(now time.Time) (next time.Time) {
	c.now = now
	for i := range c.duties {
		d := &c.duties[i]
		if d.term&c.phase == 0 {
			continue
		}
		at, ok := d.at(c)
		if ok && at.Before(now) {
			at = now
		}
		if ok && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func always(c *Core) (time.Time, bool) { return c.now, true }

func inPhase(p Conn) func(*Core) (time.Time, bool) {
	return func(c *Core) (time.Time, bool) { return c.now, c.conn.phase&p != 0 }
}

func tearDown(c *Core) { c.do(TearDown{Why: c.why, Graceful: c.graceful}) }

func cleanUp(c *Core) { c.do(CleanUp{Conn: c.conn.number, Auto: c.client.auto}) }

func deadline(c *Core) (time.Time, bool) {
	return c.conn.deadline, c.conn.phase&live != 0 && !c.conn.deadline.IsZero()
}

func expire(c *Core) {
	k := &c.conn
	if c.device == Deleted {
		c.end(reconnect.Cause{Reason: reconnect.ReasonLoggedOut, Source: reconnect.SourceHost, Detail: "the host deleted the device"})
		return
	}
	if c.believe(c.up); k.phase == Up {
		k.deadline = time.Time{}
		return
	}
	c.end(reconnect.Cause{
		Reason: reconnect.ReasonTimedOut, Source: reconnect.SourceRaw,
		Detail: "the server accepted the connection, but the login did not finish in time",
	})
}

func codeOver(c *Core) (time.Time, bool) { return c.conn.until, c.conn.phase&pairing != 0 }

// stableAt is when the end of a connection begins a new series, when that
// changes something: a status must not show the retries of a trouble that is
// over, nor a crash bring them back.
func stableAt(c *Core) (time.Time, bool) {
	if c.conn.phase != Up || c.conn.stable.IsZero() {
		return time.Time{}, false
	}
	st := c.machine.State()
	if st.RetryCount == 0 && st.Failures == 0 && st.RestartStreak == 0 && st.BadSessionStreak == 0 && st.FirstDisconnectReason == reconnect.ReasonNone {
		return time.Time{}, false
	}
	return c.conn.stable, true
}

func settle(c *Core) {
	c.conn.stable = time.Time{}
	c.machine.Settle(c.now)
	c.changed()
}

func saveDue(c *Core) (time.Time, bool) { return c.saveAt, c.save == Unsaved }

func saveState(c *Core) {
	c.saveTo(Saving)
	c.do(SaveState{c.state()})
}

// recordDue is when an attempt is written into the state, which is saved
// before it begins: one that nobody remembers would reset the clocks that a
// restart must not reset.
func recordDue(c *Core) (time.Time, bool) {
	return c.attemptAt(), c.client.plan&(Planned|Unasked) != 0 && c.client.can && c.conn.phase&between != 0 && c.save == Saved
}

func recordAttempt(c *Core) {
	c.machine.Attempt(c.now)
	c.kept = time.Time{}
	c.planTo(Recorded)
	c.changed()
}

func attemptDue(c *Core) (time.Time, bool) {
	return c.attemptAt(), c.client.plan == Recorded && c.client.can && c.conn.phase&between != 0 && c.save == Saved
}

// plannedAt is when the planned attempt is due: not inside a ban, whoever
// planned it.
func (c *Core) plannedAt() time.Time {
	if until, ok := c.machine.Allowed(c.now); !ok && c.client.at.Before(until) {
		return until
	}
	return c.client.at
}

// attemptAt is when the planned attempt may begin. In a term that is paused,
// not lost, a renewal will tell.
func (c *Core) attemptAt() time.Time {
	at := c.plannedAt()
	if soon := c.now.Add(c.cfg.PausePoll); !c.held && at.Before(soon) {
		return soon
	}
	return at
}

func connect(c *Core) {
	a := &c.client
	c.planTo(NoPlan)
	a.tries++
	c.begin(Opening, Running)
	c.do(Announce{What: NewsConnecting, Attempt: a.tries})
	f := Connect{Conn: c.conn.number}
	if !c.unfitAt.IsZero() && c.yielding() {
		if f.Until = c.now.Add(leastTry); f.Until.Before(c.yieldBy()) {
			f.Until = c.yieldBy()
		}
	}
	c.do(f)
}
