package lock

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Acquire waits for the lock and returns its term; while a term lives it
// returns that, without I/O. Errors of the store are logged, kept in Stats and
// waited out, except permanent ones (see Store); otherwise it returns only when
// ctx ends or the Lease is closed, with an error that wraps ctx.Err() or is
// ErrClosed.
func (l *Lease) Acquire(ctx context.Context) (Term, error) {
	wait, stop := l.untilClosing(ctx)
	defer stop()
	var w *watch
	pause := l.newBackoff()
	var lastErr error
	for {
		t, err := l.tryAcquire(wait)
		switch {
		case t != nil:
			return t, nil
		case l.closing.Err() != nil:
			return nil, ErrClosed
		case permanent(err):
			return nil, err
		case ctx.Err() != nil:
			if lastErr != nil {
				return nil, fmt.Errorf("lock: waiting for the lock: %w (last error: %w)", ctx.Err(), lastErr)
			}
			return nil, fmt.Errorf("lock: waiting for the lock: %w", ctx.Err())
		}
		if w == nil {
			w = l.watch(wait)
		}
		lastErr = err
		if err != nil {
			l.log.Warn("the lock was not acquired, trying again", "error", err)
			l.standBy(wait, w, pause.NextBackOff())
			continue
		}
		pause.Reset()
		l.standBy(wait, w, 0)
	}
}

// standBy returns when another try is worthwhile, or ctx has ended: after the
// given pause or, if that is 0, when the record as last seen says so.
func (l *Lease) standBy(ctx context.Context, w *watch, pause time.Duration) {
	began := time.Now()
	fixed := pause > 0
	if !fixed {
		pause = l.nextLook(began)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-w.wake:
			l.mu.Lock()
			free := l.seen.leaseLeft(time.Now(), l.cfg.lease) <= 0
			l.mu.Unlock()
			if w.changed.Swap(false) || free || fixed {
				return
			}
			// The holder is alive; count from its new record. A poll that was
			// due stays due, or a busy watch could postpone it for ever.
			now := time.Now()
			timer.Reset(max(0, min(l.nextLook(now), began.Add(l.cfg.poll).Sub(now))))
		}
	}
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

// watch is a running subscription to the store's changes.
type watch struct {
	wake    chan struct{} // nil where the store cannot watch
	changed atomic.Bool   // something changed that only a look can tell
}

// watch subscribes until ctx ends.
func (l *Lease) watch(ctx context.Context) *watch {
	w := &watch{}
	if l.watcher == nil {
		return w
	}
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
	return w
}
