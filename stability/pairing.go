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
	code, until := m.term.core.Code()
	return QR{Code: code, ExpiresAt: until}, code != "" && time.Now().Before(until)
}

// PairPhone returns a code to type into the phone with this number, as an
// alternative to scanning: Linked devices, Link with phone number. The number
// is international, in any notation. It needs the lock, and waits until the
// connection is ready for pairing; Run offers one if it had stopped doing so.
// ErrAlreadyPaired when the account is paired.
func (m *Manager) PairPhone(ctx context.Context, phone string) (string, error) {
	t, err := m.require()
	if err != nil {
		return "", err
	}
	t.note(core.Ask{})
	var client *whatsmeow.Client
	err = m.waitFor(ctx, func() (bool, error) {
		switch {
		case m.term != t || t.core.Ending():
			return false, ErrNotActive
		case t.core.Linked():
			return false, ErrAlreadyPaired
		case t.client == nil && !m.runs:
			return false, ErrNotAttached
		case !t.up() || !t.core.Scanning():
			return false, nil
		}
		client = t.client.client
		return true, nil
	})
	if err != nil {
		return "", err
	}
	select { // whatsmeow keeps the last code without a lock
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
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
// nothing is removed and the error says so. ErrNotPaired when the account is not.
func (m *Manager) Logout(ctx context.Context) error {
	t, err := m.require()
	if err != nil {
		return err
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
		return fmt.Errorf("stability: logout: %w: wait until it is, so that the phone's list is told", whatsmeow.ErrNotConnected)
	}
	ctx, cancel := context.WithTimeout(ctx, logoutBudget)
	defer cancel()
	if err := a.removeDevice(ctx, own); err != nil {
		return fmt.Errorf("stability: logout: %w", err)
	}
	t.note(core.LoggedOut{Conn: conn})
	return nil
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
