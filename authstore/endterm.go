package authstore

import "context"

// EndTerm writes what was deferred and ends the present device, as Device does
// with the one before it. Call it before the term's lock is released; after a
// term that was lost it ends the device all the same, and the error says what
// was not written. Without a device it does nothing.
func (c *Container) EndTerm(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer func() { <-c.sem }()
	c.mu.Lock()
	s := c.current
	c.current = nil
	c.mu.Unlock()
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
