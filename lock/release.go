package lock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// releasing is the store's side of the end of a term.
type releasing struct {
	done chan struct{} // closed when giveUp has returned
	err  error         // its outcome; read after done
}

// Release ends the term and gives the lock up: Held is false and Lost closed
// before the store is called, whatever comes of that. It waits for the store
// until ctx ends; the call goes on in the background then, for a bounded time
// that Lease.Close waits for. An error means that others may have to wait for
// the rest of the lease, nothing worse. Repeated calls give the same answer.
func (t *term) Release(ctx context.Context) error {
	t.end(ErrReleased)
	select {
	case <-t.release.done:
		return t.release.err
	default: // an outcome that is known counts even if ctx has ended
	}
	select {
	case <-t.release.done:
		return t.release.err
	case <-ctx.Done():
		return fmt.Errorf("lock: release: %w: it goes on in the background", ctx.Err())
	}
}

// Succeed implements Successor. The store grants a new term to the holder that
// has the lock, so the lock is never free. The new epoch fences the rest of t.
// t ends first: a renewal of it must not take the new epoch for another
// process's.
func (l *Lease) Succeed(ctx context.Context, old Term) (Term, error) {
	select {
	case l.acquiring <- struct{}{}:
		defer func() { <-l.acquiring }()
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("lock: succeed: %w", ctx.Err()), old.Release(ctx))
	}
	t, _ := old.(*term)
	if t == nil || t.l != l || !t.end(ErrSucceeded) {
		return nil, errors.Join(fmt.Errorf("lock: succeed: the term is over: %w", ErrLost), old.Release(ctx))
	}
	bounded, stop := l.untilClosing(ctx)
	defer stop()
	l.spawn(func() { l.watchClocks(bounded.Done(), nil) })
	next, err := l.acquireOnce(bounded)
	if next != nil {
		close(t.release.done) // there is nothing to release
		return next, nil
	}
	l.spawn(t.giveUp)
	if err == nil {
		err = fmt.Errorf("lock: succeed: %w", ErrLost)
	}
	return nil, errors.Join(err, t.Release(ctx))
}

// giveUp releases the term at the store. It repeats what fails within one call
// timeout, detached from any caller: the lock should be free for others even if
// nobody waits to hear so.
func (t *term) giveUp() {
	defer close(t.release.done)
	l := t.l
	ctx, cancel := context.WithTimeout(l.base, l.cfg.callTimeout)
	defer cancel()
	rec := t.Record()
	began := time.Now()
	pause := l.newBackoff()
	for {
		err := l.store.Release(ctx, rec)
		if err == nil {
			t.release.err = nil
			l.log.Debug("the lock was released", "epoch", t.epoch, "took", time.Since(began))
			return
		}
		t.release.err = fmt.Errorf("lock: release: %w", err)
		if permanent(err) || ctx.Err() != nil || !sleep(ctx, pause.NextBackOff()) {
			break
		}
	}
	l.log.Warn("the lock was not released, others wait for the lease to run out", "epoch", t.epoch, "error", t.release.err)
}
