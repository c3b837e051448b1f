package authstore

import (
	"context"
	"errors"
	"fmt"
)

// EndTerm writes what was deferred and ends the present device, as Device does
// with the one before it. Call it before the term's lock is released; after a
// term that was lost it ends the device all the same, and the error says what
// was not written. Without a device it does nothing. When ctx ends before another call
// of the Container does, the device is over all the same, but that call may load one.
// This is an error, too.
func (c *Container) EndTerm(ctx context.Context) error {
	c.mu.Lock()
	s := c.current
	c.mu.Unlock()
	err := c.endDevice(ctx, s) // first: work with the Container may need longer than the term lasts
	lockErr := c.lock(ctx)
	if lockErr == nil {
		defer func() { <-c.sem }()
	} else if s == nil {
		return lockErr
	}
	c.mu.Lock()
	now := c.current
	c.current = nil
	c.mu.Unlock()
	if now != s { // one that was being loaded
		err = errors.Join(err, c.endDevice(ctx, now))
	}
	if lockErr != nil {
		err = errors.Join(err, fmt.Errorf("authstore: end the term: another call of the Container is under way, and may load a device: %w", lockErr))
	}
	return err
}

// endDevice ends s, which may be nil, and keeps what was deferred if there is time.
func (c *Container) endDevice(ctx context.Context, s *deviceStore) error {
	if s == nil {
		return nil
	}
	done := make(chan error, 1)
	c.cfg.background.Add(1) // it may outlive ctx; Close waits for it
	go func() {
		defer c.cfg.background.Done()
		done <- s.retireAfterFlush(ErrSuperseded)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		s.retire(ErrSuperseded)
		return context.Cause(ctx)
	}
}
