package lock

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Acquire waits for the lock and returns its term; while a term lives it
// returns that, without I/O. Errors of the store are logged, kept in Stats and
// waited out, except permanent ones (see Store). Otherwise it returns only
// when ctx ends or the Lease is closed, with an error that wraps ctx.Err() or
// is ErrClosed.
func (l *Lease) Acquire(ctx context.Context) (Term, error) {
	w := &wait{pause: l.newBackoff()}
	defer w.end()
	for {
		t, err := l.tryAcquire(ctx)
		if t != nil {
			return t, nil
		}
		if over := l.waitingEnded(ctx, err, w.last); over != nil {
			return nil, over
		}
		l.watch(w)
		l.standBy(ctx, w, l.pauseAfter(w, err))
	}
}

// wait is one wait for the lock.
type wait struct {
	pause *backoff.ExponentialBackOff
	last  error     // of the newest try
	began time.Time // when it began to stand by
	fixed bool      // for a time that is set: a change of the record ends it

	stop    context.CancelFunc // ends the subscription to the store's changes; nil before it begins
	wake    chan struct{}      // nil where the store cannot watch
	changed atomic.Bool        // something changed that only a look can tell
}

func (w *wait) end() {
	if w.stop != nil {
		w.stop()
	}
}

// waitingEnded is the error of a wait for the lock that is over with the error of its
// newest try, behind the one before it; nil when it goes on.
func (l *Lease) waitingEnded(ctx context.Context, err, last error) error {
	switch {
	case l.closing.Err() != nil:
		return ErrClosed
	case permanent(err):
		return err
	case ctx.Err() == nil:
		return nil
	case last != nil:
		return fmt.Errorf("lock: waiting for the lock: %w (last error: %w)", ctx.Err(), last)
	}
	return fmt.Errorf("lock: waiting for the lock: %w", ctx.Err())
}

// pauseAfter is how long to stand by after a try: 0, until the record says so,
// unless it has failed.
func (l *Lease) pauseAfter(w *wait, err error) time.Duration {
	w.last = err
	if err == nil {
		w.pause.Reset()
		return 0
	}
	l.log.Warn("the lock was not acquired, trying again", "error", err)
	return w.pause.NextBackOff()
}

// standBy returns when another try is worthwhile, or nothing more is to come: after the
// given pause or, if that is 0, when the record as last seen says so.
func (l *Lease) standBy(ctx context.Context, w *wait, pause time.Duration) {
	w.began, w.fixed = time.Now(), pause > 0
	if !w.fixed {
		pause = l.nextLook(w.began)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.closing.Done():
			return
		case <-timer.C:
			return
		case <-w.wake:
			next, more := l.lookAgain(w)
			if !more {
				return
			}
			timer.Reset(next)
		}
	}
}

// lookAgain says how much longer to stand by when the store has told of a change:
// the holder is alive, and the time counts from its new record. A poll that was due
// stays due, or a busy watch could postpone it for ever. more is false when another
// try is worthwhile now.
func (l *Lease) lookAgain(w *wait) (next time.Duration, more bool) {
	now := time.Now()
	l.mu.Lock()
	free := l.seen.leaseLeft(now, l.cfg.lease) <= 0
	l.mu.Unlock()
	if w.changed.Swap(false) || free || w.fixed {
		return 0, false
	}
	return max(0, min(l.nextLook(now), w.began.Add(l.cfg.poll).Sub(now))), true
}

// nextLook is how long to wait before asking the store again.
func (l *Lease) nextLook(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.seen.changed || now.Sub(l.seen.at) > l.cfg.lease/2 {
		return l.cfg.fastPoll // not seen alive lately: it may be gone
	}
	if left := l.seen.leaseLeft(now, l.cfg.lease); left > 0 {
		return min(l.cfg.poll, left)
	}
	return l.cfg.fastPoll
}

// watch subscribes a wait to the store's changes, once, until it ends or the Lease
// is closed.
func (l *Lease) watch(w *wait) {
	if l.watcher == nil || w.stop != nil {
		return
	}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(l.closing)
	w.wake = make(chan struct{}, 1)
	l.spawn(func() {
		pause := l.newBackoff()
		for {
			for rec, err := range l.watcher.Changes(ctx) {
				if err != nil {
					l.log.Debug("the lock is not watched, polling meanwhile", "error", err)
					continue
				}
				pause.Reset()
				if rec == (Record{}) {
					w.changed.Store(true)
				} else {
					l.observe(rec)
				}
				select {
				case w.wake <- struct{}{}:
				default:
				}
			}
			if !sleep(ctx, pause.NextBackOff()) {
				return
			}
		}
	})
}
