package authstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// gate stands between one Device and the KV. It gives every call a deadline,
// waits through an outage, and ends the term when the outage lasts: Cut first,
// then every method fails in the one way that leaves messages with the server.
type gate struct {
	kv    KV
	fence Fence
	cfg   *config

	ended atomic.Pointer[endCause]
	once  sync.Once
	over  chan struct{} // closed when ended is set
}

type endCause struct{ err error }

func newGate(kv KV, f Fence, cfg *config) *gate {
	return &gate{kv: kv, fence: f, cfg: cfg, over: make(chan struct{})}
}

// end makes every later call fail with cause. The first cause stays.
func (g *gate) end(cause error) { g.finish(cause, func(error) {}) }

// cut ends the term as well: nothing more goes out on the socket when it
// returns, and only then do calls begin to fail.
func (g *gate) cut(cause error) { g.finish(cause, g.fence.Cut) }

func (g *gate) finish(cause error, first func(error)) {
	g.once.Do(func() {
		first(cause)
		g.ended.Store(&endCause{cause})
		close(g.over)
	})
}

// check fails once the device is over.
func (g *gate) check(op string) error {
	if c := g.ended.Load(); c != nil {
		return &overError{op: op, cause: c.err}
	}
	return nil
}

// commit applies b, repeating it until its outcome is known. If it stays
// unknown, since the gate ends first, the term's next writer settles it.
func (g *gate) commit(op string, b Batch) error {
	epoch := g.fence.Epoch()
	// Also between two attempts, until it is given up: the next writer would
	// otherwise not wait for it, and repeat it on top of its own.
	defer g.cfg.writes.begin(epoch)()
	var unknown atomic.Bool
	err := g.run(op, true, func(ctx context.Context) error {
		done := g.cfg.writes.begin(epoch)
		defer done()
		if err := g.check(op); err != nil {
			return err // ended in the meantime: its successor may be writing already
		}
		unknown.Store(true)
		err := g.kv.Commit(ctx, epoch, b)
		if err == nil || permanent(err) {
			unknown.Store(false)
		}
		return err
	})
	if err != nil && unknown.Load() {
		g.cfg.writes.giveUp(epoch, unknownDone{op, b})
	}
	return err
}

// run calls f until it succeeds, fails for good, or the term must be given up.
// A write is never started while an earlier attempt of it is still running: a
// KV that ignores its context could land it after something newer.
func (g *gate) run(op string, write bool, f func(context.Context) error) error {
	var (
		began   = time.Now()
		trouble time.Time // when it began; zero while all is well
		lastErr error
		policy  = pauses()
	)
	for {
		if err := g.check(op); err != nil {
			return err
		}
		now := time.Now()
		if write && !g.fence.Held() {
			lastErr = fmt.Errorf("the lock is not held: %w", ErrFenced)
			if !now.Before(g.fence.TrustedUntil()) {
				g.cut(lastErr)
				continue
			}
		} else {
			err, returned := g.attempt(op, write, trouble, f)
			if err == nil {
				return nil
			}
			if !returned { // hung until the end of our patience
				g.cut(fmt.Errorf("%w: %s: no answer: %w", ErrUnavailable, op, err))
				continue
			}
			if errors.Is(err, ErrFenced) {
				g.cut(fmt.Errorf("authstore: %s: %w", op, err))
				continue
			}
			if permanent(err) {
				return fmt.Errorf("authstore: %s: %w", op, err)
			}
			lastErr = err
		}
		if trouble.IsZero() {
			trouble = now
		}
		wait := policy.NextBackOff()
		if left := time.Until(g.patience(trouble)); left <= 0 {
			g.cut(fmt.Errorf("%w: %s: gave up after %s: %w", ErrUnavailable, op, time.Since(began).Round(time.Millisecond), lastErr))
			continue
		} else if wait > left {
			wait = left
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-g.over:
			t.Stop()
		}
	}
}

// pauses are those between the repetitions of a call.
func pauses() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(20*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0))
}

// look is one call that reads a whole table, which takes as long as the table is
// large. It ends with the device, and it never ends the term: if the store is down,
// what is written meanwhile finds out.
func (g *gate) look(ctx context.Context, op string, f func(context.Context) error) error {
	err := g.cfg.within(ctx, g.cfg.lookTimeout, g.over, op, f)
	if err := g.check(op); err != nil {
		return err
	}
	return err
}

// errLookTooLong is of a look that had all the time that one may have.
var errLookTooLong = errors.New("authstore: the table could not be read in time")

// lookAgain is look for somebody who waits for the answer: it waits through an
// outage, and then fails.
func (g *gate) lookAgain(ctx context.Context, op string, f func(context.Context) error) error {
	var trouble time.Time // when it began; zero while all is well
	for policy := pauses(); ; {
		began := time.Now()
		err := g.look(ctx, op, f)
		now := time.Now()
		if err != nil && now.Sub(began) >= g.cfg.lookTimeout {
			return fmt.Errorf("%w: %w", errLookTooLong, err)
		}
		if err == nil || permanent(err) || g.check(op) != nil || ctx.Err() != nil {
			return err
		}
		if trouble.IsZero() {
			trouble = now
		}
		wait := policy.NextBackOff()
		if !now.Add(wait).Before(g.patience(trouble)) {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-g.over:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// patience is when an outage that began then ends the term. It may move, since
// the lock is renewed meanwhile.
func (g *gate) patience(began time.Time) time.Time {
	end := began.Add(g.cfg.outagePatience)
	if trust := g.fence.TrustedUntil(); trust.Before(end) {
		end = trust
	}
	return end
}

// attempt makes one call under its own deadline. returned is false when the
// call has not come back although its context is over and patience too.
func (g *gate) attempt(op string, write bool, trouble time.Time, f func(context.Context) error) (err error, returned bool) {
	if trouble.IsZero() {
		trouble = time.Now()
	}
	within := min(g.cfg.callTimeout, max(time.Until(trouble.Add(g.cfg.outagePatience)), time.Second))
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	done := make(chan error, 1)
	g.cfg.background.Add(1)
	go func() {
		defer g.cfg.background.Done()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		return err, true
	case <-g.over: // nobody waits for it any more; the next writer settles its outcome
		cancel()
	case <-ctx.Done():
	}
	timeout := fmt.Errorf("%s: no answer for %s: %w", op, within, context.DeadlineExceeded)
	// The context is over. A read that takes no notice may be repeated beside
	// itself, after a moment; a write is waited for.
	grace := time.Now().Add(time.Second)
	for {
		limit := g.patience(trouble)
		if !write {
			limit = earlier(limit, grace)
		}
		t := time.NewTimer(max(time.Until(limit), 0))
		select {
		case err := <-done:
			t.Stop()
			return err, true
		case <-g.over:
			t.Stop()
			return timeout, true
		case <-t.C:
			if !write {
				return timeout, true
			}
			if !time.Now().Before(g.patience(trouble)) {
				return timeout, false
			}
		}
	}
}

// call is one attempt outside any term, for loading and for what the Container
// does itself: an error is an error.
func (c *config) call(ctx context.Context, op string, f func(context.Context) error) error {
	return c.within(ctx, c.callTimeout, nil, op, f)
}

// load is call for the tables that are read with a device. Nobody knows how large
// they are: when one has had no time, the next load gives it twice as much.
func (c *config) load(ctx context.Context, op string, f func(context.Context) error) error {
	limit := max(time.Duration(c.loadTime.Load()), c.callTimeout)
	began := time.Now()
	err := c.within(ctx, limit, nil, op, f)
	took := time.Since(began)
	// The caller's own time may be as short as ours, and has begun a little earlier.
	if err != nil && (took >= limit || took >= limit*9/10 && errors.Is(ctx.Err(), context.DeadlineExceeded)) {
		c.loadTime.Store(int64(min(2*limit, max(c.lookTimeout, limit))))
	}
	return err
}

// within is one attempt that ends after limit, and when over is closed.
func (c *config) within(ctx context.Context, limit time.Duration, over <-chan struct{}, op string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	c.background.Add(1)
	go func() {
		defer c.background.Done()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("authstore: %s: %w", op, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("authstore: %s: no answer: %w", op, context.Cause(ctx))
	case <-over:
		return &overError{op: op, cause: ErrSuperseded}
	}
}
