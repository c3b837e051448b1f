package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A message to a group could not be decrypted for want of the sender's key, which the next
// one has brought. The acknowledgement was lost, and the message comes again: its place in
// the chain of keys is behind by then.
func TestUnreadableMessageThatComesAgainIsStillAskedOfThePhone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run()
		a.pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		time.Sleep(time.Minute)
		w.account.Phone().Late()
		carol := w.peer()
		group := w.sim.NewGroup("team", w.account, carol.Account())
		a.stop()
		group.WithoutKeys(1)
		say := func(s string) {
			_, err := carol.SendMessage(t.Context(), group.JID(), text(s))
			require.NoError(t, err)
		}
		say("without the key")
		say("with the key")

		b := w.tended("b", stability.WithAutoHeal(noHeal))
		b.wire.slow(2 * time.Second)
		b.run()
		w.await("both are read", func() bool { return b.m.Status().Messages.Received.Total >= 2 })
		require.Equal(t, 1, w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now().Fired())
		require.Len(t, w.device().Pending(), 2, "the acknowledgements are lost")
		b.wire.slow(0)
		time.Sleep(10 * time.Minute)
		require.Empty(t, w.device().Pending())
		r := b.balanced()
		require.Equal(t, 1, r.By[stability.MessageUndecrypted].Count, "%+v", b.m.Messages())
		require.Zero(t, r.SetAside.Count)
		w.account.Phone().On()
		time.Sleep(2 * time.Hour)
		require.ElementsMatch(t, []string{"without the key", "with the key"}, b.written())
		require.Empty(t, b.m.Messages())
		b.balanced()
		b.stop()
	})
}
