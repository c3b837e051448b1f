package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// A handler writes into the message that it is given, and does not take it.
func TestMessageThatAHandlerHasChangedIsKeptAsItWasSent(t *testing.T) {
	for name, fail := range map[string]func() bool{
		"refused":  func() bool { return true },
		"panicked": func() bool { panic("not today") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var tries atomic.Int32
				a.refuse = func(e *events.Message) bool {
					if e.Message.GetConversation() == "" || tries.Add(1) > 3 {
						return false
					}
					e.RawMessage.Conversation = text("changed").Conversation
					return fail()
				}
				a.run().pair()
				_, err := w.writer().SendMessage(w.account.JID(), text("as it was sent"))
				require.NoError(t, err)
				w.await("it was tried twice", func() bool { return tries.Load() >= 2 })
				time.Sleep(time.Second)
				require.Len(t, a.m.Messages(), 1, "it is the same message")
				time.Sleep(time.Hour)
				require.Equal(t, []string{"as it was sent"}, a.written())
				require.Empty(t, a.m.Messages())
				require.EqualValues(t, 4, tries.Load())
				a.balanced()
				a.stop()
			})
		})
	}
}

// A handler writes into a message that was missed at first, and takes it.
func TestMessageThatAHandlerHasChangedIsFoundAsItWasSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var given atomic.Int32
		a.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() != "" {
				given.Add(1)
				e.RawMessage.Conversation = text("changed").Conversation
			}
			return false
		}
		a.run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		carol := w.writer()
		id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		for range 2 {
			require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
			time.Sleep(2 * time.Hour)
		}
		w.account.Phone().On()
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, given.Load())
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}
