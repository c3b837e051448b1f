package stability_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// brokenKey is a group message with text and a sender key that whatsmeow panics at.
func brokenKey(s string, key []byte) *waE2E.Message {
	m := text(s)
	m.SenderKeyDistributionMessage = &waE2E.SenderKeyDistributionMessage{
		GroupID: proto.String("1@g.us"), AxolotlSenderKeyDistributionMessage: key,
	}
	return m
}

// Without a catch of our own this ends the test's process.
func TestMalformedSenderKeyEndsNoProcessAndLosesNoText(t *testing.T) {
	for what, key := range map[string][]byte{
		"empty":                {},
		"empty signing key":    {0x33, 0x08, 1, 0x10, 0, 0x1a, 1, 7, 0x22, 0},
		"no protobuf":          {0x33, 0xff, 0xff},
		"an old version":       {0x11, 0x08, 1},
		"the key is cut short": {0x33, 0x08, 1, 0x10, 0, 0x1a, 1, 7, 0x22, 1, 5},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				bob := w.peer()
				group := w.sim.NewGroup("team", w.account, bob.Account())
				_, err := bob.SendMessage(t.Context(), group.JID(), brokenKey("broken", key))
				require.NoError(t, err)
				_, err = w.writer().Send(w.account.JID(), "behind it")
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.ElementsMatch(t, []string{"broken", "behind it"}, a.written(), "%+v", a.m.Messages())
				r := a.balanced()
				require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
				require.Empty(t, w.device().Pending())
				a.stop()

				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				time.Sleep(time.Hour)
				require.Empty(t, b.written(), "it does not come again")
				require.Zero(t, b.m.Status().Messages.Received.PerhapsHandled)
				b.stop()
			})
		})
	}
}

func TestWhatWhatsmeowPanicsAtBeforeItDecryptsIsToldWithinAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		carol := w.writer()
		const id = "3EB0AAAABBBBCCCCDDDD"
		w.sim.Fault(wasim.Stanza(waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{
			"id": id, "t": time.Now().Unix(), "type": "text", "from": w.sim.NewAccount("491520000009").JID(),
		}, Content: []waBinary.Node{{ // its keys are empty
			Tag: "enc", Attrs: waBinary.Attrs{"type": "pkmsg", "v": "2"}, Content: []byte{0x33, 0x12, 0, 0x1a, 0, 0x22, 0},
		}}})).For(w.account.JID()).Now()
		_, err := carol.Send(w.account.JID(), "behind it")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.True(t, slices.Contains(a.texts(), "behind it"))
		r := a.balanced()
		require.Equal(t, 1, r.By[stability.MessageUndecrypted].Count, "%+v", r)
		require.Contains(t, r.Text, "One message could not be decrypted")
		msg := a.m.Messages()[0]
		require.Equal(t, id, msg.ID)
		require.Equal(t, "491520000009", msg.Sender.User)
		require.Contains(t, msg.Why, "whatsmeow panicked at it")
		a.stop()
	})
}

// The first message of a group's member has two parts: the sender's key, and the
// text behind it. whatsmeow does not come to the text, so nobody has handled it.
func TestTextBehindAMalformedKeyIsNotTakenForHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		bob := w.peer()
		group := w.sim.NewGroup("team", w.account, bob.Account())
		_, err := bob.SendMessage(t.Context(), group.JID(), text("a good one"))
		require.NoError(t, err)
		w.await("the key is known", func() bool { return len(a.written()) == 1 })

		key, err := proto.Marshal(&waE2E.Message{SenderKeyDistributionMessage: &waE2E.SenderKeyDistributionMessage{
			GroupID: proto.String(group.JID().String()), AxolotlSenderKeyDistributionMessage: []byte{},
		}})
		require.NoError(t, err)
		ours, in := w.device().JID(), bob.Client().DangerousInternals()
		lid := a.m.Client().Store.GetLID() // the session stands under it
		enc, _, err := in.EncryptMessageForDevice(t.Context(), key, lid, nil, nil, map[string]bool{lid.SignalAddress().String(): true})
		require.NoError(t, err)
		require.NoError(t, in.SendNode(t.Context(), waBinary.Node{
			Tag: "message", Attrs: waBinary.Attrs{"id": bob.Client().GenerateMessageID(), "type": "text", "to": group.JID()},
			Content: []waBinary.Node{
				{Tag: "participants", Content: []waBinary.Node{{Tag: "to", Attrs: waBinary.Attrs{"jid": ours}, Content: []waBinary.Node{*enc}}}},
				{Tag: "enc", Attrs: waBinary.Attrs{"v": "2", "type": "skmsg"}, Content: []byte("the text")},
			},
		}))
		time.Sleep(time.Minute)
		require.Len(t, a.written(), 1)
		r := a.balanced()
		require.Equal(t, 1, r.By[stability.MessageUndecrypted].Count, "%+v", r)
		require.Empty(t, w.device().Pending())
		a.stop()
		w.close()
	})
}
