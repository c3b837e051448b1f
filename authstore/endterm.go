package authstore

import (
	"context"
	"errors"
)

// EndTerm writes what was deferred and ends the present device, as Device does
// with the one before it. Call it before the term's lock is released; after a
// term that was lost it ends the device all the same, and the error says what
// was not written. Without a device it does nothing.
func (c *Container) EndTerm(ctx context.Context) error {
	c.mu.Lock()
	s := c.current
	c.mu.Unlock()
	err := c.endDevice(ctx, s) // first: who is at work with the Container may need longer than the term lasts
	if lockErr := c.lock(ctx); lockErr == nil {
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
