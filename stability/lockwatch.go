package stability

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/wastability/wastability/lock"
)

// watchedLock tells the Manager whether the lock's store answers. Standing by
// and renewing go on by themselves for as long as it takes, and without this
// nobody would learn that they do so in vain.
type watchedLock struct {
	lock.Store
	m *Manager
}

// watchedWatcher is watchedLock over a store that can watch.
type watchedWatcher struct {
	watchedLock
	w lock.Watcher
}

func (w watchedWatcher) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return w.w.Changes(ctx)
}

func watchLock(s lock.Store, m *Manager) lock.Store {
	l := watchedLock{s, m}
	if w := watcherOf(s); w != nil {
		return watchedWatcher{l, w}
	}
	return l
}

func (l watchedLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	began := time.Now()
	rec, granted, err := l.Store.Acquire(ctx, holder, nonce, lease)
	l.m.counts.of(StoreLock).note(began, err)
	l.m.noteLock(err)
	return rec, granted, err
}

func (l watchedLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	began := time.Now()
	rec, err := l.Store.Renew(ctx, held)
	l.m.counts.of(StoreLock).note(began, err)
	l.m.counts.renewed(err)
	l.m.noteLock(err)
	return rec, err
}

func (l watchedLock) Release(ctx context.Context, held lock.Record) error {
	began := time.Now()
	err := l.Store.Release(ctx, held)
	l.m.counts.of(StoreLock).note(began, err)
	return err
}

func (l watchedLock) Load(ctx context.Context) (lock.Record, error) {
	began := time.Now()
	rec, err := l.Store.Load(ctx)
	l.m.counts.of(StoreLock).note(began, err)
	return rec, err
}

// noteLock remembers whether the lock's store answers. One error is none: it
// is tried again within a second. Its answers end only an outage that it was
// the first to see.
func (m *Manager) noteLock(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.seat.at == shut:
	case err == nil, errors.Is(err, lock.ErrLost):
		m.outage.fails = 0
		if m.outage.byLock {
			m.noteStoreLocked(nil)
		}
	case errors.Is(err, context.Canceled):
	default:
		if m.outage.fails++; m.outage.fails >= 2 && m.outage.err == nil {
			m.noteStoreLocked(err)
			m.outage.byLock = true
		}
	}
}
