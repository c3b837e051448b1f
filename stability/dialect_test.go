package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Newer clients address each other by LID, and so do the people who write to us.
func TestChatsByLIDAreServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorldOn(t, wasim.WithLIDFirst())
		a := w.instance().run().pair()
		chats := make(chan *events.Message, 8)
		a.heed(func(evt any) {
			if m, ok := evt.(*events.Message); ok {
				chats <- m
			}
		})
		peer := w.peer()
		for _, text := range []string{"before", "after"} {
			_, err := peer.Send(t.Context(), w.account.JID(), text)
			require.NoError(t, err)
			m := <-chats
			require.Equal(t, peer.Account().LID(), m.Info.Chat)
			require.NoError(t, a.send(m.Info.Chat, "answer to "+text))
			w.await("the answer", func() bool { texts := peer.Texts(); return len(texts) > 0 && texts[len(texts)-1] == "answer to "+text })
			n := len(a.history(stability.EventConnected))
			w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
			a.reached(n+1, stability.EventConnected)
		}
		require.Zero(t, w.device().Stats().RetryReceipts)
		a.stop()
	})
}

// A clock that is wrong is no forged server: only newer clients look at the
// bounds of the certificate.
func TestCertificateOutOfItsTimeIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		time.Sleep(2 * time.Minute)
		a.forget()
		expired := w.sim.Fault(wasim.CertificateValid(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))).Times(2).OnNextLogin()
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		a.reached(1, stability.EventDisconnected)
		a.ready()
		ends := a.history(stability.EventDisconnected)
		if len(ends) == 1 {
			a.stop()
			t.Skip("this whatsmeow does not look at the bounds of the certificate")
		}
		require.Equal(t, 2, expired.Fired())
		require.Len(t, ends, 3)
		for _, e := range ends[1:] {
			require.Equal(t, reconnect.ReasonNetworkUnreachable, e.Reason)
			require.Contains(t, e.Detail, "this machine's clock is wrong")
			require.True(t, e.Decision.ShouldReconnect)
		}
		a.stop()
	})
}
