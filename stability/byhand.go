package stability

import (
	"context"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// Attach takes a client under the Manager's care. It makes the settings that
// an outside owner of reconnection needs (see package doc), gives the client
// the Manager's dialer with the wire fence, and watches its connections. The
// client must be made on the device that AuthState returned in this term, and
// must not have been connected. It should have no handlers yet: the Manager's
// comes first, so that a message is not handed over when it can no longer be
// answered. A client of this term that was attached before is retired. If
// something of it is still running after 15 s, such as a handler, its device
// ends with it, so that no two clients ever work on one. The error is
// ErrWrongDevice then, and AuthState gives the device to build the next client
// on.
func (m *Manager) Attach(c *whatsmeow.Client) error {
	if m.isRunning() {
		return ErrRunning
	}
	t, err := m.require()
	if err != nil {
		return err
	}
	_, err = t.attach(c, false)
	return err
}

// NewClient makes a client on d with Logger(nil) and attaches it.
func (m *Manager) NewClient(d *store.Device) (*whatsmeow.Client, error) {
	if m.isRunning() {
		return nil, ErrRunning
	}
	t, err := m.require()
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("stability: NewClient: the device is nil: pass the one that AuthState returns")
	}
	c, err := m.newClient(d)
	if err != nil {
		return nil, err
	}
	_, err = t.attach(c, false)
	return c, err
}

func (t *term) attach(c *whatsmeow.Client, auto bool) (*attachment, error) {
	if c == nil || c.Store == nil {
		return nil, fmt.Errorf("stability: Attach: the client is nil or has no device: build it with whatsmeow.NewClient")
	}
	m := t.m
	t.attaching <- struct{}{} // each retires the one before it
	defer func() { <-t.attaching }()
	m.mu.Lock()
	old, device := t.client, t.device
	m.mu.Unlock()
	switch {
	case device == nil || c.Store != device:
		return nil, ErrWrongDevice
	case old != nil && old.client == c:
		return old, nil
	}
	if old != nil {
		ctx, cancel := context.WithTimeout(t.patience, endBudget)
		err := old.retire(ctx, errReplacedClient)
		cancel()
		if err != nil {
			old.giveUp()
		}
	}
	a := &attachment{t: t, m: m, client: c, device: device, auto: auto, since: time.Now(), sending: make(chan struct{}, 1)}
	a.life, a.over = context.WithCancel(context.Background())
	tap, tapped := c.Log.(*tap)
	a.tapped = tapped
	a.link = link.New(link.Config{
		Transport: m.cfg.transport, Gate: t.mayWrite, Handle: a.handle, Admit: a.admit,
		Panicked: a.panicked, Refused: m.received.refused, Undecryptable: m.received.undecryptable, Malformed: a.malformed, Logger: m.cfg.logger,
		Restored: a.restored, Compat: m.noteCompat, Without: m.cfg.without,
	})
	a.link.OnConn(a.onDial)
	m.mu.Lock()
	switch {
	case t.core.Ending():
		m.mu.Unlock()
		a.over()
		return nil, ErrNotActive
	case t.device != device: // it was let go, or another was restored meanwhile
		m.mu.Unlock()
		a.over()
		return nil, ErrWrongDevice
	}
	t.clients++
	a.number = t.clients
	m.mu.Unlock()
	if err := a.link.Install(c); err != nil {
		return nil, fmt.Errorf("stability: Attach: %w", err)
	}
	m.useVersion(c)
	a.keepSent()
	if tapped {
		tap.target.Store(a)
	}
	var err error
	t.noteWith(func() core.Evidence {
		switch {
		case t.core.Ending():
			err = ErrNotActive
		case t.device != device:
			err = ErrWrongDevice
		default:
			t.client = a
			return core.Attach{Client: a.number, Auto: auto, Tapped: tapped}
		}
		return nil
	})
	if err != nil {
		a.over()
		return nil, err
	}
	return a, nil
}

// Resume says what to do at the start of a term, for hosts that connect by
// hand. It is to connect now, or to wait out a ban, a pause or a backoff that
// an earlier process or instance had begun. Pass it to ScheduleReconnect. If
// nothing must be waited for it says now, also when there is no device yet and
// the connection is for pairing. An account that somebody must look at first
// (locked, banned) is not to be connected: ShouldReconnect is false. No I/O.
func (m *Manager) Resume() (reconnect.Decision, error) {
	t, err := m.require()
	if err != nil {
		return m.standbyDecision(), err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	d := t.core.Resume(now)
	if d.Action == reconnect.ActionPair {
		d.ShouldReconnect, d.NextRetryAt = true, now
	}
	return d, nil
}

// HandleConnected tells the Manager that the client is logged in. It counts
// only while the client's socket is up: whatsmeow may say Connected seconds
// after the link died. Attach sees that event itself, so this is for hosts
// that want to be sure of the order. No I/O.
func (m *Manager) HandleConnected(ctx context.Context) error {
	t, err := m.require()
	if err != nil {
		return err
	}
	m.mu.Lock()
	a := t.client
	m.mu.Unlock()
	if a == nil {
		return ErrNotAttached
	}
	a.onConnected()
	return nil
}

// HandleDisconnected tells the Manager why a connection or an attempt ended
// and returns what to do: pass the Decision to ScheduleReconnect. The cause is
// a whatsmeow event, an error from Connect, a reconnect.Reason, or nil when
// nobody knows. A connection ends once: calling again for the same end returns
// the same Decision, made better if the new cause says more. ActionStandby
// says that this instance gives the lock up because it cannot connect and
// another one may, or that it is not active any more (ErrNotActive): call
// Activate. No I/O.
func (m *Manager) HandleDisconnected(ctx context.Context, cause any) (reconnect.Decision, error) {
	t, err := m.require()
	if err != nil {
		return m.standbyDecision(), err
	}
	found, ends := reconnect.Classify(cause)
	if found.Source == reconnect.SourceUnknown {
		found.Source = reconnect.SourceHost
	}
	m.mu.Lock()
	if t.client == nil {
		m.mu.Unlock()
		return reconnect.Decision{Status: reconnect.StatusDisconnected}, ErrNotAttached
	}
	if ends {
		t.take(core.HostEnd{Cause: found})
	}
	d, _, ended := t.core.End()
	if !ended {
		st := t.core.State()
		d = reconnect.Decision{Status: st.Status, RetryCount: st.RetryCount}
	}
	m.mu.Unlock()
	return d, nil
}

// ScheduleReconnect connects when the Decision says so: at its NextRetryAt the
// old connection is brought to its very end, then connect is called, from a
// goroutine of the Manager's. Its context lives as long as the connection. An
// error from connect is taken as HandleDisconnected would and scheduled again,
// so a host calls this once per Decision and never sleeps. A better reason that
// forbids reconnecting cancels it. A Decision that says no is a no-op. connect
// is also used, by the same rules, after an end that whatsmeow reports to
// nobody, of which the host could not have known.
func (m *Manager) ScheduleReconnect(d reconnect.Decision, connect func(context.Context) error) {
	if connect == nil || !d.ShouldReconnect {
		return
	}
	t, err := m.require()
	if err != nil {
		return
	}
	t.noteWith(func() core.Evidence {
		if t.client == nil {
			return nil
		}
		t.client.scheduled = connect
		return core.Schedule{At: d.NextRetryAt}
	})
}

// Reconnect ends the present connection and comes back at once. While a retry
// is waiting it is made now, unless a temporary ban forbids it; while Run has
// stopped offering codes it offers new ones. While this instance pauses because
// it gave the lock up, it asks for the lock at once. It returns at once.
func (m *Manager) Reconnect() {
	if t, err := m.require(); err == nil {
		t.note(core.Again{Reason: reconnect.ReasonRequested, Detail: "the program asked to reconnect"})
		return
	}
	m.endRest()
}
