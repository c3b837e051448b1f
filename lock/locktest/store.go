package locktest

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/wastability/wastability/lock"
)

// ErrFault is the error of a call that a Fault made fail, unless it names
// another.
var ErrFault = errors.New("locktest: the connection failed")

// Op names a method of lock.Store.
type Op string

// The methods of lock.Store.
const (
	OpAcquire Op = "acquire"
	OpRenew   Op = "renew"
	OpRelease Op = "release"
	OpLoad    Op = "load"
)

// Fault is what happens to one call. The zero Fault lets it pass.
type Fault struct {
	Delay     time.Duration // before the request arrives
	Drop      bool          // the request never arrives: Err at once
	LoseReply bool          // the request is carried out, the caller hears Err
	Reply     time.Duration // before the reply arrives
	Hang      bool          // nothing arrives until the caller gives up
	// Late lets a request whose caller gave up during Delay arrive all the
	// same, in its own time.
	Late bool
	Err  error // default ErrFault
}

// Faults decides what happens to the next call. It may be called from many
// goroutines at once.
type Faults func(op Op) Fault

// Store is a lock.Store and lock.Watcher in memory: one lock and one clock, the
// server's, behind any number of connections. NewStore is the first connection,
// Connect makes more; each has its own faults.
type Store struct {
	server *server

	mu     sync.Mutex
	faults Faults
	next   map[Op][]Fault
	silent bool
}

type server struct {
	mu       sync.Mutex
	rec      lock.Record
	nonce    string
	until    time.Time     // when the lease runs out, by now()
	ahead    time.Duration // of this process's monotonic clock
	shift    time.Duration // of the wall clock that records show
	calls    map[Op]int
	changed  chan struct{} // closed and replaced with every change
	inFlight sync.WaitGroup
}

// NewStore makes a lock that was never taken.
func NewStore() *Store {
	return &Store{server: &server{calls: make(map[Op]int), changed: make(chan struct{})}}
}

// Connect makes another connection to the same lock, without faults.
func (s *Store) Connect() *Store { return &Store{server: s.server} }

// SetFaults makes f decide about every call on this connection; nil ends that.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Next makes the next calls of op on this connection fail, one call for each of
// faults. The function of SetFaults decides about the calls after them.
func (s *Store) Next(op Op, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(map[Op][]Fault)
	}
	s.next[op] = append(s.next[op], faults...)
}

// Silence makes the watch of this connection report nothing.
func (s *Store) Silence(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

// ShiftWall moves the wall clock that records show. Expiry is judged by another
// clock and does not move.
func (s *Store) ShiftWall(d time.Duration) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.shift = d
}

// RunAhead lets the server's clock run on by d, as if every other machine had
// been suspended for that time.
func (s *Store) RunAhead(d time.Duration) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.ahead += d
}

// Now reads the clock that leases are judged by.
func (s *Store) Now() time.Time {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	return s.server.now()
}

func (v *server) now() time.Time { return time.Now().Add(v.ahead) }

// HeldBy is the epoch that the server holds to be alive now under that holder
// id; 0 if there is none, that is, if another holder could be granted.
func (s *Store) HeldBy(holder string) int64 {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	v := s.server
	if v.rec.Holder != holder || !v.now().Before(v.until) {
		return 0
	}
	return v.rec.Epoch
}

// Calls is how many requests of that kind have arrived, on all connections.
func (s *Store) Calls(op Op) int {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	return s.server.calls[op]
}

// Wait returns when no late request is under way any more.
func (s *Store) Wait() { s.server.inFlight.Wait() }

func (s *Store) fault(op Op) Fault {
	s.mu.Lock()
	if q := s.next[op]; len(q) > 0 {
		s.next[op] = q[1:]
		s.mu.Unlock()
		return q[0]
	}
	f := s.faults
	s.mu.Unlock()
	if f == nil {
		return Fault{}
	}
	return f(op)
}

// call carries out apply on the server, as the fault allows.
func (s *Store) call(ctx context.Context, op Op, apply func(*server) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := s.fault(op)
	if f.Err == nil {
		f.Err = ErrFault
	}
	switch {
	case f.Hang:
		<-ctx.Done()
		return ctx.Err()
	case f.Drop:
		if !pause(ctx, f.Delay) {
			return ctx.Err()
		}
		return f.Err
	case f.Late:
		done := make(chan error, 1)
		s.server.inFlight.Add(1)
		go func() {
			defer s.server.inFlight.Done()
			time.Sleep(f.Delay)
			done <- s.server.serve(op, apply)
		}()
		select {
		case err := <-done:
			return f.reply(ctx, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !pause(ctx, f.Delay) {
		return ctx.Err()
	}
	return f.reply(ctx, s.server.serve(op, apply))
}

func (f Fault) reply(ctx context.Context, err error) error {
	if !pause(ctx, f.Reply) {
		return ctx.Err()
	}
	if f.LoseReply {
		return f.Err
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (v *server) serve(op Op, apply func(*server) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls[op]++
	return apply(v)
}

func (v *server) notify() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// extend starts the lease anew. The caller holds mu.
func (v *server) extend(lease time.Duration) {
	now := v.now()
	v.until = now.Add(lease)
	v.rec.Lease = lease
	v.rec.RenewedAt = now.Add(v.shift).Round(0)
	v.rec.LeaseUntil = v.rec.RenewedAt.Add(lease)
	v.notify()
}

// Acquire implements lock.Store. A repetition under the same nonce does not
// renew the lease.
func (s *Store) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (rec lock.Record, granted bool, err error) {
	err = s.call(ctx, OpAcquire, func(v *server) error {
		switch {
		case nonce == v.nonce && v.rec.Epoch > 0:
			granted = v.rec.Holder == holder
		case v.rec.Holder == "", v.rec.Holder == holder, !v.now().Before(v.until):
			granted = true
			v.nonce = nonce
			v.rec.Holder = holder
			v.rec.Epoch++
			v.extend(lease)
			v.rec.AcquiredAt = v.rec.RenewedAt
		}
		rec = v.rec
		return nil
	})
	if err != nil {
		return lock.Record{}, false, err
	}
	return rec, granted, nil
}

// Renew implements lock.Store. A term that ran out and that nobody took can be
// renewed.
func (s *Store) Renew(ctx context.Context, held lock.Record) (rec lock.Record, err error) {
	lost := false
	err = s.call(ctx, OpRenew, func(v *server) error {
		if lost = !v.holds(held); !lost {
			v.extend(held.Lease)
		}
		rec = v.rec
		return nil
	})
	switch {
	case err != nil:
		return lock.Record{}, err
	case lost:
		return rec, lock.ErrLost
	}
	return rec, nil
}

// Release implements lock.Store.
func (s *Store) Release(ctx context.Context, held lock.Record) error {
	return s.call(ctx, OpRelease, func(v *server) error {
		if v.holds(held) {
			v.rec = lock.Record{Epoch: v.rec.Epoch}
			v.until = time.Time{}
			v.notify()
		}
		return nil
	})
}

func (v *server) holds(held lock.Record) bool {
	return v.rec.Holder != "" && v.rec.Holder == held.Holder && v.rec.Epoch == held.Epoch
}

// Load implements lock.Store.
func (s *Store) Load(ctx context.Context) (rec lock.Record, err error) {
	err = s.call(ctx, OpLoad, func(v *server) error {
		rec = v.rec
		return nil
	})
	if err != nil {
		return lock.Record{}, err
	}
	return rec, nil
}

// Changes implements lock.Watcher: the record now, and after every change.
func (s *Store) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		for ctx.Err() == nil {
			s.server.mu.Lock()
			rec, changed := s.server.rec, s.server.changed
			s.server.mu.Unlock()
			s.mu.Lock()
			silent := s.silent
			s.mu.Unlock()
			if !silent && !yield(rec, nil) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}
