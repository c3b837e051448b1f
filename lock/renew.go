package lock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// renewLoop renews the term until it ends.
func (t *term) renewLoop() {
	l := t.l
	timer := time.NewTimer(time.Until(t.trust.Load().sent.Add(l.cfg.refresh)))
	defer timer.Stop()
	pause := l.newBackoff()
	failing := false
	for {
		nudge := t.nudge
		if failing { // repeats have their own pace
			nudge = nil
		}
		select {
		case <-t.ctx.Done():
			return
		case <-timer.C:
		case <-nudge:
			if !t.paused(l.clocks.now()) {
				continue // confirmed meanwhile
			}
			l.log.Warn("the machine was suspended or its wall clock set forward: the lock is not trusted until a renewal confirms it", "epoch", t.epoch)
		}
		sent := l.clocks.now()
		held := t.Record()
		rec, err := l.callRenew(t.ctx, held)
		if err == nil && rec.Epoch != held.Epoch {
			err = fmt.Errorf("%w: the store renewed epoch %d as epoch %d", ErrLost, held.Epoch, rec.Epoch)
		}
		switch {
		case err == nil:
			if !t.confirm(sent, rec) {
				return
			}
			failing = false
			pause.Reset()
			l.observe(rec)
			l.renewed(sent.Time)
			timer.Reset(time.Until(sent.Add(l.cfg.refresh)))
		case errors.Is(err, ErrLost), errors.Is(err, ErrFenced):
			t.lose(rec, err)
			return
		case t.ctx.Err() != nil:
			return
		default:
			failing = true
			l.noteError(fmt.Errorf("lock: renew: %w", err))
			delay := pause.NextBackOff()
			l.log.Warn("the lock was not renewed, trying again", "epoch", t.epoch, "error", err,
				"delay", delay, "trusted_for", time.Until(t.TrustedUntil()))
			timer.Reset(delay)
		}
	}
}

// lose ends a term that the store says is over; now is the record it found, if
// it said so. Trust ends first: finding out to whom it was lost may take a
// moment.
func (t *term) lose(now Record, err error) {
	t.mu.Lock()
	if t.cause != nil {
		// It was over before, and the newer epoch may be our own.
		t.mu.Unlock()
		return
	}
	t.distrust()
	t.mu.Unlock()
	l := t.l
	if now.Epoch == 0 {
		ctx, cancel := context.WithTimeout(t.ctx, min(time.Second, l.cfg.callTimeout))
		now, _ = l.load(ctx)
		cancel()
	} else {
		l.observe(now)
	}
	l.noteError(err)
	cause := ErrLost
	if now.Holder == l.holder && now.Epoch > t.epoch && l.contest() {
		cause = ErrInstanceIDNotUnique
		l.log.Error("another process uses this holder id: give each instance its own", "epoch", now.Epoch)
	}
	t.end(cause)
}

// contest notes that another process has our holder id. It reports false if
// the newer epoch may as well be due to a request of our own that arrived
// late: that epoch is nobody's, and can be taken over.
func (l *Lease) contest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.unclearAt.IsZero() && time.Since(l.unclearAt) < 2*l.cfg.lease {
		return false
	}
	l.contested = true
	return true
}
