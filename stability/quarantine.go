package stability

import (
	"context"
	"errors"
	"fmt"

	"github.com/wastability/wastability/authstore"
)

// maintainer is the store, for one that can be looked after.
func (m *Manager) maintainer(op string) (authstore.Maintainer, error) {
	if s := m.can.maintainer; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("stability: %s: the store passed to WithAuthStore is no authstore.Maintainer: %w", op, errors.ErrUnsupported)
}

// Quarantine lists what the store has set aside and does not use: damaged rows,
// and the device that RestoreDevice would bring back. It reads the store, and
// needs the lock. errors.ErrUnsupported, here and below, with a store of
// WithAuthStore that cannot do it.
func (m *Manager) Quarantine(ctx context.Context) (authstore.Quarantine, error) {
	if _, err := m.require(); err != nil {
		return authstore.Quarantine{}, err
	}
	q, err := m.maintainer("list the quarantine")
	if err != nil {
		return authstore.Quarantine{}, err
	}
	out, err := q.Quarantined(ctx)
	if err != nil {
		return out, fmt.Errorf("stability: list the quarantine: %w", err)
	}
	return out, nil
}

// PurgeRows removes for good the damaged rows that were set aside. It needs
// the lock.
func (m *Manager) PurgeRows(ctx context.Context) error {
	t, err := m.require()
	if err != nil {
		return err
	}
	p, err := m.maintainer("purge damaged rows")
	if err != nil {
		return err
	}
	ctx, done := t.with(ctx)
	defer done()
	if err := p.PurgeRows(ctx, fence{t}); err != nil {
		return fmt.Errorf("stability: purge damaged rows: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.damage = damage{purged: t.hold.Epoch()}
	m.broadcastLocked()
	return nil
}

// PurgeDevice removes for good the deleted device that RestoreDevice would
// bring back. It needs the lock. authstore.ErrNothingDeleted when there is
// none; after another error it may be repeated, and RestoreDevice is no longer
// possible.
func (m *Manager) PurgeDevice(ctx context.Context) error {
	t, err := m.require()
	if err != nil {
		return err
	}
	p, err := m.maintainer("purge the deleted device")
	if err != nil {
		return err
	}
	ctx, done := t.with(ctx)
	defer done()
	if err := p.PurgeDevice(ctx, fence{t}); err != nil {
		return fmt.Errorf("stability: purge the deleted device: %w", err)
	}
	return nil
}

// Reseal rewrites the whole store as it would be written now, with the cipher
// that WithAEAD names. It is for a change of keys, and to turn sealing on or
// off (authstore.WithPlaintextAllowed, authstore.WithSealingRemoved through
// WithAuthStoreOptions). The client goes on meanwhile. It needs the lock, may
// be broken off and repeated; see authstore.Container.Reseal.
func (m *Manager) Reseal(ctx context.Context, progress func(done, total int)) error {
	t, err := m.require()
	if err != nil {
		return err
	}
	r, err := m.maintainer("reseal")
	if err != nil {
		return err
	}
	ctx, done := t.with(ctx)
	defer done()
	if err := r.Reseal(ctx, fence{t}, progress); err != nil {
		return fmt.Errorf("stability: reseal: %w", err)
	}
	return nil
}
