package stability_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
)

// The key of a group's member was removed for its age, and the member writes
// again without bringing it along.
func TestSweptSenderKeyCostsOneRetryReceiptAndNoMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal),
			stability.WithAuthStoreOptions(authstore.WithRetention(authstore.Retention{SenderKeys: 24 * time.Hour}))).run().pair()
		peer := w.peer()
		group := w.sim.NewGroup("team", w.account, peer.Account())
		say := func(s string) {
			_, err := peer.Client().SendMessage(t.Context(), group.JID(), text(s))
			require.NoError(t, err)
			time.Sleep(time.Minute)
			require.True(t, slices.Contains(a.texts(), s), s)
		}
		receipts := func() int { return w.device().Stats().RetryReceipts }
		say("with the key")
		group.WithoutKeys(1)
		say("it is known")
		require.Zero(t, receipts())
		for range 5 {
			time.Sleep(12 * time.Hour)
			_, err := peer.Client().SendMessage(t.Context(), w.account.JID(), text("to one"))
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		group.WithoutKeys(1)
		say("the key is gone")
		require.Equal(t, 1, receipts())
		r := a.balanced()
		require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}
