package adminhttp_test

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// unclaimed are the situations of which no claim is checked, and why.
var unclaimed = map[string]string{
	"stale": "the connection is cut in the same moment: nobody can look",
}

// sinceOf is when each situation began.
var sinceOf = map[string]func(*truth) time.Time{
	"released":          func(x *truth) time.Time { return x.at(&x.released) },
	"connected":         func(x *truth) time.Time { return x.phone().LastLogin() },
	"quiet":             func(x *truth) time.Time { return x.phone().LastLogin() },
	"connecting":        (*truth).began,
	"retrying":          (*truth).began,
	"retrying 2":        (*truth).began,
	"slow":              (*truth).began,
	"slow 2":            (*truth).began,
	"temporary_ban":     (*truth).began,
	"stopped":           (*truth).began,
	"phone_code":        (*truth).began,
	"passkey":           (*truth).began,
	"code":              (*truth).began,
	"code_coming":       (*truth).began,
	"no_plan":           (*truth).began,
	"messages_wait":     func(x *truth) time.Time { return x.at(&x.blocked) },
	"waits_for_request": (*truth).began,
}

// began is when the account was last connected, or looked after first.
func (x *truth) began() time.Time {
	switch d := x.phone(); {
	case d == nil || d.LastLogin().IsZero():
		return x.at(&x.granted)
	case d.LastEnd().IsZero(): // of a dead link the service hears nothing
		return x.at(&x.cut)
	default:
		return d.LastEnd()
	}
}

// away reports whether the account has no connection that works. Of the end of a
// dead link the service hears nothing.
func (x *truth) away() bool { return !x.online() || x.phone().LastEnd().IsZero() }

// writes lets somebody write to the account.
func (p *place) writes() (id string) {
	c, err := p.sim.NewContact(p.t.Context(), "491520000077")
	require.NoError(p.t, err)
	id, err = c.Send(p.t.Context(), p.account.JID(), "are you there?")
	require.NoError(p.t, err)
	return id
}

// nothing: for so long nothing is dialed and no code is shown.
func nothing(d time.Duration) func(*truth, []string) {
	return func(x *truth, _ []string) {
		for len(x.codes) > 0 {
			<-x.codes
		}
		from := time.Now()
		time.Sleep(d)
		x.is(len(x.since(from)) == 0 && len(x.codes) == 0)
	}
}

// tries: the next attempt is made at a moment, and none before.
func (x *truth) tries(at time.Time, give time.Duration) {
	x.until(at.Add(give + 100*time.Millisecond))
	dials := x.since(x.st.At)
	x.is(len(dials) > 0)
	x.same(at, dials[0], give)
}

// trouble is the last attempt, or the last end of a connection, before the look.
func (x *truth) trouble() time.Time {
	at := x.began()
	for _, dial := range x.since(at) {
		if dial.Before(x.st.At) {
			at = dial
		}
	}
	return at
}

// grow: attempts that fail come with pauses that grow, the first of at least so long.
func grow(least time.Duration) func(*truth, []string) {
	return func(x *truth, _ []string) {
		x.sim.Fault(wasim.Refused()).Always().Now()
		x.becomes(time.Hour, func() bool { return len(x.since(x.st.At)) >= 4 })
		dials := x.since(x.st.At)
		for i := 2; i < 4; i++ {
			before, pause := dials[i-1].Sub(dials[i-2]), dials[i].Sub(dials[i-1])
			x.is(pause > before || before >= x.st.Settings.MaxDelay)
		}
		x.is(dials[0].Sub(x.trouble()) >= least)
	}
}

// rare: attempts that fail come this far apart.
func rare(x *truth, _ []string) {
	x.becomes(3*time.Hour, func() bool { return len(x.since(x.st.At)) >= 1 })
	x.is(x.since(x.st.At)[0].Sub(x.trouble()) >= 10*time.Minute-time.Second)
}

// asksBackend: the backend is called every few seconds while it does not answer.
func asksBackend(x *truth, _ []string) {
	n := x.calls.Load()
	time.Sleep(20 * time.Second)
	x.is(x.calls.Load() >= n+2)
}

// receives: what somebody writes is taken by the program, on this connection.
func receives(x *truth, _ []string) {
	id := x.writes()
	x.becomes(10*time.Second, func() bool { return slices.Contains(x.phone().AckedMessages(), id) })
	x.is(x.phone().Stats().Logins == x.logins)
}

func kept(x *truth, _ []string) {
	time.Sleep(10 * time.Second)
	x.is(x.online() && x.phone().Stats().Logins == x.logins)
}

func (x *truth) incident() bool {
	list, err := x.memory.Backend().Incidents.List(context.Background())
	require.NoError(x.t, err)
	return slices.ContainsFunc(list, func(i guard.Incident) bool { return i.Active })
}

func (x *truth) cause(reason string) {
	c := caused[x.name]
	x.is(len(c) > 0 && string(c[0]) == reason)
}

// takes: this instance is connected soon.
func (x *truth) takes(d time.Duration) {
	x.becomes(d, func() bool { return x.lock().Holder == x.st.InstanceID && x.online() })
}

// meanings are the sentences in which reasons say what they mean. Each must
// be said of its own reason only.
func meanings() (out []claim) {
	of := map[string][]reconnect.Reason{}
	for _, r := range reconnect.Reasons() {
		for _, s := range sentences(r.Text().Means) {
			of[s] = append(of[s], r)
		}
	}
	for s, reasons := range of {
		out = append(out, claim{says: regexp.QuoteMeta(s), now: func(x *truth, _ []string) {
			x.is(slices.ContainsFunc(caused[x.name], func(r reconnect.Reason) bool { return slices.Contains(reasons, r) }))
		}})
	}
	return out
}

const (
	span  = `([0-9hms.]+)`
	clk   = `(\d\d:\d\d:\d\d UTC on \d+ \w+ \d{4})`
	after = time.Second + 50*time.Millisecond // a text is exact to a second
)
