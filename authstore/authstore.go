package authstore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Store is what stability.Manager needs; *Container implements it. One of your
// own, or a wrapper, should be a MessageBook, an EventLeftovers, a Maintainer, a
// Retainer and an OutgoingCounter too: a wrapper that embeds this interface hides
// all five. Each is optional, and says what it is for. Without a MessageBook
// received messages that wait here or were set aside are lost at a restart.
// authstoretest.StoreIsComplete tells a test what is lacking, and a warning in the
// log of stability.New the host. (SentKeeper is of the Device, not of the Store.)
type Store interface {
	store.DeviceContainer
	// Device is the account's paired device, or a new unpaired one. It
	// belongs to f's term and is never used in another. A read error is an
	// error, never a new device.
	Device(ctx context.Context, f Fence) (*store.Device, error)
	// Info says what is known without I/O, or reads if nothing is known yet.
	Info(ctx context.Context) (Info, error)
	// SetDeleteReason says why the next deletion happens.
	SetDeleteReason(reason string)
	// EndTerm writes what was deferred and ends the present device, whose term
	// is over, without a next one.
	EndTerm(ctx context.Context) error
	// Close flushes what was deferred and ends the device.
	Close(ctx context.Context) error
}

// Maintainer is a Store whose content can be looked after. Quarantine,
// RestoreDevice, PurgeDevice, PurgeRows and Reseal of stability.Manager call
// it. If the store is not a Maintainer, they return errors.ErrUnsupported.
// *Container implements it, and says what each method does.
type Maintainer interface {
	Quarantined(ctx context.Context) (Quarantine, error)
	Restore(ctx context.Context, f Fence) error
	PurgeDevice(ctx context.Context, f Fence) error
	PurgeRows(ctx context.Context, f Fence) error
	Reseal(ctx context.Context, f Fence, progress func(done, total int)) error
}

// Info describes what a Container holds.
type Info struct {
	Exists   bool      // there is a paired device
	JID      types.JID // of the paired device, or of the deleted one
	KeyCount int       // entries in memory; -1 before Device was called
	// Counts are the entries by kind. In memory, where there are any: "session",
	// "lid" (contacts), "token", "seen", "event" and others. An event is a
	// message that no handler has finished, or whose end a killed process did not
	// note. In the KV, roughly, once they were counted: "secret", "senderkey" and
	// "outgoing" (sent messages). Nil before Device was called.
	Counts      map[Kind]int
	LastWriteAt time.Time // of this process; zero before the first
	Deleted     bool      // there is a deleted device that can be restored
	DeletedAt   time.Time
	Reason      string // why it was deleted, if that was told
}

// Container keeps one account's device and all its Signal state in a KV. It is
// safe for concurrent use.
type Container struct {
	kv  KV
	cfg config

	sem  chan struct{} // held while the current device changes
	over chan struct{} // closed with the Container

	mu      sync.Mutex
	current *deviceStore
	reason  string
	closed  bool
}

var (
	_ Store      = (*Container)(nil)
	_ Maintainer = (*Container)(nil)
)

// New makes a Container over kv. Nothing is read before Device or Info. With an
// option that is not valid the Container reads and writes nothing at all: each call
// that needs kv returns the error of Validate, which matches ErrOptions.
func New(kv KV, opts ...Option) *Container {
	c := &Container{kv: kv, sem: make(chan struct{}, 1), over: make(chan struct{})}
	c.cfg.callTimeout = 10 * time.Second
	c.cfg.lookTimeout = 10 * time.Minute
	c.cfg.outagePatience = 30 * time.Second
	c.cfg.windowWait = 3 * time.Second
	c.cfg.senderKeyCache = defaultSenderKeyCache
	c.cfg.retention = Retention{}.withDefaults()
	c.cfg.log = slog.New(slog.DiscardHandler)
	c.cfg.apply(opts)
	if err := errors.Join(c.cfg.errs...); err != nil {
		c.kv = refusingKV{kv, err}
	}
	c.cfg.lookTimeout = max(c.cfg.lookTimeout, c.cfg.callTimeout)
	return c
}

// answers finds out whether the KV answers at all, before a look that would wait for
// minutes.
func (c *Container) answers(ctx context.Context) error {
	return c.cfg.call(ctx, "read the account", func(ctx context.Context) error {
		_, err := c.kv.Get(ctx, headKey())
		return err
	})
}

// look is a call that reads a whole table, for what the Container does itself. It
// ends when the Container is closed.
func (c *Container) look(ctx context.Context, op string, f func(context.Context) error) error {
	return c.cfg.within(ctx, c.cfg.lookTimeout, c.over, op, f)
}

// PutDevice saves a device of this Container.
func (c *Container) PutDevice(ctx context.Context, d *store.Device) error {
	s, err := c.storeOf(d)
	if err != nil {
		return err
	}
	return s.PutDevice(ctx, d)
}

// DeleteDevice marks a device of this Container as deleted.
func (c *Container) DeleteDevice(ctx context.Context, d *store.Device) error {
	s, err := c.storeOf(d)
	if err != nil {
		return err
	}
	return s.DeleteDevice(ctx, d)
}

// storeOf finds what is behind d, also when a host has put its own
// DeviceContainer in front.
func (c *Container) storeOf(d *store.Device) (*deviceStore, error) {
	if s, ok := d.Container.(*deviceStore); ok && s.c == c {
		return s, nil
	}
	if s, ok := d.Sessions.(*deviceStore); ok && s.c == c {
		return s, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.device == d {
		return c.current, nil
	}
	return nil, ErrUnknownDevice
}

// SetDeleteReason says why the next deletion happens; whatsmeow deletes a
// device by itself and does not tell. It is kept with the deleted device.
func (c *Container) SetDeleteReason(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = reason
}

func (c *Container) takeReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reason
	c.reason = ""
	return r
}

func (c *Container) lock(ctx context.Context) error {
	select {
	case c.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Device loads the account's device for f's term. Every earlier Device of this
// Container is over from then on; a connection on it must have ended before,
// and is cut if it is of another term.
func (c *Container) Device(ctx context.Context, f Fence) (*store.Device, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer func() { <-c.sem }()
	c.mu.Lock()
	old, closed := c.current, c.closed
	c.mu.Unlock()
	if closed {
		return nil, ErrSuperseded
	}
	if old != nil && old.gate.fence.Epoch() != f.Epoch() {
		_ = old.dismiss(ErrSuperseded)
	} else if old != nil {
		_ = old.retireAfterFlush(ErrSuperseded)
	}
	var s *deviceStore
	err := c.settle(ctx, f)
	if err == nil {
		s, err = c.load(ctx, f)
	}
	c.mu.Lock()
	closed = c.closed
	if !closed {
		c.current = s // none after an error: Info must not go on with what is over
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if closed {
		s.retire(ErrSuperseded)
		return nil, ErrSuperseded
	}
	s.purgeInBackground()
	s.moveInBackground()
	return s.device, nil
}

// Info answers from memory once a device was loaded.
func (c *Container) Info(ctx context.Context) (Info, error) {
	c.mu.Lock()
	s := c.current
	c.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		info := s.head.info()
		info.KeyCount, info.Counts, info.LastWriteAt = s.im.count(), s.countsLocked(), s.queue.lastWrite
		return info, nil
	}
	h, err := c.readHead(ctx)
	if err != nil {
		return Info{}, err
	}
	info := h.info()
	info.KeyCount = -1
	return info, nil
}

func (h head) info() Info {
	i := Info{Exists: h.State == statePaired, Deleted: h.State == stateDeleted, DeletedAt: h.DeletedAt, Reason: h.Reason}
	if h.JID != "" {
		i.JID, _ = types.ParseJID(h.JID)
	}
	return i
}

// Restore makes the deleted device the account's again. It is possible until
// another one is paired. The service may have logged it out meanwhile. Ask for
// Device afterwards: a new one that was given out before is over, and cannot be
// paired any more. After an error it goes on.
func (c *Container) Restore(ctx context.Context, f Fence) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer func() { <-c.sem }()
	if err := c.settle(ctx, f); err != nil {
		return err
	}
	// A pairing that is about to be saved waits, so that of the two one happens
	// and the other is told.
	old, release, err := c.holdSave(ctx)
	if err != nil {
		return err
	}
	defer release()
	h, err := c.readHead(ctx)
	if err == nil && h.State != stateDeleted {
		err = ErrNothingDeleted // and a device that waits to be paired goes on
	}
	if err != nil {
		return err
	}
	h.State, h.DeletedAt, h.Reason = statePaired, time.Time{}, ""
	if err := c.putHead(ctx, f, nil, h); err != nil {
		return err
	}
	if old != nil {
		c.mu.Lock()
		c.current = nil
		c.mu.Unlock()
		_ = old.dismiss(ErrSuperseded) // of an unpaired one little is deferred, and all of it can be learned again
	}
	return nil
}

// Close flushes what was deferred, ends the device, cuts a connection that is
// still on it, and waits for everything that runs in the background. It gives
// up when ctx ends; the device is over all the same.
func (c *Container) Close(ctx context.Context) error {
	c.mu.Lock()
	s := c.current
	if !c.closed {
		c.closed = true // Device gives out none from now on
		close(c.over)
	}
	c.mu.Unlock()
	if err := c.lock(ctx); err != nil {
		if s != nil {
			s.end(ErrSuperseded)
		}
		return err
	}
	defer func() { <-c.sem }()
	c.mu.Lock()
	s = c.current
	c.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		var err error
		if s != nil {
			err = s.dismiss(ErrSuperseded)
		}
		c.cfg.background.Wait()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if s != nil {
			s.end(ErrSuperseded)
		}
		return context.Cause(ctx)
	}
}
