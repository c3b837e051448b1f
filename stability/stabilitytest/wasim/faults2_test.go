package wasim_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func text(s string) *waE2E.Message { return &waE2E.Message{Conversation: proto.String(s)} }

func TestAMessageMayBeRefusedByCodeAndRecipient(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob, eve := newContact(t, s, "491700000002"), newContact(t, s, "491700000003")
		ctx := within(t, time.Minute)
		send := func(to *wasim.Contact) error {
			_, err := h.cli.SendMessage(ctx, to.JID(), text("x"))
			return err
		}
		for _, code := range []int{400, 429, 463, 479, 500} {
			f := s.Fault(wasim.MessageNack(code)).For(h.jid()).To(bob.Account().LID()).Now()
			require.NoError(t, send(eve), "another recipient")
			err := send(bob)
			require.ErrorIs(t, err, whatsmeow.ErrServerReturnedError)
			require.ErrorContains(t, err, strconv.Itoa(code))
			require.Equal(t, 1, f.Fired())
			require.NoError(t, send(bob), "once")
		}
		f := s.Fault(wasim.MessageNack(463)).For(h.jid()).Always().Now()
		require.Error(t, send(bob))
		require.Error(t, send(eve))
		_, err := bob.Send(ctx, eve.JID(), "others may")
		require.NoError(t, err)
		f.Stop()
		require.NoError(t, send(bob))
		eventually(t, "what was not refused", func() bool { return len(bob.Texts()) == 6 && len(eve.Texts()) == 6 })
		st := s.Device(h.jid()).Stats()
		require.Equal(t, 7, st.MessagesRefused)
		require.Equal(t, 18, st.MessagesSent)
		h.end()
	})
}

func TestMessagesToNewChatsAloneMayBeRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob, eve, dan := newContact(t, s, "491700000002"), newContact(t, s, "491700000003"), newContact(t, s, "491700000004")
		ctx := within(t, time.Minute)
		send := func(to *wasim.Contact) error {
			_, err := h.cli.SendMessage(ctx, to.JID(), text("x"))
			return err
		}
		require.NoError(t, send(bob))
		_, err := eve.Send(ctx, h.jid().ToNonAD(), "hello")
		require.NoError(t, err)
		f := s.Fault(wasim.MessageNack(463)).For(h.jid()).ToNewChats().Always().Now()
		require.NoError(t, send(bob), "it was written to before")
		require.NoError(t, send(eve), "it has written before")
		require.ErrorContains(t, send(dan), "463")
		require.ErrorContains(t, send(dan), "463", "a refused message begins no chat")
		f.Stop()
		require.NoError(t, send(dan))
		h.end()
	})
}

func TestAMessageMayBeLeftUnanswered(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob, eve := newContact(t, s, "491700000002"), newContact(t, s, "491700000003")
		send := func(to *wasim.Contact, wait time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			_, err := h.cli.SendMessage(ctx, to.JID(), text("x"))
			return err
		}
		require.NoError(t, send(bob, time.Minute))
		f := s.Fault(wasim.MessageIgnored()).For(h.jid()).To(bob.JID()).Always().Now()
		require.ErrorIs(t, send(bob, 500*time.Millisecond), context.DeadlineExceeded)
		require.NoError(t, send(eve, time.Minute), "another recipient")
		f.Stop()
		require.NoError(t, send(bob, time.Minute))
		eventually(t, "what was not swallowed", func() bool { return len(bob.Texts()) == 2 && len(eve.Texts()) == 1 })
		st := s.Device(h.jid()).Stats()
		require.Equal(t, 1, st.MessagesIgnored)
		require.Zero(t, st.MessagesRefused)
		h.end()
	})
}

func TestAnyQueryMayFail(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob := newContact(t, s, "491700000002")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ask := func() error {
			_, err := h.cli.GetUserInfo(ctx, []types.JID{bob.JID()})
			return err
		}
		f := s.Fault(wasim.QueryError("usync", "get", 429, "rate-overlimit")).For(h.jid()).Times(2).Now()
		require.NoError(t, h.cli.SetPassive(ctx, false), "another query")
		for range 2 {
			require.ErrorIs(t, ask(), whatsmeow.ErrIQRateOverLimit)
		}
		require.NoError(t, ask())
		require.Equal(t, 2, f.Fired())
		s.Fault(wasim.QueryError("", "", 503, "service-unavailable")).For(h.jid()).Now()
		require.ErrorIs(t, ask(), whatsmeow.ErrIQServiceUnavailable)
		require.NoError(t, ask())
		s.Fault(wasim.QueryIgnored("usync", "")).For(h.jid()).Now()
		done := make(chan error, 1)
		go func() { done <- ask() }()
		time.Sleep(100 * time.Millisecond)
		require.Empty(t, done, "no answer yet")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled, "nor ever")
		h.end()
	})
}

func TestAnyStanzaMayBePushed(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		s.Fault(wasim.Stanza(waBinary.Node{Tag: "ib", Attrs: waBinary.Attrs{"from": types.ServerJID}, Content: []waBinary.Node{{
			Tag: "offline_preview", Attrs: waBinary.Attrs{"count": 7, "message": 5, "appdata": 0, "notification": 1, "receipt": 1},
		}}})).For(h.jid()).Now()
		eventually(t, "it came", func() bool { return len(got[*events.OfflineSyncPreview](h)) == 1 })
		require.Equal(t, 5, got[*events.OfflineSyncPreview](h)[0].Messages)
		require.True(t, h.up())
		s.Fault(wasim.LastStanza(waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "599"},
			Content: []waBinary.Node{{Tag: "shutdown"}}})).For(h.jid()).Now()
		eventually(t, "it came", func() bool { return len(got[*events.StreamError](h)) == 1 && !h.up() })
		require.Equal(t, "599", got[*events.StreamError](h)[0].Code)
		h.end()
	})
}

func TestAClientRefillsPrekeysWhenTold(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		d := s.Device(h.jid())
		before := d.Stats().PreKeysUploaded
		d.DropPreKeys(2)
		eventually(t, "uploaded", func() bool { return d.Stats().PreKeysUploaded > before })
		require.Greater(t, d.PreKeys(), 2)
		eventually(t, "acknowledged", func() bool { return d.Stats().Acks > 0 })
		uploaded := d.Stats().PreKeysUploaded
		d.DropPreKeys(1000) // enough are left: only the count is told
		eventually(t, "acknowledged", func() bool { return d.Stats().Acks > 1 })
		require.Equal(t, uploaded, d.Stats().PreKeysUploaded)
		h.end()
	})
}

func TestAReinstalledContactHasTheAddressAndAnotherIdentity(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		bob := newContact(t, s, "491700000002")
		ctx := within(t, time.Minute)
		_, err := bob.Send(ctx, h.jid().ToNonAD(), "first")
		require.NoError(t, err)
		eventually(t, "it came", func() bool { return len(texts(h)) == 1 })
		_, err = h.cli.SendMessage(ctx, bob.JID(), text("answer"))
		require.NoError(t, err)
		eventually(t, "answered", func() bool { return len(bob.Texts()) == 1 })
		old := bob.Account().Devices()[0]

		again, err := bob.Reinstall(ctx)
		require.NoError(t, err)
		require.Len(t, again.Account().Devices(), 1)
		require.Equal(t, old.JID(), again.Account().Devices()[0].JID())
		require.NotEqual(t, bob.Client().Store.IdentityKey.Pub, again.Client().Store.IdentityKey.Pub)
		_, err = again.Send(ctx, h.jid().ToNonAD(), "second")
		require.NoError(t, err)
		eventually(t, "it came", func() bool { return len(texts(h)) == 2 })
		again.Account().TellIdentityChanged()
		eventually(t, "told", func() bool { return len(got[*events.IdentityChange](h)) > 0 })
		eventually(t, "written", func() bool { // the first may meet the new session as it is made
			_, err := h.cli.SendMessage(ctx, bob.JID(), text("welcome back"))
			return err == nil
		})
		eventually(t, "answered", func() bool { return len(again.Texts()) == 1 })
		h.end()
	})
}
