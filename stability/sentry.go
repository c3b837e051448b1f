package stability

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	core "github.com/wastability/wastability/stability/internal/term"
)

// sentry keeps the incidents: it gathers the facts, lets the guard decide, and
// writes down and tells what was decided. It runs in a goroutine of its own,
// because a store that does not answer must not hold the connection up.
type sentry struct {
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
	stored bool // false: only told, the store did not take it yet
	own    bool // this instance sees the trouble itself
}

func newSentry(m *Manager) *sentry {
	return &sentry{
		m: m, guard: guard.New(m.cfg.guardPolicy), done: make(chan struct{}), asks: make(chan chan struct{}),
		told: map[string]told{}, moved: map[string]time.Time{},
	}
}

// run looks at the facts at every transition and when the guard wants to.
func (y *sentry) run() {
	defer close(y.done)
	for {
		y.m.mu.Lock()
		changed := y.m.changed
		y.m.mu.Unlock()
		again := y.pass()
		var timer <-chan time.Time
		var t *time.Timer
		if !again.IsZero() {
			t = time.NewTimer(time.Until(again))
			timer = t.C
		}
		select {
		case <-changed:
		case <-timer:
		case ask := <-y.asks:
			y.pass()
			close(ask)
		case <-y.m.life.Done():
			y.pass()
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
func (y *sentry) flush(atMost time.Duration) {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	ask := make(chan struct{})
	select {
	case y.asks <- ask:
	case <-y.done:
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
func (y *sentry) pass() time.Time {
	now := time.Now()
	facts, epoch := y.facts(now)
	if facts.Holder && epoch != y.adopted && !y.adopt(epoch) {
		if y.trying.IsZero() {
			y.trying = now
		}
		if facts.StoreDownSince.IsZero() && now.Sub(y.trying) < adoptPatience {
			// Without knowing what is open already, everything would be told
			// once more by every new holder.
			return now.Add(adoptRetry)
		}
	}
	facts, epoch = y.facts(now) // what was taken over counts too
	if !facts.StoreDownSince.IsZero() {
		y.down = true
	} else if y.down {
		y.down = false
		y.catchUp()
		y.again = now.Add(adoptAgain)
	}
	if facts.Holder && epoch == y.adopted && !y.again.IsZero() && !now.Before(y.again) {
		y.again = time.Time{}
		y.adopt(epoch)
	}
	plan := y.guard.Decide(facts, now)
	for _, inc := range plan.Raise {
		y.raise(inc)
	}
	for _, id := range plan.Resolve {
		y.resolve(id, now)
	}
	if at := y.again; facts.Holder && !at.IsZero() && (plan.CheckAt.IsZero() || at.Before(plan.CheckAt)) {
		return at
	}
	return plan.CheckAt
}

// adoptAgain is when the holder looks once more for what is open. What others
// could only tell during an outage they write down behind its end, and they may
// be gone before it is resolved.
const adoptAgain = 3 * time.Minute

// catchUp writes down what was told while the store did not answer, so that
// whoever resolves it knows of it.
func (y *sentry) catchUp() {
	y.mu.Lock()
	var open []guard.Incident
	for _, inc := range y.list {
		if t, known := y.told[inc.ID]; known && !t.stored {
			open = append(open, inc)
		}
	}
	y.mu.Unlock()
	for _, inc := range open {
		y.raise(inc)
	}
}

// adoptRetry is how soon the store is asked again for what is open.
const adoptRetry = 2 * time.Second

// adoptPatience is for how long: better told twice than never.
const adoptPatience = 30 * time.Second

func (y *sentry) adopt(epoch int64) bool {
	ctx, cancel := y.callContext()
	defer cancel()
	list, err := y.m.cfg.backend.Incidents.List(ctx)
	if err != nil {
		y.m.cfg.logger.Debug("incidents not read", "error", err)
		return false
	}
	if epoch != y.adopted {
		y.again = time.Now().Add(adoptAgain)
	}
	y.adopted, y.trying = epoch, time.Time{}
	y.guard.Adopt(list)
	y.mu.Lock()
	defer y.mu.Unlock()
	before := map[string]time.Time{}
	for _, inc := range y.list {
		before[inc.ID] = inc.LastCheckedAt
	}
	y.list = list
	active := map[string]bool{}
	for _, inc := range list {
		if inc.Active {
			active[inc.ID] = true
			if inc.Type == guard.TypeDataDamaged {
				y.m.inheritDamage(inc)
			}
			y.told[inc.ID] = told{stored: true, own: y.told[inc.ID].own}
			if _, seen := y.moved[inc.ID]; !seen || !inc.LastCheckedAt.Equal(before[inc.ID]) {
				y.moved[inc.ID] = time.Now()
			}
		}
	}
	for id, t := range y.told {
		if t.stored && !active[id] {
			delete(y.told, id)
			delete(y.moved, id) // another holder resolved it: the next time is a new one
		}
	}
	return true
}

// inheritDamage goes on with the damage that an earlier holder has reported: it
// is not cured by a hand-over.
func (m *Manager) inheritDamage(inc guard.Incident) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.damage.at.IsZero() {
		return
	}
	m.damage.at, m.damage.text = inc.DetectedAt, inc.Evidence["detail"]
	if at, err := time.Parse(time.RFC3339, inc.Evidence["found"]); err == nil {
		m.damage.at = at
	}
	m.damage.rows, _ = strconv.Atoi(inc.Evidence["rows"])
}

func (y *sentry) callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), incidentTimeout)
}

// incidentTimeout bounds each call to the store of incidents.
const incidentTimeout = 5 * time.Second

// raise writes an incident down and tells who must know. When the store does
// not answer people are told all the same, once.
func (y *sentry) raise(inc guard.Incident) {
	ctx, cancel := y.callContext()
	defer cancel()
	stored, opened, err := y.m.cfg.backend.Incidents.Raise(ctx, inc)
	if err != nil {
		y.m.cfg.logger.Debug("incident not stored", "incident", inc.ID, "error", err)
		stored = inc
	}
	y.mu.Lock()
	before, known := y.told[inc.ID]
	tell := !known && (opened || err != nil)
	y.told[inc.ID] = told{stored: before.stored || err == nil, own: true}
	y.keep(stored)
	y.mu.Unlock()
	if tell {
		y.tell(guard.Notification{Change: guard.ChangeOpened, Incident: stored, At: time.Now()})
	}
}

// resolve closes an incident. All instances that know of it may try; the one
// that the store says has closed it tells.
func (y *sentry) resolve(id string, now time.Time) {
	ctx, cancel := y.callContext()
	defer cancel()
	if y.seenElsewhere(ctx, id, now) {
		return // planned again
	}
	closed, err := y.m.cfg.backend.Incidents.Resolve(ctx, id, now)
	if err != nil {
		y.m.cfg.logger.Debug("incident not resolved in the store", "incident", id, "error", err)
		return // planned again
	}
	y.guard.Resolved(id)
	y.mu.Lock()
	was, known := y.told[id]
	tell := closed || known && !was.stored // else another instance closed it, and told
	delete(y.told, id)
	delete(y.moved, id)
	resolved := guard.Incident{ID: id}
	for i := range y.list {
		if y.list[i].ID == id {
			y.list[i].Active, y.list[i].ResolvedAt = false, now
			resolved = y.list[i]
		}
	}
	y.mu.Unlock()
	if tell {
		y.tell(guard.Notification{Change: guard.ChangeResolved, Incident: resolved, At: now})
	}
}

// seenElsewhere reports whether an incident that this instance has taken over
// is still refreshed by another one, which sees the trouble that this one does
// not. It is that one's to resolve.
func (y *sentry) seenElsewhere(ctx context.Context, id string, now time.Time) bool {
	y.mu.Lock()
	since, taken := y.moved[id]
	taken = taken && !y.told[id].own
	var last guard.Incident
	for _, inc := range y.list {
		if inc.ID == id {
			last = inc
		}
	}
	y.mu.Unlock()
	if !taken || last.Type.ByHolder() {
		return false
	}
	list, err := y.m.cfg.backend.Incidents.List(ctx)
	if err != nil {
		return true
	}
	for _, inc := range list {
		if inc.ID == id && inc.Active && !inc.LastCheckedAt.Equal(last.LastCheckedAt) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.moved[id] = now
			y.keep(inc)
			return true
		}
	}
	return now.Sub(since) < 2*y.m.cfg.guardPolicy.Defaults().Refresh
}

func (y *sentry) keep(inc guard.Incident) {
	for i := range y.list {
		if y.list[i].ID == inc.ID {
			y.list[i] = inc
			guard.Sort(y.list)
			return
		}
	}
	y.list = append(y.list, inc)
	guard.Sort(y.list)
}

func (y *sentry) tell(n guard.Notification) {
	for _, s := range y.m.cfg.sinks {
		y.notify(s, n)
	}
	kind := EventIncidentOpened
	if n.Change == guard.ChangeResolved {
		kind = EventIncidentResolved
	}
	y.m.mu.Lock()
	defer y.m.mu.Unlock()
	y.m.eventLocked(Event{Kind: kind, Incident: n.Incident.ID, Detail: n.Incident.Instructions})
}

// notify calls a sink. One that panics must not take the program down: it is
// about trouble already.
func (y *sentry) notify(s guard.Sink, n guard.Notification) {
	defer func() {
		if r := recover(); r != nil {
			y.m.cfg.logger.Error("a sink panicked; it was not told", "sink", fmt.Sprintf("%T", s), "incident", n.Incident.ID, "change", n.Change, "panic", r)
		}
	}()
	s.Notify(n)
}

// facts gathers what the guard is to judge.
func (y *sentry) facts(now time.Time) (f guard.Facts, epoch int64) {
	m := y.m
	m.mu.Lock()
	defer m.mu.Unlock()
	f.InstanceID = m.instanceID()
	f.SameID = m.sameID
	f.Terms = append([]time.Time(nil), m.terms...)
	f.DamagedAt, f.DamagedRows, f.DamagedText = m.damage.at, m.damage.rows, m.damage.text
	if m.down != nil {
		f.StoreDownSince, f.StoreWatched = m.downAt, m.downWatched
	}
	t := m.term
	if t == nil || t.core.Ending() {
		// What a hand-over does to the connection is neither trouble nor its
		// cure: the next holder judges.
		return f, 0
	}
	up := t.up()
	v := t.core.View(now, core.Sight{Up: up})
	st := v.State
	f.Holder = true
	f.Connected = v.Ready
	f.NeedsPairing = v.Status == reconnect.StatusNeedsPairing
	f.DisconnectedSince = st.DisconnectedSince
	f.Reason, f.Code, f.Detail = string(st.LastDisconnectReason), st.LastDisconnectCode, st.LastDisconnectDetail
	text := st.LastDisconnectReason.Text()
	f.Means, f.Do = text.Means, text.Do
	f.RetryCount, f.NextRetryAt, f.NotBefore = st.RetryCount, st.NextRetryAt, st.NotBefore
	f.Replacements = st.Replacements
	f.Demands = y.demands.count(st, f.Connected, m.cfg.policy.Defaults().StableAfter, now)
	f.Loop, f.BudgetExhausted = v.Looping, v.Unbroken
	if f.Connected {
		if v := t.client.vitals.verdict; v.Health == keepalive.Degraded {
			f.DegradedSince, f.DegradedText = v.Since, v.Text
		}
	}
	return f, t.hold.Epoch()
}

// Incidents returns the incidents of this account as this instance knows them,
// active ones first. No I/O.
func (m *Manager) Incidents() []guard.Incident {
	m.sentry.mu.Lock()
	defer m.sentry.mu.Unlock()
	return append([]guard.Incident(nil), m.sentry.list...)
}
