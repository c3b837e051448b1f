package stability_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// refuses lets the handlers refuse or panic at texts, after some time.
func (n *instance) refuses(takes time.Duration, text string, always bool) {
	refused := false
	n.refuse = func(e *events.Message) bool {
		switch e.Message.GetConversation() {
		case "":
			return false
		case text:
			no := always || !refused
			refused = true
			return no
		default:
			time.Sleep(takes)
			return false
		}
	}
}

// The first of a hundred messages is refused. The others take three minutes, and a new
// connection would begin with them from the start.
func TestRedeliveryWaitsForTheHandlersAndTheirBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.refuses(2*time.Second, "0", false)
		a.run().pair()
		time.Sleep(time.Minute)
		was := w.logins()
		texts := make([]string, 100)
		for i := range texts {
			texts[i] = fmt.Sprint(i)
		}
		_, err := w.writer().Send(w.account.JID(), texts...)
		require.NoError(t, err)
		w.await("the last is handled", func() bool { return slices.Contains(a.texts(), "99") })
		require.Equal(t, was, w.logins(), "the connection has lasted")
		time.Sleep(2 * time.Minute)
		require.Equal(t, was+1, w.logins())
		require.Contains(t, a.texts(), "0", "it has come again")
		require.Len(t, a.texts(), 100, "each once")
		a.balanced()
		a.stop()
	})
}

// Each kept message takes a minute of its handler and is kept again. There are more
// of them than minutes between two logins for what was refused.
func TestRefusedMessageComesAgainBesideManySlowOnes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		refused := 0
		a.refuse = func(e *events.Message) bool {
			switch text := e.Message.GetConversation(); text {
			case "", "fine":
			case "refused":
				refused++
				return refused < 3
			default:
				time.Sleep(55 * time.Second)
				panic(text)
			}
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		carol := w.writer()
		for i := range 20 {
			_, err := carol.Send(w.account.JID(), fmt.Sprint("slow ", i))
			require.NoError(t, err)
		}
		w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == 20 })
		_, err := carol.Send(w.account.JID(), "refused")
		require.NoError(t, err)
		for range 40 {
			time.Sleep(time.Minute)
			_, err := carol.Send(w.account.JID(), "fine")
			require.NoError(t, err)
		}
		require.Contains(t, a.texts(), "refused")
		a.balanced()
		a.stop()
		time.Sleep(time.Minute) // the last handler returns
	})
}

// A message that is always refused makes a login every quarter of an hour, which is when
// the event buffer is looked through.
func TestWhatAKilledProcessLeftIsToldWhileAnotherIsAlwaysRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		carol := w.writer()
		w.leaves(carol, a, "last")
		b := w.tended("b", stability.WithAutoHeal(noHeal))
		b.refuses(0, "never", true)
		b.run().ready()
		_, err := carol.Send(w.account.JID(), "never")
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		require.Equal(t, 1, b.balanced().PerhapsHandled.Count)
		require.Equal(t, 1, b.balanced().By[stability.MessageRefused].Count)
		b.stop()
	})
}
