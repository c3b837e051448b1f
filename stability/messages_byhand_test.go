package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Without Run nobody may have said how to connect, and then the Manager ends no
// connection for what was refused. Status says what it waits for.
func TestByHandRefusedMessageWaitsUntilItIsKnownHowToConnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.byHand(stability.WithAutoHeal(noHeal))
		first.activate()
		first.pair() // which ends a connection, so that one tells how to make another
		require.True(t, first.m.Status().Messages.Received.Redelivers)
		require.NoError(t, first.m.Close(t.Context()))

		h := w.byHand(stability.WithAutoHeal(noHeal))
		var refused atomic.Int32
		h.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() != "refused" {
				return false
			}
			return refused.Add(1) == 1
		}
		h.activate()
		h.ready()
		time.Sleep(time.Minute)
		was := w.logins()
		_, err := w.say("refused")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Equal(t, was, w.logins(), "it has lasted")
		r := h.balanced()
		require.Equal(t, 1, r.By[stability.MessageRefused].Count)
		require.False(t, r.Redelivers)
		require.Contains(t, r.Text, "The library was not told how to connect")
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		w.await("it comes again", func() bool { return refused.Load() == 2 })
		require.True(t, h.balanced().Redelivers)
		h.finish()
	})
}
