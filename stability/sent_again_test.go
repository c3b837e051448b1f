package stability_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// deliver sends a message and waits until the contact has it.
func deliver(t *testing.T, i *instance, peer *wasim.Contact, to types.JID, m *waE2E.Message) wasim.Received {
	t.Helper()
	resp, err := i.m.Client().SendMessage(context.Background(), to, m)
	require.NoError(t, err)
	time.Sleep(time.Minute)
	for _, r := range peer.Received() {
		if r.ID == resp.ID {
			return r
		}
	}
	require.Fail(t, "the contact has not got the message")
	return wasim.Received{}
}

// askAgain lets the contact say that it could not decrypt a message, as its
// client does, and gives what came again.
func askAgain(t *testing.T, peer *wasim.Contact, r wasim.Received) (again []wasim.Received) {
	t.Helper()
	info := r.Event.Info
	attrs := waBinary.Attrs{"id": r.ID, "from": info.Sender, "t": info.Timestamp.Unix()}
	if info.IsGroup {
		attrs["from"], attrs["participant"] = info.Chat, info.Sender
	}
	before := len(peer.Received())
	peer.Client().DangerousInternals().SendRetryReceipt(context.Background(), &waBinary.Node{Tag: "message", Attrs: attrs}, &info, true)
	time.Sleep(time.Minute)
	return peer.Received()[before:]
}

// keepsByItself reports whether this whatsmeow keeps what it sends by itself.
func keepsByItself(c *whatsmeow.Client) bool {
	f := reflect.ValueOf(c).Elem().FieldByName("UseRetryMessageStore")
	return f.IsValid() && f.Bool()
}

func TestRetryReceiptADayAndTwoHandOversLaterIsAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance().run().pair()
		peer := w.peer()
		_, err := peer.Send(t.Context(), w.account.JID(), "hello")
		require.NoError(t, err)
		group := w.sim.NewGroup("team", w.account, peer.Account())
		time.Sleep(time.Minute)
		want := &waE2E.Message{ExtendedTextMessage: &waE2E.ExtendedTextMessage{Text: proto.String("kept"), MatchedText: proto.String("exactly")}}
		direct := deliver(t, i, peer, peer.JID(), proto.Clone(want).(*waE2E.Message))
		grouped := deliver(t, i, peer, group.JID(), proto.Clone(want).(*waE2E.Message))
		for range 2 {
			i.stop()
			i = w.instance().run().ready()
			time.Sleep(12 * time.Hour)
		}
		for _, r := range []wasim.Received{direct, grouped} {
			again := askAgain(t, peer, r)
			require.Len(t, again, 1)
			require.Equal(t, r.ID, again[0].ID)
			require.Equal(t, 1, again[0].Retry)
			got := again[0].Event.Message.GetExtendedTextMessage()
			require.True(t, proto.Equal(want.GetExtendedTextMessage(), got), "%v", got)
		}
		require.Equal(t, stability.Resends{Answered: 2}, i.m.Status().Messages.Resends)
		i.stop()
		w.close()
	})
}

func TestRetryReceiptAfterRetentionIsCountedAndNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		retention := stability.WithAuthStoreOptions(authstore.WithRetention(authstore.Retention{Sent: time.Hour}))
		i := w.instance(retention).run().pair()
		peer := w.peer()
		r := deliver(t, i, peer, peer.JID(), text("soon forgotten"))
		i.stop()
		i = w.instance(retention).run().ready()
		time.Sleep(2 * time.Hour)
		require.Empty(t, askAgain(t, peer, r))
		require.Equal(t, stability.Resends{Unknown: 1}, i.m.Status().Messages.Resends)
		require.Equal(t, stability.ModeActive, i.m.Status().Mode)
		i.stop()
		w.close()
	})
}

// A host's own callback is asked first, also one that it sets while its client
// is in use: then from the next connection on.
func TestHostsOwnAnswerToARetryReceiptComesFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance().run().pair()
		peer := w.peer()
		own := deliver(t, i, peer, peer.JID(), text("the library's"))
		i.stop()
		i = w.instance().run().ready()
		c := i.m.Client()
		if keepsByItself(c) {
			t.Skip("whatsmeow keeps what it sends, and asks nobody")
		}
		hosts := ""
		c.GetMessageForRetry = func(_, _ types.JID, id types.MessageID) *waE2E.Message {
			if hosts == "" {
				return nil
			}
			return text(hosts)
		}
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		time.Sleep(time.Minute)
		i.ready()
		again := askAgain(t, peer, own)
		require.Len(t, again, 1)
		require.Equal(t, "the library's", again[0].Text)
		hosts = "the host's"
		again = askAgain(t, peer, own)
		require.Len(t, again, 1)
		require.Equal(t, "the host's", again[0].Text)
		i.stop()
		w.close()
	})
}

// Without whatsmeow's list of what it has sent, messages are sent as ever, and
// Compat says what is missing.
func TestWithoutItsListOfSentMessagesCompatSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(stability.Without(stability.RelySent)).run().pair()
		peer := w.peer()
		if keepsByItself(i.m.Client()) {
			t.Skip("whatsmeow keeps what it sends, and its list is not needed")
		}
		r := deliver(t, i, peer, peer.JID(), text("sent all the same"))
		require.Equal(t, []string{"sent_plaintext"}, missing(i.m.Status()))
		i.stop()
		i = w.instance().run().ready()
		require.Empty(t, askAgain(t, peer, r))
		require.Equal(t, stability.Resends{Unknown: 1}, i.m.Status().Messages.Resends)
		i.stop()
		w.close()
	})
}
