package authstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A commit whose answer never came may still land, and then on top of what was
// written after it. Within one Device that cannot happen: its commits are
// serial, and each is repeated until its outcome is known. But a Device can end
// with a commit under way, and the term go on. So each term's next writer first
// waits for what is still running, and applies again what ended without an
// answer: a batch applied twice is the same as once, and it is the newest.

type unsettledWrites struct {
	mu      sync.Mutex
	running map[int64]int           // by epoch
	lost    map[int64][]unknownDone // by epoch, in the order of the commits
	changed chan struct{}
}

// unknownDone is a batch that may or may not have been applied.
type unknownDone struct {
	op    string
	batch Batch
}

// begin notes a commit that starts now. done says that the KV has returned.
func (u *unsettledWrites) begin(epoch int64) (done func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running == nil {
		u.running = make(map[int64]int)
	}
	u.running[epoch]++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.running[epoch]--; u.running[epoch] == 0 {
			delete(u.running, epoch)
		}
		if u.changed != nil {
			close(u.changed)
			u.changed = nil
		}
	}
}

// giveUp notes a batch whose outcome its writer will not learn any more.
func (u *unsettledWrites) giveUp(epoch int64, w unknownDone) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lost == nil {
		u.lost = make(map[int64][]unknownDone)
	}
	u.lost[epoch] = append(u.lost[epoch], w)
}

// wait returns when no commit of epoch is under way.
func (u *unsettledWrites) wait(ctx context.Context, epoch int64) error {
	for {
		u.mu.Lock()
		if u.running[epoch] == 0 {
			u.mu.Unlock()
			return nil
		}
		if u.changed == nil {
			u.changed = make(chan struct{})
		}
		changed := u.changed
		u.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take gives what was given up in epoch. Of earlier ones nothing can land any
// more: the epoch fences it.
func (u *unsettledWrites) take(epoch int64) []unknownDone {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.lost[epoch]
	for e := range u.lost {
		if e <= epoch {
			delete(u.lost, e)
		}
	}
	return out
}

// settle makes sure that no earlier commit of f's term can land any more. The
// caller holds c.sem; a live device has nothing unsettled.
func (c *Container) settle(ctx context.Context, f Fence) error {
	const op = "settle an earlier write"
	c.mu.Lock()
	live := c.current != nil && c.current.gate.check(op) == nil
	c.mu.Unlock()
	if live {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.outagePatience)
	defer cancel()
	if err := c.cfg.writes.wait(ctx, f.Epoch()); err != nil {
		return fmt.Errorf("%w: a write of this term has not come back, and could land on what is written now: %w", ErrUnavailable, err)
	}
	lost := c.cfg.writes.take(f.Epoch())
	for i, w := range lost {
		err := newGate(c.kv, f, &c.cfg).commit(w.op, w.batch)
		if err == nil || permanent(err) && !errors.Is(err, ErrFenced) {
			continue
		}
		for _, left := range slices.Clone(lost[i+1:]) { // the gate has noted this one
			c.cfg.writes.giveUp(f.Epoch(), left)
		}
		return fmt.Errorf("authstore: %s: %w", op, err)
	}
	return nil
}

// gateFor is the one way to the KV for writes of the Container under f. It is
// that of the device, if that is of the same term, so that both end together.
func (c *Container) gateFor(f Fence) *gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.current; s != nil && s.gate.fence.Epoch() == f.Epoch() && s.gate.check("") == nil {
		return s.gate
	}
	return newGate(c.kv, f, &c.cfg)
}

// commitAll applies ws in order, in as many batches as it takes, each repeated
// until its outcome is known. ctx is looked at between batches. The caller holds
// c.sem, and commitSem of the present device.
func (c *Container) commitAll(ctx context.Context, f Fence, op string, ws []write) error {
	g := c.gateFor(f)
	for _, b := range chunk(c.kv.Limits(), ws) {
		if ctx.Err() != nil {
			return fmt.Errorf("authstore: %s: %w", op, context.Cause(ctx))
		}
		if !f.Held() {
			return fmt.Errorf("authstore: %s: the lock is not held: %w", op, ErrFenced)
		}
		if err := g.commit(op, toBatch(b)); err != nil {
			return err
		}
	}
	return nil
}

// holdCommits keeps the present device's commits back until release is called.
func (c *Container) holdCommits(ctx context.Context) (s *deviceStore, release func(), err error) {
	return c.hold(ctx, func(s *deviceStore) chan struct{} { return s.commitSem })
}

// holdSave keeps the present device from being saved or deleted until release
// is called. A device that is being paired waits with its last step.
func (c *Container) holdSave(ctx context.Context) (s *deviceStore, release func(), err error) {
	return c.hold(ctx, func(s *deviceStore) chan struct{} { return s.saveSem })
}

// hold takes a semaphore of the present device, if there is one.
func (c *Container) hold(ctx context.Context, semOf func(*deviceStore) chan struct{}) (s *deviceStore, release func(), err error) {
	c.mu.Lock()
	s = c.current
	c.mu.Unlock()
	if s == nil {
		return nil, func() {}, nil
	}
	sem := semOf(s)
	select {
	case sem <- struct{}{}:
		return s, func() { <-sem }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}
