package keepalive

import (
	"fmt"
	"time"
)

// Health is the one value that says how a connection is.
type Health string

// The health values, worst first.
const (
	Down     Health = "down"
	Stale    Health = "stale"
	Degraded Health = "degraded"
	Mute     Health = "mute"
	Quiet    Health = "quiet"
	OK       Health = "ok"
)

// Observation is what the owner of a connection knows. Zero times mean never.
type Observation struct {
	Connected      bool
	ConnectedAt    time.Time // start of the present connection
	DisconnectedAt time.Time // start of the present outage
	DownBecause    string    // plain text; why there is no connection

	LastReadAt    time.Time // bytes from the server, whatever they meant
	LastEventAt   time.Time // a whatsmeow event
	LastMessageAt time.Time
	LastProbeAt   time.Time // a ping was answered
	ProbeSentAt   time.Time // a ping that Verdict.Probe asked for was sent
	ProbesFailed  int       // unanswered pings in a row

	HandlerSince time.Time // start of the oldest handler that is still running

	Waiting      int       // what was received and is not with a handler yet; 0 when nobody counts it
	WaitingSince time.Time // when the oldest of it was received
	PerSecond    float64   // how much of it was handled a second, lately; 0 when not known

	DecryptFailures int       // messages that could not be decrypted, within Policy.DecryptWindow
	DecryptSince    time.Time // the first of them

	// MuteSince is when the row of sends began that were refused or not answered
	// and that are too many: Policy.MuteAfter of them to Policy.MuteRecipients.
	MuteSince time.Time
	MuteText  string // plain sentences: which they were, and what to do
}

// Verdict is what an Observation means.
type Verdict struct {
	Health Health
	Since  time.Time // since when
	Text   string    // one plain sentence for operators

	Reconnect bool // the socket is dead: end it and connect again
	Probe     bool // send a ping now: its answer removes a doubt
	// CheckAt is when the verdict can next change although nothing happens.
	// Zero: never.
	CheckAt time.Time
}

// Monitor judges observations of one account, in order of time. Not safe for
// concurrent use.
type Monitor interface {
	Check(o Observation, now time.Time) Verdict
	// Clone returns a Monitor that goes on from the same verdict.
	Clone() Monitor
}

// Policy holds the thresholds. A zero field means its default.
type Policy struct {
	StaleAfter    time.Duration // no activity at all. 5 min
	MaxFailures   int           // unanswered pings in a row. 2
	ProbeAfter    time.Duration // silence that makes a probe worth it. 45 s
	QuietAfter    time.Duration // no event. 5 min
	HandlerAfter  time.Duration // one handler running. 2 min
	BacklogAfter  time.Duration // the wait for a handler, while they get on. 10 min
	DecryptLimit  int           // failures within DecryptWindow. 10
	DecryptWindow time.Duration // for who fills DecryptFailures. 5 min

	MuteAfter      int           // sends refused or unanswered in a row, for who fills MuteSince. 5
	MuteRecipients int           // different recipients among them. 3
	AnswerAfter    time.Duration // how long the answer to a send may take. 60 s
}

// Defaults returns p with every zero field replaced by its default.
func (p Policy) Defaults() Policy {
	for field, value := range map[*time.Duration]time.Duration{
		&p.StaleAfter: 5 * time.Minute, &p.ProbeAfter: 45 * time.Second, &p.QuietAfter: 5 * time.Minute,
		&p.HandlerAfter: 2 * time.Minute, &p.BacklogAfter: 10 * time.Minute, &p.DecryptWindow: 5 * time.Minute,
		&p.AnswerAfter: time.Minute,
	} {
		if *field == 0 {
			*field = value
		}
	}
	if p.MaxFailures == 0 {
		p.MaxFailures = 2
	}
	if p.DecryptLimit == 0 {
		p.DecryptLimit = 10
	}
	if p.MuteAfter == 0 {
		p.MuteAfter = 5
	}
	if p.MuteRecipients == 0 {
		p.MuteRecipients = 3
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
		{"StaleAfter", int64(p.StaleAfter)}, {"MaxFailures", int64(p.MaxFailures)}, {"ProbeAfter", int64(p.ProbeAfter)},
		{"QuietAfter", int64(p.QuietAfter)}, {"HandlerAfter", int64(p.HandlerAfter)}, {"BacklogAfter", int64(p.BacklogAfter)},
		{"DecryptLimit", int64(p.DecryptLimit)}, {"DecryptWindow", int64(p.DecryptWindow)},
		{"MuteAfter", int64(p.MuteAfter)}, {"MuteRecipients", int64(p.MuteRecipients)}, {"AnswerAfter", int64(p.AnswerAfter)},
	} {
		if f.value < 0 {
			return fmt.Errorf("keepalive: Policy.%s is negative: it must be positive, or zero for its default", f.name)
		}
	}
	if p.ProbeAfter >= p.StaleAfter {
		return fmt.Errorf("keepalive: Policy.ProbeAfter (%v) must be shorter than Policy.StaleAfter (%v): a silent link is asked before it is given up", p.ProbeAfter, p.StaleAfter)
	}
	if p.MuteRecipients > p.MuteAfter {
		return fmt.Errorf("keepalive: Policy.MuteRecipients (%d) must not be more than Policy.MuteAfter (%[2]d): %[2]d sends cannot go to %[1]d recipients", p.MuteRecipients, p.MuteAfter)
	}
	return nil
}
