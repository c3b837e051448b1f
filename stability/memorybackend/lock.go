package memorybackend

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/wastability/wastability/lock"
)

// term is the lock's record and what else is known of it. RenewedAt has a
// monotonic reading: it decides about expiry and is stripped for the outside.
type term struct {
	lock.Record
	nonce string // of the attempt that began the term; stays after its end
}

func (t term) free(now time.Time) bool {
	return t.Holder == "" || now.Sub(t.RenewedAt) >= t.Lease
}

func (t term) record() lock.Record {
	r := t.Record
	r.AcquiredAt, r.RenewedAt, r.LeaseUntil = wall(r.AcquiredAt), wall(r.RenewedAt), wall(r.LeaseUntil)
	return r
}

func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// lockStore implements lock.Store and lock.Watcher.
type lockStore struct{ i *instance }

var (
	_ lock.Store   = lockStore{}
	_ lock.Watcher = lockStore{}
)

// set replaces the term and wakes who watches. m.mu is held.
func (m *Memory) set(t term) {
	m.term = t
	close(m.changed)
	m.changed = make(chan struct{})
}

func (s lockStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	if err := s.i.enter(ctx, "acquire"); err != nil {
		return lock.Record{}, false, err
	}
	if holder == "" || nonce == "" || lease <= 0 {
		return lock.Record{}, false, fmt.Errorf("memorybackend: acquire: holder %q, nonce %q, lease %v: "+
			"a term needs a holder, a nonce and a lease above zero", holder, nonce, lease)
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	t := m.term
	switch {
	case t.nonce == nonce:
		// This attempt was decided before. It stays the same term, counted
		// from now: nobody else was granted one in between.
		if t.Holder != holder {
			return t.record(), false, nil
		}
	case t.free(now) || t.Holder == holder:
		t = term{Record: lock.Record{Holder: holder, Epoch: t.Epoch + 1, AcquiredAt: now}, nonce: nonce}
	default:
		return t.record(), false, nil
	}
	t.Lease, t.RenewedAt, t.LeaseUntil = lease, now, now.Add(lease)
	m.set(t)
	return t.record(), true, nil
}

func (s lockStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	if err := s.i.enter(ctx, "renew"); err != nil {
		return lock.Record{}, err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.term
	if t.Holder == "" || t.Epoch != held.Epoch {
		return t.record(), fmt.Errorf("memorybackend: renew epoch %d, the newest is %d of %q: %w", held.Epoch, t.Epoch, t.Holder, lock.ErrLost)
	}
	// Expired and taken by nobody: still ours.
	if held.Lease > 0 {
		t.Lease = held.Lease
	}
	now := time.Now()
	t.RenewedAt, t.LeaseUntil = now, now.Add(t.Lease)
	m.set(t)
	return t.record(), nil
}

func (s lockStore) Release(ctx context.Context, held lock.Record) error {
	if err := s.i.enter(ctx, "release"); err != nil {
		return err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.term
	if t.Holder == "" || t.Epoch != held.Epoch {
		return nil
	}
	t.Holder = ""
	m.set(t)
	return nil
}

func (s lockStore) Load(ctx context.Context) (lock.Record, error) {
	if err := s.i.enter(ctx, "load the lock"); err != nil {
		return lock.Record{}, err
	}
	m := s.i.m
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.term.record(), nil
}

// Changes yields the record at once, after every change, and when its lease
// has expired. It ends when ctx does, without an error, or with ErrClosed.
func (s lockStore) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		for {
			if err := s.i.enter(ctx, "watch the lock"); errors.Is(err, ErrClosed) {
				yield(lock.Record{}, err)
				return
			} else if err != nil {
				return
			}
			expires, changed, more := s.show(yield)
			if !more || !s.wait(ctx, expires, changed) {
				return
			}
		}
	}
}

// show yields the record as it is, and says when it expires, if it does, and what
// is closed when it changes.
func (s lockStore) show(yield func(lock.Record, error) bool) (expires time.Time, changed <-chan struct{}, more bool) {
	s.i.m.mu.Lock()
	t, changed := s.i.m.term, s.i.m.changed
	s.i.m.mu.Unlock()
	if !t.free(time.Now()) {
		expires = t.RenewedAt.Add(t.Lease)
	}
	return expires, changed, yield(t.record(), nil)
}

// wait returns true when the record changed, expired, or this instance closed.
func (s lockStore) wait(ctx context.Context, expires time.Time, changed <-chan struct{}) bool {
	var expired <-chan time.Time
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-expired:
	case <-s.i.closed:
	}
	return true
}
