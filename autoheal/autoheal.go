package autoheal

import (
	"fmt"
	"time"
)

// StepTimeout bounds each step of a heal.
const StepTimeout = 5 * time.Second

// Action is what to do about a loop.
type Action string

// The actions.
const (
	None      Action = "none"      // there is no loop
	Heal      Action = "heal"      // give this process, or term, up
	Exhausted Action = "exhausted" // there is one, but the budget is spent: slow retries
)

// Input is what is known of the attempts. The instants may be in any order.
type Input struct {
	// Excluded says that a restart cannot help now: not paired, the host's
	// own wish, or a reason that does not count.
	Excluded bool
	Attempts []time.Time // counted attempts
	Failures int         // counted failures in a row
	Restarts []time.Time // restarts by this package
}

// Verdict is what an Input means.
type Verdict struct {
	Action Action
	Text   string // one plain sentence; empty for None
	// Floor is the least pause before the next attempt. Only for Exhausted.
	Floor time.Duration
	// BudgetAt is when a restart will be allowed again. Only for Exhausted.
	BudgetAt time.Time
	// InWindow and Spent are the counts that decided, for status and evidence.
	InWindow, Spent int
}

// Healer decides. Safe for concurrent use.
type Healer interface {
	Check(in Input, now time.Time) Verdict
}

// Policy holds the thresholds. A zero field means its default.
type Policy struct {
	Disabled bool // never heal, never slow down
	// InProcess begins a new term in this process instead of ending it: where nobody
	// restarts it. If the last failure may be this instance's own, the lock is
	// released in between, as at a restart, and a waiting instance may have it. If it
	// is the account's or the service's, the lock is kept.
	InProcess    bool
	Attempts     int           // within Window. 10
	Window       time.Duration // 10 min
	Failures     int           // in a row. 10
	Budget       int           // restarts within BudgetWindow. 3
	BudgetWindow time.Duration // 1 h
	SlowRetry    time.Duration // the pause between attempts once the budget is spent. 15 min
}

// Defaults returns p with every zero field replaced by its default.
func (p Policy) Defaults() Policy {
	for field, value := range map[*int]int{&p.Attempts: 10, &p.Failures: 10, &p.Budget: 3} {
		if *field == 0 {
			*field = value
		}
	}
	for field, value := range map[*time.Duration]time.Duration{
		&p.Window: 10 * time.Minute, &p.BudgetWindow: time.Hour, &p.SlowRetry: 15 * time.Minute,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return p
}

// Validate reports the first field that is not valid, by name.
func (p Policy) Validate() error {
	p = p.Defaults()
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Attempts", int64(p.Attempts)}, {"Window", int64(p.Window)}, {"Failures", int64(p.Failures)},
		{"Budget", int64(p.Budget)}, {"BudgetWindow", int64(p.BudgetWindow)}, {"SlowRetry", int64(p.SlowRetry)},
	} {
		if f.value < 0 {
			return fmt.Errorf("autoheal: Policy.%s is negative: it must be positive, or zero for its default", f.name)
		}
	}
	if p.BudgetWindow < p.Window {
		return fmt.Errorf("autoheal: Policy.BudgetWindow (%v) is shorter than Policy.Window (%v): the budget would never be spent", p.BudgetWindow, p.Window)
	}
	return nil
}

type healer struct{ p Policy }

// New returns a Healer. p should have passed Validate.
func New(p Policy) Healer { return healer{p.Defaults()} }

func (h healer) Check(in Input, now time.Time) Verdict {
	inWindow, _ := within(in.Attempts, now, h.p.Window)
	spent, frees := within(in.Restarts, now, h.p.BudgetWindow)
	v := Verdict{Action: None, InWindow: inWindow, Spent: spent}
	loop := inWindow >= h.p.Attempts || in.Failures >= h.p.Failures
	switch {
	case h.p.Disabled || in.Excluded || !loop:
		return v
	case spent >= h.p.Budget:
		v.Action = Exhausted
		v.Floor = h.p.SlowRetry
		v.BudgetAt = frees(spent - h.p.Budget)
		v.Text = fmt.Sprintf("Reconnecting goes on in a loop, and %d restarts within %v did not help: attempts are at least %v apart now.",
			spent, h.p.BudgetWindow, h.p.SlowRetry)
	default:
		v.Action = Heal
		v.Text = fmt.Sprintf("%d attempts within %v and %d failures in a row: this process gives up, so that a fresh one or a standby takes over.",
			inWindow, h.p.Window, in.Failures)
	}
	return v
}
