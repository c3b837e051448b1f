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
	core "github.com/wastability/wastability/stability/internal/term"
)

// onPasskey brings evidence of a pairing that asks for a passkey. The events
// are known by name, since older versions of whatsmeow lack them; false means
// that the event is about something else.
func (a *attachment) onPasskey(evt any) bool {
	typ := reflect.TypeOf(evt)
	if typ == nil || typ.Kind() != reflect.Pointer {
		return false
	}
	switch typ.Elem().Name() {
	case "PairPasskeyRequest", "PairPasskeyConfirmation":
		a.t.noteWith(func() core.Evidence { return core.PasskeyAsked{Client: a.number, Up: a.t.up()} })
	case "PairPasskeyError":
		a.t.noteWith(func() core.Evidence { return core.PasskeyFailed{Client: a.number, Up: a.t.up()} })
	default:
		return false
	}
	return true
}

// QR returns the code to scan now. False when there is none: the account is
// paired, or not connected, or waits until somebody asks.
func (m *Manager) QR() (QR, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.term == nil {
		return QR{}, false
	}
	return m.term.codeToScan()
}

// codeToScan is the code that is offered now. With the Manager's mu held.
func (t *term) codeToScan() (QR, bool) {
	code, until := t.core.Code()
	return QR{Code: code, ExpiresAt: until}, code != "" && time.Now().Before(until)
}

// WaitQR returns a code to scan, as soon as there is one. It asks for codes, if
// Run offers none, and waits for Run's lock. ErrAlreadyPaired when the account
// is paired; when ctx ends while this instance does not hold the lock, the error
// is ErrNotActive as well.
func (m *Manager) WaitQR(ctx context.Context) (QR, error) {
	var q QR
	_, err := m.offered(ctx, "wait for a code to scan", func(t *term) (ok bool) {
		q, ok = t.codeToScan()
		return ok
	})
	if err != nil {
		return QR{}, err
	}
	return q, nil
}

// PhoneCode is typed into the phone instead of a scan.
type PhoneCode struct {
	Code      string
	ExpiresAt time.Time
}

// phoneCodeLife is how long a code to type should last at least. A person needs
// some time to find the place for it.
const phoneCodeLife = 2 * time.Minute

// PairPhone returns a code to type into the phone with this number, as an
// alternative to scanning: Linked devices, Link with phone number. The number
// is international, in any notation. A code lasts as long as the connection
// that it was asked for on: if that would be less than two minutes, PairPhone
// makes a new connection first, once. Only the newest code
// works.
//
// It asks for codes, if Run offers none, and waits for Run's lock.
// ErrAlreadyPaired when the account is paired; when ctx ends while this instance
// does not hold the lock, the error is ErrNotActive as well. WithPairingClient
// sets the name that the phone shows.
func (m *Manager) PairPhone(ctx context.Context, phone string) (PhoneCode, error) {
	const doing = "ask for a pairing code"
	var client *whatsmeow.Client
	var conn int
	var until time.Time
	awaited := func(t *term) bool {
		if !t.up() || !t.core.Scanning() {
			return false
		}
		client, until = t.client.client, t.core.OfferEnds()
		conn, _, _ = t.core.Conn()
		return !until.IsZero()
	}
	t, err := m.offered(ctx, doing, awaited)
	if err != nil {
		return PhoneCode{}, err
	}
	if time.Until(until) < phoneCodeLife {
		old := conn
		t.note(core.Again{Reason: reconnect.ReasonRequested, Detail: "a code to type needs a new connection to last long enough"})
		t, err = m.offered(ctx, doing, func(t *term) bool { return awaited(t) && conn != old })
		if err != nil {
			return PhoneCode{}, err
		}
	}
	select { // whatsmeow keeps the last code without a lock
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return PhoneCode{}, fmt.Errorf("stability: %s: %w", doing, context.Cause(ctx))
	}
	code, err := client.PairPhone(ctx, phone, true, m.cfg.pairingClient, m.cfg.pairingName)
	if err != nil {
		return PhoneCode{}, fmt.Errorf("stability: %s: %w", doing, err)
	}
	t.note(core.PhoneCode{Conn: conn})
	return PhoneCode{Code: code, ExpiresAt: until}, nil
}

// offered asks each term for codes and waits until ok, under the lock, says that
// what it offers will do.
func (m *Manager) offered(ctx context.Context, doing string, ok func(*term) bool) (*term, error) {
	var asked *term
	for {
		t, err := m.awaitTerm(ctx, doing, func(t *term) (bool, error) {
			switch {
			case t.core.Linked():
				return false, ErrAlreadyPaired
			case t.client == nil && !m.runs.on:
				return false, ErrNotAttached
			}
			return t != asked || ok(t), nil
		})
		if err != nil || t == asked {
			return t, err
		}
		asked = t
		t.note(core.Ask{})
	}
}

// awaitTerm waits for a term that ok, under the lock, accepts, and returns it.
// Where ctx ends while this instance has none, the error is ErrNotActive as well.
func (m *Manager) awaitTerm(ctx context.Context, doing string, ok func(*term) (bool, error)) (t *term, err error) {
	err = m.waitFor(ctx, func() (bool, error) {
		if t = m.term; t == nil || t.core.Ending() {
			t = nil
			return false, nil
		}
		return ok(t)
	})
	switch {
	case err == nil:
		return t, nil
	case t == nil && !errors.Is(err, ErrClosed):
		return nil, fmt.Errorf("stability: %s: %w: %w", doing, ErrNotActive, context.Cause(ctx))
	case ctx.Err() != nil:
		return nil, fmt.Errorf("stability: %s: %w", doing, context.Cause(ctx))
	}
	return nil, err
}

// Logout removes this device from the account: on the phone's list, then in
// the store. Run then offers new codes to scan. Without a connection it is
// removed in the store alone, and ErrStillListed says so. It waits for Run's
// lock. If the service does not answer on a connection that is up, nothing is
// removed and the error says so. ErrNotPaired when the account is not; when ctx
// ends while this instance does not hold the lock, the error is ErrNotActive as
// well.
func (m *Manager) Logout(ctx context.Context) error {
	t, err := m.awaitTerm(ctx, "logout", func(*term) (bool, error) { return true, nil })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutBudget)
	defer cancel()
	d, err := t.authState(ctx)
	if err != nil {
		return fmt.Errorf("stability: logout: %w", err)
	}
	m.mu.Lock()
	a, own := t.client, t.own
	paired, ready := t.core.Linked() && !t.core.Unpaired(), t.core.Ready(t.up())
	conn, _, _ := t.core.Conn()
	m.mu.Unlock()
	switch {
	case !paired:
		return ErrNotPaired
	case !ready:
		m.store.SetDeleteReason(hostLogout)
		// Not d.Delete, which also writes to d: an attempt may be reading it.
		if err := d.Container.DeleteDevice(ctx, d); err != nil {
			m.store.SetDeleteReason("") // a later deletion has its own reason
			return fmt.Errorf("stability: logout without a connection: %w", err)
		}
		return ErrStillListed
	}
	t.hostLogout.Store(true)
	m.store.SetDeleteReason(hostLogout)
	if err := a.removeDevice(ctx, own); err != nil {
		t.hostLogout.Store(false)
		m.store.SetDeleteReason("")
		return fmt.Errorf("stability: logout: %w", err)
	}
	t.note(core.LoggedOut{Conn: conn})
	return nil
}

// hostLogout is the reason that is kept with a device that the host logged out.
const hostLogout = "logged out by the host"

// deleteReason is what is kept with a device that ends for this reason.
func (t *term) deleteReason(r reconnect.Reason) string {
	if t.hostLogout.Load() {
		return hostLogout
	}
	return string(r)
}

// logoutBudget bounds how long Logout waits for the service.
const logoutBudget = 20 * time.Second

// removeDevice asks the service to forget this device. whatsmeow's own Logout
// would also disconnect in a way that can hang, and delete the device while
// handlers still use it: here the connection ends as every other does.
func (a *attachment) removeDevice(ctx context.Context, own types.JID) error {
	in := a.client.DangerousInternals()
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
