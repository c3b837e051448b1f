package stability

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

// Counts has the counts of a Manager since New made it. No count ever
// decreases. Counts that Status has are not repeated here. A restart of the
// process begins all counts again.
type Counts struct {
	Since time.Time

	Terms       uint64 // terms of the lock that began here
	Attempts    uint64 // attempts to connect
	Connections uint64 // attempts that ended in a login

	// Disconnects are the ends of connections and of attempts, by reason. An end
	// is counted once its reason is final: when the next attempt begins, or after
	// five seconds. A host's own word for a reason is counted as "other".
	Disconnects map[reconnect.Reason]uint64

	Renewals       uint64 // of the lock
	RenewalsFailed uint64 // asked for, and not granted or not answered

	Sends Calls               // from a message that goes out to WhatsApp's answer to it, of whatever kind
	Pings Calls               // from a ping of the client's to WhatsApp's answer; Failed is not counted
	Store map[StoreCall]Calls // calls to the backend
}

// StoreCall is a kind of call to the backend.
type StoreCall string

// The kinds of calls.
const (
	StoreRead      StoreCall = "read"      // rows of the device
	StoreCommit    StoreCall = "commit"    // of the same
	StoreLock      StoreCall = "lock"      // asking for the lock, renewing it, giving it back, looking at it
	StoreState     StoreCall = "state"     // the connection's state, read or saved
	StoreIncidents StoreCall = "incidents" // read or written
)

// StoreCalls returns all kinds of calls.
func StoreCalls() []StoreCall {
	return []StoreCall{StoreRead, StoreCommit, StoreLock, StoreState, StoreIncidents}
}

// Calls counts calls to somebody else, and the time that they took.
type Calls struct {
	Answered uint64        // a refusal is an answer
	Failed   uint64        // no answer, or no usable one; what this side has cancelled is not counted
	Time     time.Duration // of the answered and the failed, summed up
	Slowest  time.Duration // of the last minute or two; 0 when there was none
}

// Counts returns the present counts. No I/O, no waiting.
func (m *Manager) Counts() Counts {
	now := time.Now()
	c := Counts{
		Since: m.clocks.base, Disconnects: make(map[reconnect.Reason]uint64), Store: make(map[StoreCall]Calls, len(m.counts.store)),
		Sends: m.counts.sends.view(now), Pings: m.counts.pings.view(now),
	}
	for i, k := range StoreCalls() {
		c.Store[k] = m.counts.store[i].view(now)
	}
	c.Renewals, c.RenewalsFailed = m.counts.renewals.granted.Load(), m.counts.renewals.failed.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.settle(now)
	c.Terms, c.Attempts, c.Connections = m.counts.terms, m.counts.attempts, m.counts.connections
	for r, n := range m.counts.ends {
		c.Disconnects[r] = n
	}
	return c
}

// counts is what Counts is made of.
type counts struct {
	sends, pings meter
	store        [5]meter // in the order of StoreCalls
	renewals     struct{ granted, failed atomic.Uint64 }
	ping         atomic.Pointer[ping] // the newest that has no answer yet

	// guarded by Manager.mu
	terms, attempts, connections uint64
	ends                         map[reconnect.Reason]uint64
	open                         reconnect.Reason // of an end that is not counted yet; its reason may become a better one
	openSince                    time.Time        // zero when there is none
}

// reasonSettles is how long a better reason for an end is waited for.
const reasonSettles = 5 * time.Second

// event counts a transition.
func (c *counts) event(e *Event) {
	switch e.Kind {
	case EventReasonKnown:
		if !c.openSince.IsZero() {
			c.open = e.Reason
		}
		return
	case EventDisconnected:
		c.settled()
		c.open, c.openSince = e.Reason, e.Time
	case EventActivated:
		c.terms++
	case EventConnecting:
		c.settled()
		c.attempts++
	case EventConnected:
		c.settled()
		c.connections++
	}
}

// settle counts an end whose reason has stood for long enough.
func (c *counts) settle(now time.Time) {
	if !c.openSince.IsZero() && now.Sub(c.openSince) >= reasonSettles {
		c.settled()
	}
}

// settled counts the open end, if there is one.
func (c *counts) settled() {
	if c.openSince.IsZero() {
		return
	}
	if c.ends == nil {
		c.ends = make(map[reconnect.Reason]uint64)
	}
	c.ends[known(c.open)]++
	c.openSince = time.Time{}
}

// known is a reason of this library's, or "other" for a host's own word.
func known(r reconnect.Reason) reconnect.Reason {
	if slices.Contains(reconnect.Reasons(), r) {
		return r
	}
	return "other"
}

// renewed counts an attempt to renew the lock.
func (c *counts) renewed(err error) {
	switch {
	case err == nil:
		c.renewals.granted.Add(1)
	case !errors.Is(err, context.Canceled):
		c.renewals.failed.Add(1)
	}
}

// ping is a ping of the client's that was sent.
type ping struct {
	id string
	at time.Time
}

func (c *counts) pinged(id string) { c.ping.Store(&ping{id: strings.Clone(id), at: time.Now()}) }

// ponged takes an answer to any query of the client's.
func (c *counts) ponged(id string) {
	if p := c.ping.Load(); p != nil && p.id == id && c.ping.CompareAndSwap(p, nil) {
		c.pings.note(p.at, nil)
	}
}

// meter measures one kind of call. Its lock is held for some nanoseconds.
type meter struct {
	mu       sync.Mutex
	calls    Calls
	since    time.Time     // when the present minute began
	now, old time.Duration // the slowest of this minute and of the one before
}

// note takes a call that began then.
func (x *meter) note(began time.Time, err error) { x.took(time.Since(began), err) }

func (x *meter) took(d time.Duration, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.turn(now)
	if answered(err) {
		x.calls.Answered++
	} else {
		x.calls.Failed++
	}
	x.calls.Time += d
	x.now = max(x.now, d)
}

func (x *meter) view(now time.Time) Calls {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.turn(now)
	c := x.calls
	c.Slowest = max(x.now, x.old)
	return c
}

func (x *meter) turn(now time.Time) {
	switch age := now.Sub(x.since); {
	case age >= 2*time.Minute:
		x.since, x.now, x.old = now, 0, 0
	case age >= time.Minute:
		x.since, x.now, x.old = x.since.Add(time.Minute), 0, x.now
	}
}

// answered reports whether the other side has answered, be it with a refusal.
func answered(err error) bool {
	return err == nil || errors.Is(err, lock.ErrLost) || errors.Is(err, lock.ErrFenced) || permanent(err)
}

func (c *counts) of(k StoreCall) *meter {
	for i, other := range StoreCalls() {
		if k == other {
			return &c.store[i]
		}
	}
	panic("stability: no such kind of call: " + string(k))
}

// metered returns the backend with its calls counted, the lock's aside: see
// watchedLock.
func (c *counts) metered(b Backend) Backend {
	if b.Auth != nil {
		kv := meteredKV{b.Auth, c.of(StoreRead), c.of(StoreCommit)}
		b.Auth = kv
		if many := rangesOf(kv.KV); many != nil {
			b.Auth = meteredRanges{kv, many}
		}
	}
	if b.State != nil {
		b.State = meteredState{b.State, c.of(StoreState)}
	}
	if b.Incidents != nil {
		b.Incidents = meteredIncidents{b.Incidents, c.of(StoreIncidents)}
	}
	return b
}

type meteredKV struct {
	authstore.KV
	reads, commits *meter
}

func (k meteredKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	began := time.Now()
	rows, err := k.KV.Get(ctx, keys...)
	k.reads.note(began, err)
	return rows, err
}

func (k meteredKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	began := time.Now()
	err := k.KV.Commit(ctx, epoch, b)
	k.commits.note(began, err)
	return err
}

func (k meteredKV) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return k.reads.scan(k.KV.Scan(ctx, kind, idPrefix))
}

// meteredRanges is meteredKV over one that reads several ranges at once.
type meteredRanges struct {
	meteredKV
	many authstore.RangeScanner
}

func (k meteredRanges) ScanRanges(ctx context.Context, ranges ...authstore.Range) iter.Seq2[authstore.Entry, error] {
	return k.reads.scan(k.many.ScanRanges(ctx, ranges...))
}

// scan counts a whole sequence as one call, without the time that its reader
// takes.
func (x *meter) scan(rows iter.Seq2[authstore.Entry, error]) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		var spent time.Duration
		var failed error
		began := time.Now()
		for e, err := range rows {
			spent += time.Since(began)
			if err != nil {
				failed = err
			}
			if !yield(e, err) {
				x.took(spent, failed)
				return
			}
			began = time.Now()
		}
		x.took(spent+time.Since(began), failed)
	}
}

type meteredState struct {
	reconnect.StateStore
	calls *meter
}

func (s meteredState) Load(ctx context.Context) (reconnect.State, error) {
	began := time.Now()
	st, err := s.StateStore.Load(ctx)
	s.calls.note(began, err)
	return st, err
}

func (s meteredState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	began := time.Now()
	err := s.StateStore.Save(ctx, epoch, st)
	s.calls.note(began, err)
	return err
}

type meteredIncidents struct {
	guard.IncidentStore
	calls *meter
}

func (s meteredIncidents) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	began := time.Now()
	stored, opened, err := s.IncidentStore.Raise(ctx, inc)
	s.calls.note(began, err)
	return stored, opened, err
}

func (s meteredIncidents) Resolve(ctx context.Context, id string, at time.Time) (bool, error) {
	began := time.Now()
	closed, err := s.IncidentStore.Resolve(ctx, id, at)
	s.calls.note(began, err)
	return closed, err
}

func (s meteredIncidents) List(ctx context.Context) ([]guard.Incident, error) {
	began := time.Now()
	list, err := s.IncidentStore.List(ctx)
	s.calls.note(began, err)
	return list, err
}
