package stability

import (
	"context"
	"errors"
	"fmt"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
)

// Send sends a message with the present client, as its SendMessage does, and
// keeps its plaintext in the store with the very commit that the send makes
// anyway. So a recipient who could not decrypt it and asks again is answered,
// also by the next process. SendMessage of the client itself keeps it a moment
// later, and only while this whatsmeow lets the Manager see what goes out
// (Status.Compat). A message to the account's own devices or to a newsletter
// is not kept.
//
// It sends once: an error does not say that the message was not delivered, and
// nothing is sent again. ErrClosed; ErrNotActive without the lock;
// whatsmeow.ErrNotConnected while there is no connection (WaitReady waits for
// one), whatsmeow.ErrNotLoggedIn before pairing. Sends wait for each other, at
// most until ctx ends; a store that does not answer is waited for like in any
// commit: at most half a minute, then the term ends. Safe for concurrent use, and
// inside an event handler.
func (m *Manager) Send(ctx context.Context, to types.JID, msg *waE2E.Message, extra ...whatsmeow.SendRequestExtra) (whatsmeow.SendResponse, error) {
	resp, err := m.send(ctx, to, msg, extra)
	if err != nil {
		err = fmt.Errorf("stability: send a message: %w", err)
	}
	return resp, err
}

var errNoMessage = errors.New("there is none: pass a *waE2E.Message with content")

func (m *Manager) send(ctx context.Context, to types.JID, msg *waE2E.Message, extra []whatsmeow.SendRequestExtra) (none whatsmeow.SendResponse, err error) {
	switch {
	case msg == nil:
		return none, errNoMessage
	case len(extra) > 1:
		return none, errors.New("only one SendRequestExtra can be given")
	}
	a, err := m.sender()
	if err != nil {
		return none, err
	}
	select {
	case a.sending <- struct{}{}:
		defer func() { <-a.sending }()
	case <-ctx.Done():
		return none, fmt.Errorf("another send is under way: %w", context.Cause(ctx))
	case <-a.life.Done():
		return none, whatsmeow.ErrNotConnected
	}
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	var x whatsmeow.SendRequestExtra
	if len(extra) == 1 {
		x = extra[0]
	}
	if x.ID == "" {
		x.ID = a.client.GenerateMessageID()
	}
	keeper := keeperOf(a.device)
	if keeper == nil || sentByWhatsmeow(a.client) || x.Peer || to.Server == types.NewsletterServer || !x.InlineBotJID.IsEmpty() {
		return a.client.SendMessage(ctx, to, msg, x)
	}
	plaintext := func() []byte { // whatsmeow has completed it by then
		b, err := proto.Marshal(msg)
		if err != nil {
			return nil
		}
		return b
	}
	s := &authstore.Sending{Chat: to.ToNonAD(), ID: x.ID, Plaintext: plaintext}
	a.kept.Store(&x.ID)
	defer a.kept.Store(nil)
	resp, err := a.client.SendMessage(authstore.WithSending(ctx, s), to, msg, x)
	if err == nil && !s.Kept() { // no session was written
		if err := keeper.KeepSent(context.WithoutCancel(ctx), s.Chat, s.ID, plaintext()); err != nil {
			m.cfg.logger.Debug("a sent message was not kept", "error", err)
		}
	}
	return resp, err
}

// sender is the present client, connected and logged in.
func (m *Manager) sender() (*attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.term
	var a *attachment
	if t != nil {
		a = t.client
	}
	switch {
	case a != nil && a.ready(): // also while stepping down: handlers may still answer
		return a, nil
	case m.seat.at == shut:
		return nil, ErrClosed
	case t == nil || t.core.Ending():
		return nil, ErrNotActive
	case t.own == noAddress:
		return nil, whatsmeow.ErrNotLoggedIn
	}
	return nil, fmt.Errorf("%w: WaitReady waits for a connection", whatsmeow.ErrNotConnected)
}
