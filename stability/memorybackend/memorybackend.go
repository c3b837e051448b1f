package memorybackend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

// ErrClosed is what every call through a closed Backend returns.
var ErrClosed = errors.New("memorybackend: closed: make another Backend from the same Memory")

// Option configures New.
type Option func(*Memory)

// WithLimits sets what one commit can take, to act like a backend that takes
// little. Default: no limits.
func WithLimits(l authstore.Limits) Option { return func(m *Memory) { m.limits = l } }

// Memory is one account, shared by any number of instances. Safe for
// concurrent use.
type Memory struct {
	limits authstore.Limits

	mu        sync.Mutex // held for moments only, never while anything waits
	term      term
	changed   chan struct{} // closed and replaced when the record changes
	entries   map[authstore.Key][]byte
	state     []byte // JSON, as a real backend would have it; nil when never saved
	saved     []byte // what Save wrote last, which it can read: state is another one where somebody else has changed it
	incidents map[string]stored[guard.Incident]
}

// stored is a value with the version of its format.
type stored[T any] struct {
	version int
	value   T
}

// New makes an empty account.
func New(opts ...Option) *Memory {
	m := &Memory{
		changed:   make(chan struct{}),
		entries:   map[authstore.Key][]byte{},
		incidents: map[string]stored[guard.Incident]{},
	}
	for _, o := range opts {
		o(m)
	}
	return m
}

// Backend makes one more instance of the account. Its Close ends this instance
// only: it waits for nothing, gives no lock up (neither does a process that
// dies) and may be called more than once.
func (m *Memory) Backend() stability.Backend {
	i := &instance{m: m, closed: make(chan struct{})}
	return stability.Backend{
		Name: "memory", Lock: lockStore{i}, Auth: keyValues{i}, State: stateStore{i}, Incidents: incidentStore{i},
		Close: func() error {
			i.once.Do(func() { close(i.closed) })
			return nil
		},
		Destroy: m.destroy,
	}
}

// destroy empties the account. The epoch goes on: what an old term may still
// have under way must not fit a new one.
func (m *Memory) destroy(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memorybackend: destroy: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.term.free(time.Now()) {
		return fmt.Errorf("memorybackend: destroy: %w: held by %q", lock.ErrHeld, m.term.Holder)
	}
	clear(m.entries)
	clear(m.incidents)
	m.state = nil
	m.set(term{Record: lock.Record{Epoch: m.term.Epoch}})
	return nil
}

// instance is one Backend's view.
type instance struct {
	m      *Memory
	once   sync.Once
	closed chan struct{}
}

// enter checks what every call checks first; op is for the error.
func (i *instance) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memorybackend: %s: %w", op, err)
	}
	select {
	case <-i.closed:
		return fmt.Errorf("%s: %w", op, ErrClosed)
	default:
		return nil
	}
}

// fenced tells whether epoch may write. m.mu is held.
func (m *Memory) fenced(op string, epoch int64) error {
	if m.term.Holder == "" || epoch != m.term.Epoch {
		return fmt.Errorf("memorybackend: %s with epoch %d, the newest is %d: %w", op, epoch, m.term.Epoch, lock.ErrFenced)
	}
	return nil
}
