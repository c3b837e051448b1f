package lock

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// trust is one confirmation by the store: immutable, swapped as a whole.
type trust struct {
	sent  instant   // when the request was sent
	until time.Time // end of the window; once ended, not after the end
	ended bool
}

// term implements Term.
type term struct {
	l     *Lease
	epoch int64
	trust atomic.Pointer[trust]
	nudge chan struct{} // asks for a renewal now
	lost  chan struct{}

	ctx    context.Context // of the renewals
	cancel context.CancelFunc

	mu     sync.Mutex // never held across I/O
	rec    Record
	cause  error
	expiry *time.Timer

	release releasing
}

var (
	_ Term   = (*term)(nil)
	_ Causer = (*term)(nil)
)

// newTerm makes a term that was confirmed by a request sent at that time.
func newTerm(l *Lease, sent instant, rec Record) *term {
	t := &term{
		l: l, epoch: rec.Epoch, rec: rec,
		nudge: make(chan struct{}, 1),
		lost:  make(chan struct{}),
	}
	t.release.done = make(chan struct{})
	t.ctx, t.cancel = context.WithCancel(l.base)
	t.trust.Store(&trust{sent: sent, until: l.trustEnd(sent.Time, rec)})
	return t
}

// start begins to renew and to watch the end of the window.
func (t *term) start() {
	t.mu.Lock()
	if !t.trust.Load().ended { // Close may have come first
		t.expiry = time.AfterFunc(time.Until(t.trust.Load().until), func() { t.endIfExpired() })
	}
	t.mu.Unlock()
	t.l.spawn(t.renewLoop)
	t.l.spawn(func() {
		t.l.watchClocks(t.ctx.Done(), func(now instant) {
			if t.paused(now) {
				t.renewNow()
			}
		})
	})
}

func (t *term) Epoch() int64          { return t.epoch }
func (t *term) Lost() <-chan struct{} { return t.lost }

// TrustedUntil is the time until which this term is trusted, as known now. After
// the end of the term that time is not in the future.
func (t *term) TrustedUntil() time.Time { return t.trust.Load().until }

func (t *term) Record() Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

// Cause implements Causer.
func (t *term) Cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cause
}

// Held is on hot paths, such as each write to a socket: it reads the clock
// once, takes no lock and allocates nothing.
func (t *term) Held() bool {
	tr := t.trust.Load()
	now := time.Now()
	if tr.ended || !now.Before(tr.until) {
		return false
	}
	if t.l.clocks.ahead(now)-tr.sent.ahead > int64(t.l.cfg.margin) {
		t.l.clocks.now() // on record: a step back does not undo it
		t.renewNow()
		return false
	}
	return true
}

// paused reports whether the wall clock has run ahead since the request was
// sent that the term was last confirmed by.
func (t *term) paused(now instant) bool {
	return now.ahead-t.trust.Load().sent.ahead > int64(t.l.cfg.margin)
}

func (t *term) renewNow() {
	select {
	case t.nudge <- struct{}{}:
	default:
	}
}

// endIfExpired ends the term if its window is over and reports whether the term
// has ended.
func (t *term) endIfExpired() bool {
	t.mu.Lock()
	tr := t.trust.Load()
	if tr.ended {
		t.mu.Unlock()
		return true
	}
	if left := time.Until(tr.until); left > 0 {
		if t.expiry != nil {
			t.expiry.Reset(left)
		}
		t.mu.Unlock()
		return false
	}
	t.finish(expired(t.l))
	return true
}

func expired(l *Lease) error {
	if err := l.lastError(); err != nil {
		return fmt.Errorf("%w (last error: %w)", ErrExpired, err)
	}
	return ErrExpired
}

// end ends the term: trust first, then everything else. Only the first call
// counts; it reports whether this was it.
func (t *term) end(cause error) bool {
	t.mu.Lock()
	if t.cause != nil {
		t.mu.Unlock()
		return false
	}
	t.distrust()
	t.finish(cause)
	return true
}

// distrust makes Held false for good. The caller holds mu.
func (t *term) distrust() {
	tr := *t.trust.Load()
	if tr.ended {
		return
	}
	tr.ended = true
	if now := time.Now(); now.Before(tr.until) {
		tr.until = now
	}
	t.trust.Store(&tr)
	if t.expiry != nil {
		t.expiry.Stop()
	}
}

// finish completes the end of the term; the caller holds mu, which it unlocks.
func (t *term) finish(cause error) {
	t.distrust()
	t.cause = cause
	t.cancel()
	close(t.lost)
	t.mu.Unlock()
	t.l.log.Info("term ended", "epoch", t.epoch, "cause", cause)
	if cause != ErrSucceeded {
		t.l.spawn(t.giveUp)
	}
}

// confirm extends trust by a renewal that was sent at that time. It reports
// whether the term still lives.
func (t *term) confirm(sent instant, rec Record) bool {
	next := &trust{sent: sent, until: t.l.trustEnd(sent.Time, rec)}
	t.mu.Lock()
	tr := t.trust.Load()
	if tr.ended {
		t.mu.Unlock()
		return false
	}
	if !time.Now().Before(tr.until) {
		// The reply came after the window: Held has answered no meanwhile.
		t.finish(expired(t.l))
		return false
	}
	t.rec = rec
	t.trust.Store(next)
	if t.expiry != nil {
		t.expiry.Reset(time.Until(next.until))
	}
	t.mu.Unlock()
	return true
}
