package lock

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

var (
	// ErrLost reports that a term is over: another epoch holds the lock.
	ErrLost = errors.New("lock: lost: another term holds it")

	// ErrFenced reports a write that carried the epoch of a term that is over.
	// Nothing of it was applied. authstore and reconnect share this value.
	ErrFenced = errors.New("lock: fenced: the write belongs to an older term")

	// ErrInstanceIDNotUnique is why a term ended that was lost to its own
	// holder id: a second process runs with it. It matches ErrLost too.
	ErrInstanceIDNotUnique = fmt.Errorf("lock: another process uses this holder id: give each instance its own: %w", ErrLost)

	// ErrExpired is why a term ended that could not be renewed in time.
	ErrExpired = errors.New("lock: expired: no renewal succeeded within the trust window")

	// ErrReleased is why a term ended that was released.
	ErrReleased = errors.New("lock: released")

	// ErrSucceeded is why a term ended: the same Lease begins the next one,
	// without giving the lock up in between. If that fails, the lock is given up.
	ErrSucceeded = errors.New("lock: succeeded: a new term of the same holder is to follow")

	// ErrHeld reports that an account cannot be destroyed: an instance holds it.
	ErrHeld = errors.New("lock: an instance holds the account: close its Manager first, or wait until its lease has run out")

	// ErrClosed reports the use of a Lease after Close.
	ErrClosed = errors.New("lock: the lease is closed: make a new one with lock.New")
)

// Record is what the store knows about the lock.
type Record struct {
	Holder     string        // holder instance id; "" means free
	Epoch      int64         // fencing token: one higher with every new term, never used again
	Lease      time.Duration // how long a term lasts without renewal
	AcquiredAt time.Time     // when the term began; the server's time where the backend has one
	RenewedAt  time.Time     // when it was last renewed, by the same clock
	LeaseUntil time.Time     // RenewedAt + Lease; for display, never for decisions between hosts
}

// Store is what a backend gives. All methods are safe for concurrent use and
// return soon after their context ends. The outcome of the request is then
// unclear. An error that no repetition can cure (a damaged file, a missing
// permission) is wrapped with backoff.Permanent (cenkalti/backoff/v4), so that
// Lease.Acquire returns it instead of waiting.
//
// Package locktest holds the suite every Store must pass.
type Store interface {
	// Acquire grants a new term if the lease is free, expired, or held under
	// the same holder id. Expiry is judged by one clock, the store's own.
	// The nonce names the attempt: repeated with the same nonce the call
	// settles an ambiguous outcome and grants no second epoch, neither while
	// its term lives nor after it was released. Whether the repetition also
	// renews the lease is left to the store. Without a grant the record tells
	// who holds the lock.
	Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (rec Record, granted bool, err error)

	// Renew extends the term of held by held.Lease. ErrLost when another epoch
	// holds the lock, or none does. With ErrLost a store may return the record
	// that it found; a zero Record makes the caller Load it.
	Renew(ctx context.Context, held Record) (Record, error)

	// Release gives the lock up. It is no error if held is no longer held.
	// The epoch stays, so that it is never used again.
	Release(ctx context.Context, held Record) error

	// Load reads the record. A lock that was never taken is the zero Record.
	Load(ctx context.Context) (Record, error)
}

// Watcher is optional: Changes yields whenever the record may have changed. It
// wakes a waiting instance early; it proves nothing. A zero Record means that
// something changed and a look is worthwhile. The sequence ends when ctx does;
// if it ends earlier it is started again after a pause.
type Watcher interface {
	Changes(ctx context.Context) iter.Seq2[Record, error]
}

// Lock is what stability.Manager needs; *Lease implements it over a Store.
type Lock interface {
	TryAcquire(ctx context.Context) (t Term, granted bool, err error)
	// Acquire waits; it wakes at once on a release where the Store can watch.
	Acquire(ctx context.Context) (Term, error)
	Load(ctx context.Context) (Record, error)
}

// Successor is optional: a Lock that can begin a new term without giving the lock
// up before. *Lease can.
type Successor interface {
	// Succeed ends t, which must be the living term, with [ErrSucceeded], and
	// returns the term that follows, under a new epoch. Nobody else can have the
	// lock in between. After an error the lock is given up, as by Release.
	Succeed(ctx context.Context, t Term) (Term, error)
}

// Term is one uninterrupted possession of the lock. It may be a [Causer]; the terms
// of a Lease are.
type Term interface {
	Epoch() int64
	Held() bool              // trusted now: no I/O
	TrustedUntil() time.Time // with a monotonic reading
	Lost() <-chan struct{}   // closed when the term ends, however it ends
	Record() Record
	Release(ctx context.Context) error
}

// Causer is optional: a Term that knows why it ended. A wrapper of a Term that hides
// it leaves only [ErrLost]; let its Cause return [Cause] of the term behind it.
type Causer interface {
	// Cause is what the function [Cause] returns for this Term. It does no I/O, and
	// may be called at any time and from several goroutines.
	Cause() error
}

// Cause says why a term ended: ErrReleased, ErrSucceeded, ErrExpired, ErrLost or
// ErrInstanceIDNotUnique (which is an ErrLost), to be matched with errors.Is.
// It is nil while the term lives, and known for good once Lost is closed. For a
// Term that is no [Causer] and has ended it is ErrLost.
func Cause(t Term) error {
	if c, ok := t.(Causer); ok {
		return c.Cause()
	}
	select {
	case <-t.Lost():
		return ErrLost
	default:
		return nil
	}
}
