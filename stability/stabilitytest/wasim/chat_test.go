package wasim_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func texts(h *host) (out []string) {
	for _, m := range got[*events.Message](h) {
		out = append(out, m.Message.GetConversation())
	}
	return out
}

func TestWhatWasNotAcknowledgedComesAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		dev := pair(t, s, acct)
		bob := newContact(t, s, "491700000002")
		ctx := within(t, time.Minute)
		for i := range 3 {
			_, err := bob.Send(ctx, acct.JID(), fmt.Sprint("offline ", i))
			require.NoError(t, err)
		}
		d := s.Device(*dev.ID)
		require.Len(t, d.Pending(), 3)

		// the first login takes nothing: its handlers refuse everything
		h := newHost(s, dev)
		h.cli.AddEventHandlerWithSuccessStatus(func(e any) bool { _, ok := e.(*events.Message); return !ok })
		h.login(t)
		eventually(t, "seen once", func() bool { return len(texts(h)) == 3 })
		require.Len(t, d.Pending(), 3, "no handler took them")
		s.Fault(wasim.FIN()).For(h.jid()).Now()
		eventually(t, "down", func() bool { return !h.up() })
		time.Sleep(50 * time.Millisecond)
		h.cli.Disconnect()
		h.cancel()

		again := newHost(s, dev)
		again.login(t)
		eventually(t, "all again", func() bool { return len(d.Pending()) == 0 })
		require.Equal(t, []string{"offline 0", "offline 1", "offline 2"}, texts(again))
		eventually(t, "count", func() bool { return len(got[*events.OfflineSyncCompleted](again)) == 1 })
		require.Equal(t, 3, got[*events.OfflineSyncCompleted](again)[0].Count)
		require.Equal(t, 3, got[*events.OfflineSyncPreview](again)[0].Messages)
		require.Len(t, d.AckedMessages(), 3)
		for _, a := range d.Acks() {
			require.Equal(t, "receipt", a.By)
			require.Equal(t, 2, a.Sends)
		}
		require.Equal(t, 3, d.Stats().Redelivered)
		again.end()
	})
}

// Only the acknowledgement of that very stanza takes it off the list.
func TestAMessageIsPendingUntilItIsAcknowledgedItself(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		dev := pair(t, s, acct)
		bob := newContact(t, s, "491700000002")
		h := newHost(s, dev)
		h.cli.AddEventHandlerWithSuccessStatus(func(e any) bool { _, ok := e.(*events.Message); return !ok })
		h.login(t)
		id, err := bob.Send(within(t, time.Minute), acct.JID(), "hello")
		require.NoError(t, err)
		eventually(t, "seen", func() bool { return len(texts(h)) == 1 })
		from := got[*events.Message](h)[0].Info.Sender // the device that wrote it
		d := s.Device(*dev.ID)
		acks := func() (out []wasim.Ack) {
			for _, a := range d.Acks() {
				if a.Tag == "message" || a.ID == id {
					out = append(out, a)
				}
			}
			return out
		}
		require.Empty(t, acks())
		carol := types.NewJID("491700000003", types.DefaultUserServer)
		send := func(tag string, attrs waBinary.Attrs) {
			require.NoError(t, h.cli.DangerousInternals().SendNode(within(t, time.Minute), waBinary.Node{Tag: tag, Attrs: attrs}))
		}
		for i, a := range []waBinary.Attrs{
			{"class": "message", "id": id, "to": carol},
			{"class": "message", "id": id, "to": from, "participant": carol},
			{"class": "message", "id": "another", "to": from},
			{"class": "notification", "id": id, "to": from},
		} {
			send("ack", a)
			eventually(t, "the ack", func() bool { return len(acks()) == i+1 })
			require.True(t, acks()[i].Unasked, "%v", a)
			require.Equal(t, []string{id}, d.Pending(), "%v", a)
		}
		before := d.Stats().Receipts
		for i, a := range []waBinary.Attrs{
			{"id": id, "to": from, "type": "read"},
			{"id": "another", "to": from},
			{"id": id, "to": from, "type": "retry"},
		} {
			send("receipt", a)
			eventually(t, "the receipt", func() bool { return d.Stats().Receipts == before+i+1 })
			require.Len(t, acks(), 4, "%v", a)
			require.Contains(t, d.Pending(), id, "%v", a)
		}
		send("receipt", waBinary.Attrs{"id": id, "to": from})
		eventually(t, "acknowledged", func() bool { return len(acks()) > 4 })
		last := acks()[4]
		require.Equal(t, "receipt", last.By)
		require.False(t, last.Unasked, "%+v", acks())
		require.Equal(t, 1, last.Sends)
		h.end()
	})
}

func TestAMessageThatDoesNotDecryptIsAskedForAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		bob, eve := newContact(t, s, "491700000002"), newContact(t, s, "491700000003")
		ctx := within(t, time.Minute)
		_, err := bob.Send(ctx, eve.JID(), "before")
		require.NoError(t, err)
		eventually(t, "there", func() bool { return len(eve.Texts()) == 1 })
		_, err = eve.Send(ctx, bob.JID(), "answer")
		require.NoError(t, err)
		eventually(t, "answered", func() bool { return len(bob.Texts()) == 1 })
		lid := bob.Account().Devices()[0].LID()
		require.NoError(t, eve.Client().Store.Sessions.DeleteSession(ctx, lid.SignalAddress().String()))
		_, err = bob.Send(ctx, eve.JID(), "lost")
		require.NoError(t, err)
		eventually(t, "sent again", func() bool { return len(eve.Texts()) == 2 })
		// a client that addresses by LID knows its session and renews it only when
		// it is asked a second time
		require.Contains(t, []int{1, 2}, eve.Undecryptable())
		require.Equal(t, eve.Undecryptable(), eve.Received()[1].Retry)
		require.Equal(t, eve.Undecryptable(), eve.Account().Devices()[0].Stats().RetryReceipts)
	})
}

func TestAMessageReachesTheSendersOtherDevices(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		alice := newContact(t, s, "491700000001")
		bob := newContact(t, s, "491700000002")
		ctx := within(t, time.Minute)
		_, err := alice.Send(ctx, bob.JID(), "one device")
		require.NoError(t, err)
		h := online(t, s, alice.Account()) // the device list that alice has is old now
		eventually(t, "told", func() bool {
			return alice.Account().Devices()[0].Stats().StanzasOut["notification"] > 0
		})
		_, err = alice.Send(ctx, bob.JID(), "two devices")
		require.NoError(t, err)
		eventually(t, "copied", func() bool { return len(texts(h)) == 1 })
		m := got[*events.Message](h)[0]
		require.True(t, m.Info.IsFromMe)
		require.True(t, isOf(bob, m.Info.Chat), "%s", m.Info.Chat)
		require.True(t, isOf(alice, m.Info.Sender), "%s", m.Info.Sender)
		h.end()
	})
}

func TestMessagesMayBeAddressedByLID(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		ctx := within(t, time.Minute)
		_, err := a.Send(ctx, b.Account().LID(), "by LID")
		require.NoError(t, err)
		_, err = b.Send(ctx, a.Account().LID(), "back")
		require.NoError(t, err)
		_, err = a.Send(ctx, b.JID(), "by PN")
		require.NoError(t, err)
		eventually(t, "there", func() bool { return len(b.Texts()) == 2 && len(a.Texts()) == 1 })
		require.Equal(t, a.Account().LID(), b.Received()[0].Chat)
		require.True(t, isOf(a, b.Received()[1].Chat), "newer clients address by LID whatever they are asked")
		require.Zero(t, a.Undecryptable()+b.Undecryptable())
	})
}

// isOf reports whether an address is one of a contact's two, with or without a
// device.
func isOf(c *wasim.Contact, j types.JID) bool {
	j = j.ToNonAD()
	return j == c.JID() || j == c.Account().LID()
}

func TestThePhoneIsInTheListIfAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		s := wasim.New(wasim.WithTB(t), wasim.WithPhones())
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		_, err := a.Send(t.Context(), b.JID(), "x")
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, []string{"x"}, b.Texts())
		devices, err := a.Client().GetUserDevices(t.Context(), []types.JID{b.JID()})
		require.NoError(t, err)
		require.Len(t, devices, 2)
		s.Close()
	})
}

func TestAnUnknownQueryIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		tb := &recorder{TB: t}
		s := wasim.New(wasim.WithTB(tb))
		c, err := s.NewContact(t.Context(), "491700000001")
		require.NoError(t, err)
		_, err = c.Client().GetBotListV2(t.Context())
		require.Error(t, err)
		require.Len(t, tb.seen(), 1)
		require.Len(t, s.Unknown(), 1)
		require.Equal(t, "bot", s.Unknown()[0].XMLNS)
		s.Close()

		s = wasim.New(wasim.WithTB(tb), wasim.OnUnknown(func(u wasim.Unknown) bool { return u.XMLNS == "bot" }))
		c, err = s.NewContact(t.Context(), "491700000001")
		require.NoError(t, err)
		_, err = c.Client().GetBotListV2(t.Context())
		require.Error(t, err)
		require.Len(t, tb.seen(), 1, "allowed")
		require.Empty(t, s.Unknown())
		s.Close()
	})
}

// recorder is a TB that remembers, and has the real one close the service.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	errs []string
}

func (r *recorder) Errorf(f string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, fmt.Sprintf(f, a...))
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.errs)
}

func TestWhatTheProtocolForbidsIsRefused(t *testing.T) {
	enc := []waBinary.Node{{Tag: "enc", Attrs: waBinary.Attrs{"type": "msg", "v": "2"}, Content: []byte("x")}}
	to := func(j types.JID, c []waBinary.Node) waBinary.Node {
		return waBinary.Node{Tag: "to", Attrs: waBinary.Attrs{"jid": j}, Content: c}
	}
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		tb := &recorder{TB: t}
		s := wasim.New(wasim.WithTB(tb))
		a, err := s.NewContact(t.Context(), "491700000001")
		require.NoError(t, err)
		b := s.NewAccount("491700000002")
		stranger := s.NewAccount("491700000003")
		g := s.NewGroup("others", b)
		for i, n := range []waBinary.Node{
			{Attrs: waBinary.Attrs{"to": b.JID()}, Content: []waBinary.Node{{Tag: "participants", Content: []waBinary.Node{to(b.JID(), nil)}}}},
			{Attrs: waBinary.Attrs{"to": b.JID()}, Content: []waBinary.Node{{Tag: "participants", Content: []waBinary.Node{to(stranger.JID(), enc)}}}},
			{Attrs: waBinary.Attrs{"to": b.JID()}, Content: []waBinary.Node{{Tag: "participants", Content: []waBinary.Node{to(b.LID(), enc)}}}},
			{Attrs: waBinary.Attrs{"to": b.JID()}, Content: []waBinary.Node{{Tag: "participants", Content: []waBinary.Node{to(*a.Client().Store.ID, enc)}}}},
			{Attrs: waBinary.Attrs{"to": b.JID()}},
			{Attrs: waBinary.Attrs{"to": g.JID()}, Content: enc},
		} {
			n.Tag = "message"
			n.Attrs["id"] = fmt.Sprint("bad", i)
			n.Attrs["type"] = "text"
			wait := a.Client().DangerousInternals().WaitResponse(fmt.Sprint("bad", i))
			require.NoError(t, a.Client().DangerousInternals().SendNode(context.Background(), n))
			ack := <-wait
			require.Equal(t, "479", ack.Attrs["error"], "message %d", i)
			require.Len(t, s.Violations(), i+1)
			require.Len(t, tb.seen(), i+1)
		}
		s.Close()
	})
}

func TestReceiptsComeBackToTheSender(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		id, err := a.SendMessage(within(t, time.Minute), b.JID(), &waE2E.Message{Conversation: proto.String("x")})
		require.NoError(t, err)
		eventually(t, "delivered", func() bool { return len(a.Receipts()) == 1 })
		require.Equal(t, []string{id}, a.Receipts()[0].MessageIDs)
		require.NoError(t, b.Client().MarkRead(t.Context(), []string{id}, time.Now(), a.JID(), a.JID()))
		eventually(t, "read", func() bool { return len(a.Receipts()) == 2 })
		require.Equal(t, types.ReceiptTypeRead, a.Receipts()[1].Type)
		eventually(t, "all acknowledged", func() bool {
			return len(a.Account().Devices()[0].Acks()) == 2
		})
	})
}
