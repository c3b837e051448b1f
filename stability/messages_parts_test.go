package stability_test

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waCommon"
	"go.mau.fi/whatsmeow/proto/waConsumerApplication"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
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
		time.Sleep(50 * time.Second) // it is handed over again after a minute
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

// The key is refused at each try, so whatsmeow comes to the text only when the key is set aside.
func TestPoisonousMessageIsSetAsideWithAllItsParts(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	refuses := func(*events.Message) bool { return true }
	for name, c := range map[string]struct {
		no    func(*events.Message) bool
		first bool // the handler stands before the Manager's
		gone  bool // the program has removed its handlers at the last try
	}{
		"refused": {no: refuses},
		"refused, and there is no handler in the end": {no: refuses, gone: true},
		"refused before Attach":                       {no: refuses, first: true},
		"the key is refused before Attach, and a handler panics at the text": {no: func(e *events.Message) bool {
			if e.Message.GetConversation() != "" {
				panic("boom")
			}
			return true
		}, first: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var poison atomic.Bool
				var tries atomic.Int32
				poison.Store(true)
				no := func(e *events.Message) bool {
					if !e.Info.IsGroup || !poison.Load() {
						return false
					}
					tries.Add(1)
					return c.no(e)
				}
				opts := []stability.Option{stability.WithAutoHeal(noHeal)}
				if c.first {
					opts = append(opts, first(no))
				}
				begin := func() *instance {
					a := w.instance(opts...)
					if !c.first {
						a.refuse = no
					}
					return a.run()
				}
				a := begin()
				a.pair()
				peer := w.peer()
				group := w.sim.NewGroup("team", w.account, peer.Account())
				_, err := peer.SendMessage(t.Context(), group.JID(), text("hello"))
				require.NoError(t, err)
				peer.Close() // what is missing is in the store, or nowhere
				for i := range 26 {
					time.Sleep(59 * time.Minute)
					if i == 23 && c.gone {
						a.m.Client().RemoveEventHandlers()
					}
					time.Sleep(time.Minute)
					if i < 23 || !c.gone {
						w.getMessage("good")
					}
				}
				time.Sleep(time.Minute)
				before := tries.Load()
				require.GreaterOrEqual(t, before, int32(20))
				a.m.Reconnect()
				time.Sleep(time.Minute)
				require.Empty(t, w.device().Pending(), "it is acknowledged")
				a.balanced()
				list := a.m.Messages()
				require.Len(t, list, 1, "%+v", list)
				a.stop()
				a = begin().ready()
				time.Sleep(time.Minute)
				now := a.m.Messages()
				require.Len(t, now, 1)
				require.Equal(t, list[0].Tries, now[0].Tries, "its row says the same")
				require.Equal(t, stability.MessageSetAside, list[0].State)
				require.True(t, list[0].HasContent)
				require.Zero(t, a.balanced().Waiting.Count)
				logins := w.logins()
				time.Sleep(3 * time.Hour)
				require.Equal(t, before, tries.Load(), "it is left alone")
				require.Equal(t, logins, w.logins())

				poison.Store(false)
				require.NoError(t, a.m.Redeliver(t.Context(), list[0].Entry))
				time.Sleep(time.Minute)
				require.NotEmpty(t, a.texts())
				require.Equal(t, "hello", a.texts()[len(a.texts())-1], "with its text")
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}
