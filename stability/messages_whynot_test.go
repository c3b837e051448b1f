package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// Whoever asks for something that cannot be done with a message is told why.
func TestWhatCannotBeDoneWithAMessageIsSaid(t *testing.T) {
	purge := func(a *tended) error { return a.m.PurgeMessage(context.Background(), a.m.Messages()[0].Entry) }
	redeliver := func(a *tended) error { return a.m.Redeliver(context.Background(), a.m.Messages()[0].Entry) }
	t.Run("with a handler", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a", stability.WithAutoHeal(noHeal))
			tries, back := 0, make(chan struct{})
			a.refuse = func(e *events.Message) bool {
				if e.Message.GetConversation() == "kept" {
					if tries++; tries == 1 {
						panic("not yet")
					}
					<-back
				}
				return false
			}
			a.run().pair()
			w.getMessage("kept")
			w.await("it is with a handler", func() bool {
				list := a.m.Messages()
				return len(list) == 1 && list[0].State == stability.MessageInHand
			})
			require.ErrorIs(t, purge(a), stability.ErrMessageInHand)
			require.ErrorIs(t, redeliver(a), stability.ErrMessageInHand)
			entry := a.m.Messages()[0].Entry
			close(back)
			time.Sleep(time.Minute)
			require.ErrorIs(t, a.m.PurgeMessage(t.Context(), entry), stability.ErrNoMessage)
			a.stop()
		})
	})
	t.Run("refused", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a", stability.WithAutoHeal(noHeal))
			a.refuse = func(*events.Message) bool { return true }
			a.run().pair()
			w.getMessage("refused")
			time.Sleep(10 * time.Second)
			require.ErrorIs(t, purge(a), stability.ErrMessageAtService)
			require.ErrorIs(t, redeliver(a), stability.ErrMessageAtService)
			a.stop()
		})
	})
	t.Run("left alone", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			m := newMortal(w, func(text string) bool { return text == "poison" })
			m.start().pair()
			time.Sleep(2 * time.Second)
			w.getMessage("poison")
			m.live(5 * time.Minute)
			require.ErrorIs(t, purge(m.now), stability.ErrMessageAtService)
			require.NoError(t, redeliver(m.now))
			close(m.over)
			m.now.stop()
		})
	})
	t.Run("before the book is read", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.byHand()
			ok, err := a.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.True(t, ok)
			require.ErrorIs(t, a.m.PurgeMessage(t.Context(), "any"), stability.ErrMessagesUnread)
			require.ErrorIs(t, a.m.Redeliver(t.Context(), "any"), stability.ErrMessagesUnread)
			_, err = a.m.AuthState(t.Context())
			require.NoError(t, err)
			require.ErrorIs(t, a.m.PurgeMessage(t.Context(), "any"), stability.ErrNoMessage)
			require.NoError(t, a.m.Close(t.Context()))
		})
	})
}
