package stability

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/internal/sends"
	core "github.com/wastability/wastability/stability/internal/term"
)

// incidentLoop keeps the incidents: it gathers the facts, lets the guard decide, and
// writes down and tells what was decided. It runs in a goroutine of its own,
// because a store that does not answer must not hold the connection up.
type incidentLoop struct {
	m     *Manager
	guard guard.Guard
	done  chan struct{}
	asks  chan chan struct{}

	mu      sync.Mutex
	list    []guard.Incident     // as last known, for Incidents
	told    map[string]told      // by id: somebody was told that it is open
	adopted int64                // the epoch whose incidents were taken over
	trying  time.Time            // since when they could not be read; zero once they were
	again   time.Time            // when to read them once more; zero: not
	moved   map[string]time.Time // by id: when an incident of another instance's was last seen to be refreshed
	down    bool                 // the backend did not answer at the last look
	demands demands              // of WhatsApp for a new connection
}

// told says how an incident that people were told of is kept.
type told struct {
	stored bool      // false: only told, the store did not take it yet
	own    bool      // this instance sees the trouble itself
	closes time.Time // its end was written with this time, and no reply came; zero: not
}

func newIncidentLoop(m *Manager) *incidentLoop {
	return &incidentLoop{
		m: m, guard: guard.New(m.cfg.guardPolicy), done: make(chan struct{}), asks: make(chan chan struct{}),
		told: map[string]told{}, moved: map[string]time.Time{},
	}
}

// run looks at the facts at every transition and when the guard wants to.
func (l *incidentLoop) run() {
	defer close(l.done)
	for {
		l.m.mu.Lock()
		changed := l.m.changed
		l.m.mu.Unlock()
		again := l.pass()
		var timer <-chan time.Time
		var t *time.Timer
		if !again.IsZero() {
			t = time.NewTimer(time.Until(again))
			timer = t.C
		}
		select {
		case <-changed:
		case <-timer:
		case ask := <-l.asks:
			l.pass()
			close(ask)
		case <-l.m.life.Done():
			l.pass()
			if t != nil {
				t.Stop()
			}
			return
		}
		if t != nil {
			t.Stop()
		}
	}
}

// flush waits until everything that is true now has been decided upon.
func (l *incidentLoop) flush(atMost time.Duration) {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	ask := make(chan struct{})
	select {
	case l.asks <- ask:
	case <-l.done:
		return
	case <-deadline.C:
		return
	}
	select {
	case <-ask:
	case <-deadline.C:
	}
}

// pass decides once and acts on it. It returns when to look again.
func (l *incidentLoop) pass() time.Time {
	now := time.Now()
	facts, epoch := l.facts(now)
	if facts.Holder && epoch != l.adopted && !l.adopt(epoch) {
		if l.trying.IsZero() {
			l.trying = now
		}
		if facts.StoreDownSince.IsZero() && now.Sub(l.trying) < adoptPatience {
			// Without knowing what is open already, everything would be told
			// once more by every new holder.
			return now.Add(adoptRetry)
		}
	}
	facts, epoch = l.facts(now) // what was taken over counts too
	if !facts.StoreDownSince.IsZero() {
		l.down = true
	} else if l.down {
		l.down = false
		l.catchUp()
		l.again = now.Add(adoptAgain)
	}
	if facts.Holder && epoch == l.adopted && !l.again.IsZero() && !now.Before(l.again) {
		l.again = time.Time{}
		l.adopt(epoch)
	}
	plan := l.guard.Decide(facts, now)
	for _, inc := range plan.Raise {
		l.raise(inc)
	}
	for _, id := range plan.Resolve {
		l.resolve(id, now)
	}
	if at := l.again; facts.Holder && !at.IsZero() && (plan.CheckAt.IsZero() || at.Before(plan.CheckAt)) {
		return at
	}
	return plan.CheckAt
}

func (l *incidentLoop) callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), incidentTimeout)
}

// incidentTimeout bounds each call to the store of incidents.
const incidentTimeout = 5 * time.Second

// raise writes an incident down and tells who must know. When the store does
// not answer people are told all the same, once.
func (l *incidentLoop) raise(inc guard.Incident) {
	ctx, cancel := l.callContext()
	defer cancel()
	stored, opened, err := l.m.cfg.backend.Incidents.Raise(ctx, inc)
	if err != nil {
		l.m.cfg.logger.Debug("an incident was not stored", "incident", inc.ID, "error", err)
		stored = inc
	} else {
		l.m.answered()
	}
	l.mu.Lock()
	before, known := l.told[inc.ID]
	tell := !known && (opened || err != nil)
	l.told[inc.ID] = told{stored: before.stored || err == nil, own: true}
	l.keep(stored)
	l.mu.Unlock()
	if tell {
		l.tell(guard.Notification{Change: guard.ChangeOpened, Incident: stored, At: time.Now()})
	}
}

// resolve closes an incident. All instances that know of it may try; the one
// that the store says has closed it tells.
func (l *incidentLoop) resolve(id string, now time.Time) {
	ctx, cancel := l.callContext()
	defer cancel()
	if l.seenElsewhere(ctx, id, now) {
		return // planned again
	}
	l.mu.Lock()
	was, known := l.told[id]
	l.mu.Unlock()
	now = now.Truncate(time.Microsecond) // as every store keeps it
	var closed bool
	var err error
	if !was.closes.IsZero() {
		closed, now, err = l.closedAt(ctx, id, was.closes) // by the call whose reply was lost
	}
	if err == nil && !closed {
		closed, err = l.m.cfg.backend.Incidents.Resolve(ctx, id, now)
	}
	if err != nil {
		l.m.cfg.logger.Debug("an incident was not resolved in the store", "incident", id, "error", err)
		l.mu.Lock()
		if t, known := l.told[id]; known {
			t.closes = now
			l.told[id] = t
		}
		l.mu.Unlock()
		return // planned again
	}
	l.guard.Resolved(id)
	l.mu.Lock()
	tell := closed || known && !was.stored // else another instance closed it, and told
	delete(l.told, id)
	delete(l.moved, id)
	resolved := guard.Incident{ID: id}
	for i := range l.list {
		if l.list[i].ID == id {
			l.list[i].Active, l.list[i].ResolvedAt = false, now
			resolved = l.list[i]
		}
	}
	l.mu.Unlock()
	if tell {
		l.tell(guard.Notification{Change: guard.ChangeResolved, Incident: resolved, At: now})
	}
}

// closedAt reports whether an incident's end stands in the store with this time,
// and with which time it is to be closed if not: another instance may have opened
// it anew behind that end.
func (l *incidentLoop) closedAt(ctx context.Context, id string, at time.Time) (closed bool, end time.Time, err error) {
	list, err := l.m.cfg.backend.Incidents.List(ctx)
	if err != nil {
		return false, at, err
	}
	for _, inc := range list {
		if inc.ID == id && inc.Active && inc.DetectedAt.After(at) {
			return false, time.Now().Truncate(time.Microsecond), nil
		}
		if inc.ID == id {
			return !inc.Active && inc.ResolvedAt.Equal(at), at, nil
		}
	}
	return false, at, nil
}

// seenElsewhere reports whether an incident that this instance has taken over
// is still refreshed by another one, which sees the trouble that this one does
// not. It is that one's to resolve.
func (l *incidentLoop) seenElsewhere(ctx context.Context, id string, now time.Time) bool {
	l.mu.Lock()
	since, taken := l.moved[id]
	taken = taken && !l.told[id].own
	var last guard.Incident
	for _, inc := range l.list {
		if inc.ID == id {
			last = inc
		}
	}
	l.mu.Unlock()
	if !taken || last.Type.ByHolder() {
		return false
	}
	list, err := l.m.cfg.backend.Incidents.List(ctx)
	if err != nil {
		return true
	}
	for _, inc := range list {
		if inc.ID == id && inc.Active && !inc.LastCheckedAt.Equal(last.LastCheckedAt) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.moved[id] = now
			l.keep(inc)
			return true
		}
	}
	return now.Sub(since) < 2*l.m.cfg.guardPolicy.Defaults().Refresh
}

func (l *incidentLoop) keep(inc guard.Incident) {
	for i := range l.list {
		if l.list[i].ID == inc.ID {
			l.list[i] = inc
			guard.Sort(l.list)
			return
		}
	}
	l.list = append(l.list, inc)
	guard.Sort(l.list)
}

func (l *incidentLoop) tell(n guard.Notification) {
	for _, s := range l.m.cfg.sinks {
		l.notify(s, n)
	}
	kind := EventIncidentOpened
	if n.Change == guard.ChangeResolved {
		kind = EventIncidentResolved
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.eventLocked(Event{Kind: kind, Incident: n.Incident.ID, Detail: n.Incident.Instructions})
}

// notify calls a sink. One that panics must not take the program down: it is
// about trouble already.
func (l *incidentLoop) notify(s guard.Sink, n guard.Notification) {
	defer func() {
		if r := recover(); r != nil {
			l.m.cfg.logger.Error("a sink panicked; it did not get this change", "sink", fmt.Sprintf("%T", s), "incident", n.Incident.ID, "change", n.Change, "panic", r)
		}
	}()
	s.Notify(n)
}

// facts gathers what the guard is to judge.
func (l *incidentLoop) facts(now time.Time) (f guard.Facts, epoch int64) {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	f.InstanceID = m.instanceID()
	f.SameID = m.seat.twin
	f.Terms = append([]time.Time(nil), m.seat.terms...)
	f.DamagedAt, f.DamagedRows, f.DamagedText = m.damage.at, m.damage.rows, m.damage.text
	if m.outage.err != nil {
		f.StoreDownSince, f.StoreWatched = m.outage.since, m.outage.watched
	}
	t := m.term
	if t == nil || !t.core.Facts(&f, now, core.Sight{Up: t.up()}) {
		return f, 0
	}
	st := t.core.State()
	f.Unfit, f.UnfitText = unfitFacts(st)
	f.Demands = l.demands.count(st, f.Connected, m.cfg.policy.Defaults().StableAfter, now)
	m.received.facts(&f)
	f.SendsRefusedSince, f.SendsCode, f.SendsFailed, f.SendsAcknowledged = m.sends.facts(now)
	if !f.SendsRefusedSince.IsZero() {
		f.SendsMeans, f.SendsDo = sends.Text(f.SendsCode)
	}
	return f, t.hold.Epoch()
}

// Incidents returns the incidents of this account as this instance knows them,
// active ones first. No I/O.
func (m *Manager) Incidents() []guard.Incident {
	m.incidents.mu.Lock()
	defer m.incidents.mu.Unlock()
	return append([]guard.Incident(nil), m.incidents.list...)
}
