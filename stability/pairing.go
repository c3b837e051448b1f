package stability

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/reconnect"
)

// onCodes takes a set of codes to scan. They are shown one after the other:
// the first of six lasts a minute, the others 20 s, as WhatsApp's own clients
// have it.
func (sl *slot) onCodes(codes []string) {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if c := sl.conn; !c.up() || sl.s.paired {
		return
	}
	sl.conn.deadline = time.Time{}
	sl.codes = append([]string(nil), codes...)
	sl.codeUntil, sl.hadCodes = time.Now(), true
	sl.s.rounds++
	sl.s.poke()
}

// nextCodeLocked returns what shows the next code, if it is time for it.
func (sl *slot) nextCodeLocked(now time.Time) func() {
	if !sl.hadCodes || now.Before(sl.codeUntil) {
		return nil
	}
	if len(sl.codes) == 0 {
		c := sl.conn
		return func() {
			sl.m.mu.Lock()
			defer sl.m.mu.Unlock()
			if !sl.hadCodes {
				return
			}
			cause := reconnect.Cause{Reason: reconnect.ReasonQRExpired, Source: reconnect.SourceHost, Detail: "no code was scanned in time"}
			if sl.passkey {
				cause.Reason, cause.Detail = reconnect.ReasonPairingFailed, "the passkey that WhatsApp asked for was not given in time"
			}
			sl.endLocked(c, cause)
		}
	}
	return func() {
		sl.m.mu.Lock()
		defer sl.m.mu.Unlock()
		if !sl.hadCodes || len(sl.codes) == 0 {
			return
		}
		lasts := 20 * time.Second
		if len(sl.codes) == 6 {
			lasts = time.Minute
		}
		sl.code = QR{Code: sl.codes[0], ExpiresAt: time.Now().Add(lasts)}
		sl.codes, sl.codeUntil = sl.codes[1:], sl.code.ExpiresAt
		sl.m.notify.show(sl.code, sl.m.cfg.onQR)
		sl.m.eventLocked(Event{Kind: EventQR})
	}
}

// passkeyTime is how long a person has for a passkey. WhatsApp's own hand-over
// key lives as long.
const passkeyTime = 5 * time.Minute

// onPasskey gives a pairing that asks for a passkey the time for it. The code
// was scanned, and the codes behind it are of no use any more: whatsmeow gave
// the device another secret. The host answers with its own client. The events
// are known by name, since older versions of whatsmeow lack them; false means
// that the event is about something else.
func (sl *slot) onPasskey(evt any) bool {
	t := reflect.TypeOf(evt)
	if t == nil || t.Kind() != reflect.Pointer {
		return false
	}
	failed := false
	switch t.Elem().Name() {
	case "PairPasskeyRequest", "PairPasskeyConfirmation":
	case "PairPasskeyError":
		failed = true
	default:
		return false
	}
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	c := sl.conn
	if !c.up() || !sl.hadCodes {
		return true
	}
	switch {
	case failed && sl.passkey:
		sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonPairingFailed, Source: reconnect.SourceEvent, Detail: "the passkey step failed"})
	case failed: // what was asked could not be read, and nothing has changed
		sl.m.cfg.logger.Warn("a pairing asked for a passkey in a way that whatsmeow cannot read; the code can be scanned again")
	default:
		if !sl.passkey {
			sl.m.cfg.logger.Info("the pairing asks for a passkey: the program must answer whatsmeow's PairPasskeyRequest")
		}
		sl.codes, sl.code, sl.passkey = nil, QR{}, true
		sl.codeUntil = time.Now().Add(passkeyTime)
		sl.s.poke()
	}
	return true
}

func (sl *slot) clearCodesLocked() {
	sl.codes, sl.code, sl.codeUntil, sl.hadCodes, sl.passkey = nil, QR{}, time.Time{}, false, false
}

// onPaired notes that a phone accepted the device. The server asks for a new
// connection next, and has a bounded time for it.
func (sl *slot) onPaired(id types.JID) {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if c := sl.conn; c != nil && !c.ended {
		c.deadline = time.Now().Add(sl.m.cfg.connectTimeout)
	}
	sl.clearCodesLocked()
	sl.s.paired, sl.s.own, sl.s.rounds, sl.s.dirty = true, id, 0, true
	sl.s.machine.Paired(time.Now())
	sl.m.cfg.logger.Info("paired")
	sl.m.eventLocked(Event{Kind: EventPaired})
	sl.s.poke()
}

// dropDeviceLocked forgets the device of a session that is over. whatsmeow has
// deleted it in the store, where it can be restored until another is paired.
func (s *session) dropDeviceLocked() {
	s.gone = true
	s.device, s.paired, s.own = nil, false, types.EmptyJID
}

// QR returns the code to scan now. False when there is none: the account is
// paired, or not connected, or waits until somebody asks.
func (m *Manager) QR() (QR, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == nil || m.session.slot == nil {
		return QR{}, false
	}
	q := m.session.slot.code
	return q, q.Code != "" && time.Now().Before(q.ExpiresAt)
}

// PairPhone returns a code to type into the phone with this number, as an
// alternative to scanning: Linked devices, Link with phone number. The number
// is international, in any notation. It needs the lock, and waits until the
// connection is ready for pairing; Run offers one if it had stopped doing so.
// ErrAlreadyPaired when there is a session.
func (m *Manager) PairPhone(ctx context.Context, phone string) (string, error) {
	s, err := m.require()
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	s.askLocked()
	m.mu.Unlock()
	var client *whatsmeow.Client
	err = m.waitFor(ctx, func() (bool, error) {
		switch {
		case m.session != s || s.ending:
			return false, ErrNotActive
		case s.paired:
			return false, ErrAlreadyPaired
		case s.slot == nil && !m.runs:
			return false, ErrNotAttached
		case s.slot == nil || !s.slot.conn.up() || !s.slot.hadCodes:
			return false, nil
		}
		client = s.slot.client
		return true, nil
	})
	if err != nil {
		return "", err
	}
	select { // whatsmeow keeps the last code without a lock
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return "", fmt.Errorf("stability: ask for a pairing code: %w", context.Cause(ctx))
	}
	code, err := client.PairPhone(ctx, phone, true, whatsmeow.PairClientChrome, "Chrome (Linux)")
	if err != nil {
		return "", fmt.Errorf("stability: ask for a pairing code: %w", err)
	}
	return code, nil
}

// Logout removes this device from the account: on the phone's list, then in
// the store. Run then offers new codes to scan. If the service cannot be told,
// nothing is removed and the error says so. ErrNotPaired without a session.
func (m *Manager) Logout(ctx context.Context) error {
	s, err := m.require()
	if err != nil {
		return err
	}
	m.mu.Lock()
	sl := s.slot
	paired := s.paired && s.machine.State().Status != reconnect.StatusNeedsPairing
	own, ready := s.own, sl != nil && sl.ready()
	m.mu.Unlock()
	switch {
	case !paired:
		return ErrNotPaired
	case !ready:
		return fmt.Errorf("stability: logout: %w: wait until it is, so that the phone's list is told", whatsmeow.ErrNotConnected)
	}
	ctx, cancel := context.WithTimeout(ctx, logoutBudget)
	defer cancel()
	if err := sl.removeDevice(ctx, own); err != nil {
		return fmt.Errorf("stability: logout: %w", err)
	}
	m.mu.Lock()
	c := sl.conn
	sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonLoggedOut, Source: reconnect.SourceHost, Detail: "the host logged out"})
	m.mu.Unlock()
	return nil
}

// logoutBudget bounds how long Logout waits for the service.
const logoutBudget = 20 * time.Second

// removeDevice asks the service to forget this device. whatsmeow's own Logout
// would also disconnect in a way that can hang, and delete the device while
// handlers still use it: here the connection ends as every other does.
func (sl *slot) removeDevice(ctx context.Context, own types.JID) error {
	in := sl.client.DangerousInternals()
	id := in.GenerateRequestID()
	answer := in.WaitResponse(id)
	sent := make(chan error, 1)
	go func() { // it may wait for another write, which looks at no context
		sent <- in.SendNode(ctx, waBinary.Node{
			Tag:   "iq",
			Attrs: waBinary.Attrs{"id": id, "xmlns": "md", "type": "set", "to": types.ServerJID},
			Content: []waBinary.Node{{
				Tag:   "remove-companion-device",
				Attrs: waBinary.Attrs{"jid": own, "reason": "user_initiated"},
			}},
		})
	}()
	var err error
	select {
	case err = <-sent:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		in.CancelResponse(id, answer)
		return err
	}
	select {
	case node, ok := <-answer:
		switch {
		case ok && node.Tag == "iq" && node.Attrs["type"] == "result":
			return nil
		case ok && node.Tag == "stream:error" && node.Attrs["code"] == "401":
			return nil // a device that was removed is also told so
		case ok && node.Tag == "iq":
			return errors.New("the service refused it")
		}
		return fmt.Errorf("the connection ended before the service answered; try again: %w", whatsmeow.ErrNotConnected)
	case <-ctx.Done():
		in.CancelResponse(id, answer)
		return context.Cause(ctx)
	}
}
