package lock

import (
	"context"
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
			l.log.Debug("lock: released", "epoch", t.epoch, "took", time.Since(began))
			return
		}
		t.release.err = fmt.Errorf("lock: release: %w", err)
		if permanent(err) || ctx.Err() != nil || !sleep(ctx, pause.NextBackOff()) {
			break
		}
	}
	l.log.Warn("lock: release failed, others wait for the lease to run out", "epoch", t.epoch, "error", t.release.err)
}
