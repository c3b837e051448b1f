package stability

import (
	"context"
	"fmt"

	core "github.com/wastability/wastability/stability/internal/term"
)

// RestoreDevice makes the device that was deleted last the account's again:
// a logout sets it aside, and it can be restored until another is paired. Use
// it when the service or somebody logged out in error; if the service has
// really removed the device it says so at the next login. It needs the lock.
// Run then connects with the device; by hand, ask AuthState for it and make a
// new client. ErrAlreadyPaired while the account is paired;
// authstore.ErrNothingDeleted when there is nothing to restore.
func (m *Manager) RestoreDevice(ctx context.Context) error {
	t, err := m.require()
	if err != nil {
		return err
	}
	r, err := m.maintainer("restore the device")
	if err != nil {
		return err
	}
	err = m.waitFor(ctx, func() (bool, error) {
		switch {
		case m.term != t || t.core.Ending():
			return false, ErrNotActive
		case !t.core.Linked():
			return true, nil
		case t.core.Unpaired():
			return false, nil // its last connection is still being ended
		}
		return false, ErrAlreadyPaired
	})
	if err != nil {
		return err
	}
	select {
	case t.loading <- struct{}{}:
		defer func() { <-t.loading }()
	case <-ctx.Done():
		return fmt.Errorf("stability: restore the device: %w", context.Cause(ctx))
	}
	if err := r.Restore(ctx, fence{t}); err != nil {
		return fmt.Errorf("stability: restore the device: %w", err)
	}
	t.note(core.DeviceRestored{})
	return nil
}
