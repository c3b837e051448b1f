package stability

import (
	"context"
	"fmt"

	"github.com/wastability/wastability/reconnect"
)

// RestoreDevice makes the device that was deleted last the account's again:
// a logout sets it aside, and it can be restored until another is paired. Use
// it when the service or somebody logged out in error; if the service has
// really removed the device it says so at the next login. It needs the lock.
// Run then connects with the device; by hand, ask AuthState for it and make a
// new client. ErrAlreadyPaired while there is a session;
// authstore.ErrNothingDeleted when there is nothing to restore.
func (m *Manager) RestoreDevice(ctx context.Context) error {
	s, err := m.require()
	if err != nil {
		return err
	}
	r, err := m.maintainer("restore the device")
	if err != nil {
		return err
	}
	err = m.waitFor(ctx, func() (bool, error) {
		switch {
		case m.session != s || s.ending:
			return false, ErrNotActive
		case !s.paired:
			return true, nil
		case s.machine.State().Status == reconnect.StatusNeedsPairing:
			return false, nil // its last connection is still being ended
		}
		return false, ErrAlreadyPaired
	})
	if err != nil {
		return err
	}
	select {
	case s.loading <- struct{}{}:
		defer func() { <-s.loading }()
	case <-ctx.Done():
		return fmt.Errorf("stability: restore the device: %w", context.Cause(ctx))
	}
	if err := r.Restore(ctx, fence{s}); err != nil {
		return fmt.Errorf("stability: restore the device: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.device, s.gone, s.deleted, s.read = nil, false, false, false
	s.parked, s.rounds = false, 0
	if s.slot != nil {
		s.slot.retireLocked() // the device it offered to pair is over
	}
	m.broadcastLocked()
	return nil
}
