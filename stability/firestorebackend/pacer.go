package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// lane is a part of the backend that backs off by itself: a quota that is used
// up by messages must not keep the lock from being renewed.
type lane int

const (
	laneLock lane = iota
	laneAuth
	laneState
	laneIncidents
	numLanes
)

// pace is a lane's pacers. Reads may succeed while no write does, so a read
// that succeeds says nothing about the pause between writes.
type pace struct{ reads, writes pacer }

// pacer holds requests back after errors, for a pause that doubles. One success
// ends it.
type pacer struct {
	mu    sync.Mutex
	class error // nil: all is well
	text  string
	since time.Time     // of the first error
	noted time.Time     // the time of the last
	until time.Time     // no request before
	pause time.Duration // the last one
	over  chan struct{} // closed by a success
}

const (
	firstPause = time.Second      // after a refusal
	maxPause   = 10 * time.Second // well within authstore's patience of 30 s: a pause must not outlast it
	lockPause  = 5 * time.Second  // a lease must not run out for a pause

	// An outage is a matter of moments as a rule: a call that waits is served
	// soon after. Once it has lasted for longOutage, leases and patience are gone
	// anyway, and every pause grows to maxPause.
	firstOutagePause = 100 * time.Millisecond
	outagePause      = 2 * time.Second
	longOutage       = time.Minute
)

// errPaused reports that nothing was asked.
var errPaused = errors.New("not asked")

// pass returns when a request may be made. A pause of an outage that ends by the
// given time is waited out; any other is an error at once. Of those who wait for
// the end of a pause one goes first, and the others wait for what becomes of it.
func (p *pacer) pass(ctx context.Context, by time.Time, first bool) error {
	for {
		p.mu.Lock()
		if p.class == nil || !time.Now().Before(p.until) {
			if p.class != nil && first {
				p.until = time.Now().Add(p.pause)
			}
			p.mu.Unlock()
			return nil
		}
		class, text, until, over := p.class, p.text, p.until, p.over
		p.mu.Unlock()
		if until.After(by) || class != ErrUnavailable {
			return fmt.Errorf("%w again for %s: %w: %s", errPaused, time.Until(until).Round(time.Millisecond), class, text)
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-timer.C:
		case <-over:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// note takes what became of a request that began at the given time.
func (p *pacer) note(l lane, err error, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	class := error(nil)
	for _, c := range []error{ErrQuota, ErrPermission, ErrDatabaseNotFound, ErrUnavailable} {
		if errors.Is(err, c) {
			class = c
			break
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrClosed):
		return // the caller's doing
	case class == nil: // an answer, if perhaps a refusal of what was asked
		if p.class != nil {
			close(p.over)
		}
		p.class, p.pause, p.over = nil, 0, nil
		return
	case p.class == nil:
		p.since, p.over = time.Now(), make(chan struct{})
	case !began.After(p.noted):
		return // it was under way when the pause began: the same error
	}
	least, most := firstPause, maxPause
	long := time.Since(p.since) >= longOutage
	switch {
	case class == ErrUnavailable && !long:
		least, most = firstOutagePause, outagePause
	case class == ErrUnavailable:
		least = firstOutagePause
	case l == laneLock && !long:
		most = lockPause
	}
	p.pause = min(max(2*p.pause, least), most)
	p.class, p.text, p.noted = class, err.Error(), time.Now()
	p.until = p.noted.Add(p.pause)
}
