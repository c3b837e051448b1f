package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waCommon"
	"go.mau.fi/whatsmeow/proto/waConsumerApplication"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
)

// The first message of a member of a group brings the member's key, which is a part of
// its own and has no text.
func TestPartThatWasTakenIsNotHandedOverAgainForAnotherThatPanicked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.refuse = func(e *events.Message) bool { _ = *e.Message.Conversation; return false }
		a.run().pair()
		peer := w.peer()
		group := w.sim.NewGroup("team", w.account, peer.Account())
		_, err := peer.SendMessage(t.Context(), group.JID(), text("hello"))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Equal(t, 1, a.balanced().By[stability.MessageKept].Count, "the key")
		time.Sleep(time.Hour)
		require.Equal(t, []string{"hello"}, a.texts(), "once")
		require.Len(t, a.m.Messages(), 1)
		a.balanced()
		a.stop()
	})
}

// There is a kind of message that comes as an event of its own.
func TestPanicAtAnotherKindOfMessageIsNotCountedAsHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.heed(func(evt any) {
			if _, ok := evt.(*events.FBMessage); ok {
				panic("what is this?")
			}
		})
		a.run().pair()
		w.getMessage("first")
		w.await("it is handled", func() bool { return len(a.texts()) == 1 })
		_, err := w.peer().Client().SendFBMessage(t.Context(), w.account.JID(), &waConsumerApplication.ConsumerApplication{
			Payload: &waConsumerApplication.ConsumerApplication_Payload{Payload: &waConsumerApplication.ConsumerApplication_Payload_Content{
				Content: &waConsumerApplication.ConsumerApplication_Content{Content: &waConsumerApplication.ConsumerApplication_Content_MessageText{
					MessageText: &waCommon.MessageText{Text: proto.String("hello")},
				}},
			}},
		}, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		r := a.balanced()
		require.EqualValues(t, 1, r.Handled, "%+v", a.m.Messages())
		require.Equal(t, 1, r.SetAside.Count)
		require.Contains(t, a.m.Messages()[0].Why, "what is this?; its content could not be kept")
		a.stop()
	})
}
