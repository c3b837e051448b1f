package term

import (
	"log/slog"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
)

// The rules for the term itself: it ends, its state is saved, a loop is
// broken.

func stop(c *Core, e Evidence) { c.leave(Leaving, e.(Stop).Why) }

// leave begins the end of the term. Any wait of the loop is cut short. No attempt is
// planned any more, but one that is recorded counts.
func (c *Core) leave(p Phase, why Why) {
	c.phase, c.why, c.graceful = p, why, p == Leaving
	if c.client.plan != Recorded {
		c.planTo(NoPlan)
	}
	c.do(TermEnds{})
	c.do(CancelSave{})
	c.abort()
	if k := &c.conn; k.call == Running && k.phase&^Over != 0 {
		c.do(CancelCall{k.number})
	}
}

func cutTerm(c *Core, e Evidence) {
	s := e.(CutTerm)
	c.endLive(s.Cause)
	c.leave(Dropped, s.Why)
}

func cutTermLate(c *Core, e Evidence) { c.endLive(e.(CutTerm).Cause) }

// endLive ends the connection, unless everything behind its end was decided.
func (c *Core) endLive(cause reconnect.Cause) {
	if c.conn.phase&(live|Ended|Drained) != 0 {
		c.end(cause)
	}
}

func tornDown(c *Core, e Evidence) { c.phase = Finished }

func proveStore(c *Core, e Evidence) { c.changed() }

func saveDone(c *Core, e Evidence) {
	if c.save&(Saving|Stale) == 0 {
		return
	}
	stale := c.save == Stale
	if e.(SaveDone).Err == nil {
		c.pause = min(c.policy.InitialDelay, c.policy.StoreRetry)
		c.saveAt = time.Time{}
		if stale {
			c.saveTo(Unsaved)
		} else {
			c.saveTo(Saved)
		}
		return
	}
	c.saveTo(Unsaved)
	c.saveAt = c.now.Add(c.pause)
	c.pause = min(2*c.pause, c.policy.StoreRetry)
}

// state is the machine's, with the pause that a spent budget asks for, and with
// what an earlier term has planned: the machine plans nothing for an account that
// needs pairing.
func (c *Core) state() reconnect.State {
	st := c.machine.State()
	if st.Status == reconnect.StatusNeedsPairing && st.NextRetryAt.IsZero() {
		st.NextRetryAt = c.kept
	}
	if !st.NextRetryAt.IsZero() && st.NextRetryAt.Before(c.slow) {
		st.NextRetryAt = c.slow.Round(0).UTC()
	}
	return st
}

// Breaking a loop, in this order: the restart is recorded and the window
// emptied in one save, people are told, the term ends. Without the record
// nothing is broken.

// judgeLoop asks, after an attempt failed, whether to give this process up.
func (c *Core) judgeLoop(counted bool) {
	if c.phase&(Breaking|Broken|Yielding) != 0 {
		return // the verdict that decided stays
	}
	c.verdict = c.askHealer(counted)
	if c.verdict.Action == autoheal.Heal && c.phase == Working {
		c.phase = Breaking
	}
}

func (c *Core) askHealer(counted bool) autoheal.Verdict {
	st := c.machine.State()
	return c.cfg.Healer.Check(autoheal.Input{
		Excluded: !counted || !c.linked(),
		Attempts: st.Attempts, Failures: st.Failures, Restarts: st.Restarts,
	}, c.now)
}

// slowed makes a decision as slow as a spent budget of restarts asks for,
// before anybody hears of it: what is told, shown and saved is what is done.
func (c *Core) slowed(d reconnect.Decision) reconnect.Decision {
	c.slow = time.Time{}
	if !d.ShouldReconnect {
		return d
	}
	v := c.askHealer(d.Counted)
	if at := c.now.Add(v.Floor); v.Action == autoheal.Exhausted && d.NextRetryAt.Before(at) {
		d.Action, d.Delay, d.NextRetryAt = reconnect.ActionSlowRetry, v.Floor, at
		c.slow = at
	}
	return d
}

func record(c *Core) {
	healed := c.machine.Clone()
	healed.Healed(c.now)
	c.healYields(healed)
	was := c.machine
	c.machine = healed
	st := c.state()
	c.machine = was
	if st.LastDisconnectReason != reconnect.ReasonServiceUnavailable {
		st.NextRetryAt = time.Time{} // whoever comes next tries soon: that is what the heal is for
	}
	if c.save&(Saving|Stale) == 0 {
		c.saveTo(Saving) // this save is the one
	}
	c.do(RecordRestart{State: st, At: c.now})
}

func restartRecorded(c *Core, e Evidence) {
	r := e.(RestartRecorded)
	if r.Err != nil {
		c.log(slog.LevelError, "there is a reconnect loop, but the restart was not recorded; the process goes on", "error", r.Err)
		c.saveTo(Unsaved)
		c.phase = Working
		return
	}
	c.restarted(r)
	c.phase = Broken
	c.do(TellLoop{})
}

// restartLate is for a term that ends already, for another reason.
func restartLate(c *Core, e Evidence) {
	r := e.(RestartRecorded)
	if c.save&(Saving|Stale) == 0 {
		return
	}
	if r.Err != nil {
		c.saveTo(Unsaved)
		return
	}
	c.restarted(r)
}

func (c *Core) restarted(r RestartRecorded) {
	v := c.verdict
	c.log(slog.LevelError, "breaking a reconnect loop", "attempts", v.InWindow, "restarts", v.Spent, "text", v.Text)
	if c.save == Stale {
		c.saveTo(Unsaved)
	} else {
		c.saveTo(Saved)
	}
	c.machine.Healed(r.At)
	c.healYields(c.machine)
	c.do(Announce{What: NewsHealing, Detail: v.Text})
}

func loopTold(c *Core, e Evidence) {
	c.leave(Leaving, Why{Healing: true, Yielded: true})
}
