package stability

import (
	"context"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
)

// Attach takes a client under the Manager's care: it sets what an outside
// owner of reconnection needs (see package doc), gives the client the
// Manager's dialer with the wire fence, and watches its connections. The
// client must be made on the device that AuthState returned in this term, must
// not have been connected, and should have no handlers yet: the Manager's
// comes first, so that a message is not handed over when it can no longer be
// answered. A client of this term that was attached before is retired. If
// something of it is still running after 15 s, such as a handler, its device
// ends with it, so that no two clients ever work on one: ErrWrongDevice then;
// AuthState gives the device to build the next client on.
func (m *Manager) Attach(c *whatsmeow.Client) error {
	if m.isRunning() {
		return ErrRunning
	}
	s, err := m.require()
	if err != nil {
		return err
	}
	_, err = s.attach(c, false)
	return err
}

// NewClient makes a client on d with Logger(nil) and attaches it.
func (m *Manager) NewClient(d *store.Device) (*whatsmeow.Client, error) {
	if m.isRunning() {
		return nil, ErrRunning
	}
	s, err := m.require()
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
	_, err = s.attach(c, false)
	return c, err
}

func (s *session) attach(c *whatsmeow.Client, auto bool) (*slot, error) {
	if c == nil || c.Store == nil {
		return nil, fmt.Errorf("stability: Attach: the client is nil or has no device: build it with whatsmeow.NewClient")
	}
	m := s.m
	m.mu.Lock()
	old, device := s.slot, s.device
	m.mu.Unlock()
	switch {
	case device == nil || c.Store != device:
		return nil, ErrWrongDevice
	case old != nil && old.client == c:
		return old, nil
	}
	if old != nil {
		ctx, cancel := context.WithTimeout(s.rush, endBudget)
		err := old.retire(ctx, errReplacedClient)
		cancel()
		if err != nil {
			old.giveUp()
		}
		m.mu.Lock()
		device = s.device
		m.mu.Unlock()
		if c.Store != device {
			return nil, ErrWrongDevice
		}
	}
	sl := &slot{s: s, m: m, client: c, device: device, auto: auto}
	sl.life, sl.over = context.WithCancel(context.Background())
	t, tapped := c.Log.(*tap)
	sl.tapped = tapped
	sl.link = link.New(link.Config{
		Transport: m.cfg.transport, Gate: s.mayWrite, Handle: sl.handle, Admit: sl.admit, Logger: m.cfg.logger,
		Compat: m.noteCompat, Without: m.cfg.without,
	})
	sl.link.OnConn(sl.onDial)
	if err := sl.link.Install(c); err != nil {
		return nil, fmt.Errorf("stability: Attach: %w", err)
	}
	m.useVersion(c)
	keepSent(c)
	if tapped {
		t.target.Store(sl)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case s.ending:
		sl.over()
		return nil, ErrNotActive
	case s.device != device: // a device was restored meanwhile, and this one is over
		sl.over()
		return nil, ErrWrongDevice
	}
	s.slot = sl
	m.broadcastLocked()
	s.poke()
	return sl, nil
}

// Resume says what to do at the start of a term, for hosts that connect by
// hand: connect now, or wait out a ban, a pause or a backoff that an earlier
// process or instance had begun. Pass it to ScheduleReconnect. Where nothing
// must be waited for it says now, also when there is no session yet and the
// connection is for pairing; an account that somebody must look at first
// (locked, banned) is not to be connected: ShouldReconnect is false. No I/O.
func (m *Manager) Resume() (reconnect.Decision, error) {
	s, err := m.require()
	if err != nil {
		return reconnect.Decision{Status: reconnect.StatusDisconnected, Reason: reconnect.ReasonLockLost}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	d := s.machine.Resume(now)
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
	s, err := m.require()
	if err != nil {
		return err
	}
	m.mu.Lock()
	sl := s.slot
	m.mu.Unlock()
	if sl == nil {
		return ErrNotAttached
	}
	sl.onConnected()
	return nil
}

// HandleDisconnected tells the Manager why a connection or an attempt ended
// and returns what to do: pass the Decision to ScheduleReconnect. cause is a
// whatsmeow event, an error from Connect, a reconnect.Reason, or nil when
// nobody knows. A connection ends once: calling again for the same end returns
// the same Decision, made better if the new cause says more. No I/O.
func (m *Manager) HandleDisconnected(ctx context.Context, cause any) (reconnect.Decision, error) {
	s, err := m.require()
	if err != nil {
		return reconnect.Decision{Status: reconnect.StatusDisconnected, Reason: reconnect.ReasonLockLost}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sl := s.slot
	if sl == nil {
		return reconnect.Decision{Status: reconnect.StatusDisconnected}, ErrNotAttached
	}
	c := sl.conn
	if c == nil {
		c = sl.past
	}
	found, ends := reconnect.Classify(cause)
	if ends {
		if found.Source == reconnect.SourceUnknown {
			found.Source = reconnect.SourceHost
		}
		if c == nil { // an attempt that the dialer never saw
			c = &connection{started: time.Now()}
			sl.conn = c
		}
		sl.endLocked(c, found)
		c.reported = true
		if sl.unasked && sl.planned { // from here on it is the host's move
			sl.planned, sl.unasked = false, false
		}
	}
	if c == nil || !c.ended {
		st := s.machine.State()
		return reconnect.Decision{Status: st.Status, RetryCount: st.RetryCount}, nil
	}
	return c.decision, nil
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
	s, err := m.require()
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sl := s.slot
	if sl == nil || sl.auto || sl.retired || sl.planned {
		return
	}
	if c := sl.conn; c != nil && !c.ended {
		return // connected already, or on the way
	}
	at := d.NextRetryAt
	if latest := sl.latestLocked(); latest != nil {
		if !latest.decision.ShouldReconnect {
			m.cfg.logger.Info("not reconnecting after all: a better reason became known", "reason", latest.cause.Reason)
			return
		}
		if latest.decision.NextRetryAt.After(at) {
			at = latest.decision.NextRetryAt
		}
	}
	sl.connect = connect
	sl.planLocked(at)
}

func (sl *slot) latestLocked() *connection {
	if sl.conn != nil {
		return sl.conn
	}
	return sl.past
}

// Reconnect ends the present connection and comes back at once. While a retry
// is waiting it is made now, unless a temporary ban forbids it; while Run has
// stopped offering codes it offers new ones. It returns at once.
func (m *Manager) Reconnect() {
	s, err := m.require()
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.askLocked()
	sl := s.slot
	if sl == nil || sl.retired {
		return
	}
	if at, ok := s.machine.Allowed(time.Now()); !ok {
		m.cfg.logger.Warn("not reconnecting: the account is banned for now", "until", at)
		return
	}
	switch c := sl.conn; {
	case c != nil:
		if sl.connect == nil {
			return // by hand, and nobody told us how to connect
		}
		sl.again = true
		sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonRestartRequired, Source: reconnect.SourceHost, Detail: "the host asked to reconnect"})
	case sl.connect != nil:
		sl.planLocked(time.Now())
	}
}
