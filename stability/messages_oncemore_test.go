package stability_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
)

// The README says so: nobody remembers for ever what was handled.
func TestHandledMessageThatItsSenderSendsOnceMoreIsHandedOverAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		carol := w.writer()
		require.NoError(t, carol.SendAs("3EB0ONCEMORE", w.account.JID(), text("hello")))
		w.await("it is handled", func() bool { return slices.Contains(a.texts(), "hello") })
		time.Sleep(time.Minute)
		a.stop()
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		require.NoError(t, carol.SendAs("3EB0ONCEMORE", w.account.JID(), text("hello")))
		w.await("it is handed over again", func() bool { return slices.Contains(b.texts(), "hello") })
		time.Sleep(time.Minute)
		require.Empty(t, w.device().Pending())
		b.balanced()
		b.stop()
	})
}
