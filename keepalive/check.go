package keepalive

import (
	"fmt"
	"time"
)

type monitor struct {
	p    Policy
	last Verdict
}

// New returns a Monitor. p should have passed Validate.
func New(p Policy) Monitor { return &monitor{p: p.Defaults()} }

func (m *monitor) Check(o Observation, now time.Time) Verdict {
	v := judge(m.p, clamp(o, now), now)
	same := v.Health == m.last.Health
	switch {
	case v.Since.IsZero() && same: // ok has no start of its own
		v.Since = m.last.Since
	case v.Since.IsZero():
		v.Since = now
	case same && v.Health == Degraded && m.last.Since.Before(v.Since):
		// The failures that it began with have left their window.
		v.Since = m.last.Since
	}
	if v.Since.After(now) {
		v.Since = now
	}
	m.last = v
	return v
}

func (m *monitor) Clone() Monitor {
	c := *m
	return &c
}

// clamp moves instants in the future to now: a clock was stepped.
func clamp(o Observation, now time.Time) Observation {
	for _, t := range []*time.Time{
		&o.ConnectedAt, &o.DisconnectedAt, &o.LastReadAt, &o.LastEventAt, &o.LastMessageAt,
		&o.LastProbeAt, &o.ProbeSentAt, &o.HandlerSince, &o.WaitingSince, &o.DecryptSince, &o.MuteSince,
	} {
		if t.After(now) {
			*t = now
		}
	}
	return o
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// judge is the whole decision. It has no memory.
func judge(p Policy, o Observation, now time.Time) Verdict {
	if !o.Connected {
		v := Verdict{Health: Down, Since: o.DisconnectedAt, Text: "There is no connection."}
		if o.DownBecause != "" {
			v.Text = "There is no connection: " + o.DownBecause + "."
		}
		return v
	}
	active := latest(o.ConnectedAt, o.LastReadAt, o.LastEventAt, o.LastMessageAt, o.LastProbeAt)
	event := latest(o.ConnectedAt, o.LastEventAt, o.LastMessageAt)
	silence := now.Sub(active)

	v := Verdict{Health: OK, Text: "Connected, and the server answers."}
	switch {
	case o.ProbesFailed >= p.MaxFailures:
		v = Verdict{Health: Stale, Since: active, Reconnect: true,
			Text: fmt.Sprintf("The socket is open but dead: %d pings in a row were not answered.", o.ProbesFailed)}
	case silence >= p.StaleAfter:
		v = Verdict{Health: Stale, Since: active, Reconnect: true,
			Text: "The socket is open but dead: nothing came from the server for " + Span(silence) + "."}
	case !o.HandlerSince.IsZero() && now.Sub(o.HandlerSince) >= p.HandlerAfter:
		v = Verdict{Health: Degraded, Since: o.HandlerSince,
			Text: "The link is alive, but an event handler of this program has been running for " + Span(now.Sub(o.HandlerSince)) + "; what comes after it waits."}
	case !o.WaitingSince.IsZero() && now.Sub(o.WaitingSince) >= p.BacklogAfter:
		v = Verdict{Health: Degraded, Since: o.WaitingSince, Text: "The link is alive and the event handlers get on, but they are slow. " + backlog(o, now)}
	case o.DecryptFailures >= p.DecryptLimit:
		v = Verdict{Health: Degraded, Since: o.DecryptSince,
			Text: fmt.Sprintf("The link is alive, but %d messages within %s could not be decrypted.", o.DecryptFailures, Span(p.DecryptWindow))}
	case !o.MuteSince.IsZero():
		v = Verdict{Health: Mute, Since: o.MuteSince, Text: "The link is alive, but what is sent does not go through. " + o.MuteText}
	case now.Sub(event) >= p.QuietAfter:
		v = Verdict{Health: Quiet, Since: event,
			Text: "Connected; nothing happened for " + Span(now.Sub(event)) + ", and the server answers."}
	}
	if v.Reconnect {
		return v
	}
	if wait := now.Sub(o.WaitingSince); v.Health == OK && !o.WaitingSince.IsZero() && wait >= p.HandlerAfter/4 {
		v.Text += " " + backlog(o, now)
	}
	asked := latest(active, o.ProbeSentAt)
	v.Probe = now.Sub(asked) >= p.ProbeAfter
	v.CheckAt = soonest(now,
		active.Add(p.StaleAfter), event.Add(p.QuietAfter), asked.Add(p.ProbeAfter),
		o.HandlerSince.Add(p.HandlerAfter), o.WaitingSince.Add(p.BacklogAfter))
	return v
}

// backlog says in a sentence what waits for a handler, for how long, and how
// fast it gets less.
func backlog(o Observation, now time.Time) string {
	wait := Span(now.Sub(o.WaitingSince))
	if o.Waiting == 0 {
		return "Received messages, receipts and notices wait to be handled, for " + wait + "."
	}
	text := fmt.Sprintf("%d received messages, receipts and notices wait to be handled, the oldest for %s", o.Waiting, wait)
	switch {
	case o.PerSecond >= 9.5:
		text += fmt.Sprintf("; about %.0f a second are handled", o.PerSecond)
	case o.PerSecond > 0:
		text += fmt.Sprintf("; about %.1f a second are handled", o.PerSecond)
	}
	return text + "."
}

// soonest is the first of the instants that still lies ahead; one of them
// always does, because what is not stale will be.
func soonest(now time.Time, times ...time.Time) (first time.Time) {
	for _, t := range times {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
