package guard

import (
	"fmt"
	"time"
)

// Facts is what is known at one moment. Zero times mean "not so".
type Facts struct {
	InstanceID string
	// Holder says that this instance holds the lock. Incidents about the
	// connection are the holder's: without the lock they are neither raised
	// nor resolved here.
	Holder bool

	Connected         bool
	NeedsPairing      bool
	DisconnectedSince time.Time
	Reason            string // of the last end, in one word; "" when there was none
	Code              int
	Detail            string // plain text, no phone numbers
	Means, Do         string // the reason in plain sentences: what it means, what a person should do when it has lasted
	RetryCount        int
	NextRetryAt       time.Time
	NotBefore         time.Time   // end of a temporary ban
	Replacements      []time.Time // when another copy of the session took over

	// Demands is how often in a row WhatsApp ended a connection with the demand
	// for a new one (515). A connection that lasted ends the row.
	Demands int

	Loop            bool // auto-heal is about to give up
	Heal            Heal // what it does then
	BudgetExhausted bool // auto-heal may not give up again

	// Unfit has one time for each holder that gave the lock up in the present
	// trouble because it could not connect: its last time. UnfitText says why,
	// without phone numbers.
	Unfit     []time.Time
	UnfitText string

	DegradedSince time.Time
	DegradedText  string

	SendsRefusedSince time.Time // too many sends in a row were refused, or not answered, since then
	SendsCode         int       // of the newest of them; 0 = not answered
	SendsFailed       int       // how many there are
	SendsMeans        string    // the code in plain sentences
	SendsDo           string
	SendsAcknowledged bool // the newest send that ended was acknowledged

	StoreDownSince time.Time
	StoreWatched   bool        // another instance held the lock when the backend fell silent: telling of it is that one's part
	Terms          []time.Time // when this instance gained the lock
	SameID         bool        // another process uses this instance's id
	DamagedAt      time.Time   // when a damaged row was found last; zero also when somebody has dealt with it
	DamagedRows    int
	DamagedText    string // what was found, without contents, addresses and phone numbers

	// Received messages that the program's handlers did not take.
	WaitingSince  time.Time // since when the oldest of them waits; zero when none does
	WaitingCount  int
	SetAsideSince time.Time // when the first of those that were set aside was
	SetAsideCount int
	BookUnread    bool   // the holder has not read yet which messages wait and are set aside
	MessagesText  string // about both, without contents, addresses and phone numbers
}

// Heal is what breaks a reconnect loop.
type Heal uint8

// The ways to break a reconnect loop.
const (
	HealUnknown Heal = iota // not known: the text names both ways
	HealExit                // the process ends, and its platform starts a new one
	HealTerm                // a new term begins in the same process
)

// Plan is what to do with the IncidentStore now.
type Plan struct {
	// Raise holds incidents that are new, or due for their refresh.
	Raise []Incident
	// Resolve holds the ids of incidents that are over. Report success with
	// Resolved; until then they are planned again with every refresh.
	Resolve []string
	// CheckAt is when a plan may next be needed although no fact changes.
	// Zero: never.
	CheckAt time.Time
}

// Guard turns facts into incidents: one per trouble, raised once, refreshed
// while it lasts, resolved when it is over, raised again the next time. It is
// pure and not safe for concurrent use.
//
// A raise that was lost is made good by the next refresh, because Raise is
// idempotent by id.
type Guard interface {
	// Adopt takes over the active incidents of a previous holder or process,
	// as IncidentStore.List returns them, so that what is over is resolved.
	Adopt(list []Incident)
	// Decide compares the facts with what it decided before.
	Decide(f Facts, now time.Time) Plan
	// Resolved reports that the incident id is resolved in the store.
	Resolved(id string)
}

// Policy holds the thresholds. A zero field means its default.
type Policy struct {
	StuckAfter time.Duration // disconnected for longer: wa_disconnect_stuck. 10 min
	Refresh    time.Duration // LastCheckedAt of an active incident. 60 s
	StoreAfter time.Duration // the backend silent for longer. 30 s
	// WatchedAfter is StoreAfter for an instance that stood by when the
	// backend fell silent. The holder tells of the outage, and two instances
	// that cannot reach their backend cannot agree. 6 h
	WatchedAfter   time.Duration
	ConflictWindow time.Duration // two replacements within it are a conflict. 1 h
	UnfitWindow    time.Duration // two instances that gave the lock up within it: nobody is fit to hold it. 1 h
	FlapTerms      int           // terms within FlapWindow. 4
	FlapWindow     time.Duration // 10 min
	WaitingAfter   time.Duration // received messages that handlers did not take wait for longer. 30 min
	// ClearAfter is how long a trouble that may flap must be over before its
	// incident is resolved: loops, budget, conflict, degraded, sends,
	// store, lock. 60 s
	ClearAfter time.Duration
}

// Defaults returns p with every zero field replaced by its default.
func (p Policy) Defaults() Policy {
	for field, value := range map[*time.Duration]time.Duration{
		&p.StuckAfter: 10 * time.Minute, &p.Refresh: time.Minute, &p.StoreAfter: 30 * time.Second, &p.WatchedAfter: 6 * time.Hour,
		&p.ConflictWindow: time.Hour, &p.FlapWindow: 10 * time.Minute, &p.ClearAfter: time.Minute,
		&p.WaitingAfter: 30 * time.Minute, &p.UnfitWindow: time.Hour,
	} {
		if *field == 0 {
			*field = value
		}
	}
	if p.FlapTerms == 0 {
		p.FlapTerms = 4
	}
	return p
}

// Validate reports the first field that is not valid, by name.
func (p Policy) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"StuckAfter", int64(p.StuckAfter)}, {"WaitingAfter", int64(p.WaitingAfter)}, {"Refresh", int64(p.Refresh)}, {"StoreAfter", int64(p.StoreAfter)}, {"WatchedAfter", int64(p.WatchedAfter)},
		{"ConflictWindow", int64(p.ConflictWindow)}, {"UnfitWindow", int64(p.UnfitWindow)}, {"FlapTerms", int64(p.FlapTerms)},
		{"FlapWindow", int64(p.FlapWindow)}, {"ClearAfter", int64(p.ClearAfter)},
	} {
		if f.value < 0 {
			return fmt.Errorf("guard: Policy.%s is negative: it must be positive, or zero for its default", f.name)
		}
	}
	return nil
}

// New returns a Guard. p should have passed Validate.
func New(p Policy) Guard { return &guard{p: p.Defaults(), open: map[Type]*entry{}} }

type guard struct {
	p    Policy
	open map[Type]*entry
}

// entry is an incident that this guard holds for active.
type entry struct {
	inc       Incident
	planned   time.Time // when it was last raised or resolved
	overSince time.Time // zero while the trouble lasts
	resolving bool
	shared    bool // adopted, of a type that others may see, and not seen here
}

func (g *guard) Adopt(list []Incident) {
	for _, inc := range list {
		if _, known := g.open[inc.Type]; inc.Active && !known && inc.ID == inc.Type.ActiveID() {
			g.open[inc.Type] = &entry{inc: inc, shared: !inc.Type.ByHolder()}
		}
	}
}

func (g *guard) Resolved(id string) {
	for t, e := range g.open {
		if t.ActiveID() == id && e.resolving {
			delete(g.open, t)
		}
	}
}

func (g *guard) Decide(f Facts, now time.Time) (plan Plan) {
	again := func(at time.Time) {
		if at.After(now) && (plan.CheckAt.IsZero() || at.Before(plan.CheckAt)) {
			plan.CheckAt = at
		}
	}
	for i := range troubles {
		t := &troubles[i]
		if t.holders && !f.Holder {
			delete(g.open, t.kind) // the new holder adopts it
			continue
		}
		since, is := t.is(&g.p, &f, now)
		if !since.IsZero() && since.After(now) {
			again(since) // not yet
			is = false
		}
		e := g.open[t.kind]
		switch {
		case is && (e == nil || e.resolving):
			e = &entry{inc: Incident{ID: t.kind.ActiveID(), Type: t.kind, Active: true, DetectedAt: now, FirstDetectedAt: now}}
			g.open[t.kind] = e
		case e == nil:
			continue
		case is:
			e.overSince, e.shared = time.Time{}, false
		case !e.resolving && !t.over(&g.p, &f, now):
			e.overSince = time.Time{} // it cannot be seen now, but it is not cured
		case !e.resolving:
			if e.overSince.IsZero() {
				e.overSince = now
			}
			var wait time.Duration
			if t.flaps {
				wait = g.p.ClearAfter
			}
			if now.Sub(e.overSince) >= wait {
				e.resolving, e.planned = true, time.Time{}
			} else {
				again(e.overSince.Add(wait))
			}
		}
		if due := e.planned.Add(g.p.Refresh); e.planned.IsZero() || !due.After(now) {
			e.planned = now
			if e.resolving {
				plan.Resolve = append(plan.Resolve, e.inc.ID)
			} else if !e.shared { // else whoever sees it refreshes it
				if is { // else the evidence of its beginning stays
					g.describe(&e.inc, &f)
				}
				e.inc.LastCheckedAt = now
				plan.Raise = append(plan.Raise, e.inc)
			}
		}
		again(e.planned.Add(g.p.Refresh))
	}
	return plan
}
