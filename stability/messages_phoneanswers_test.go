package stability_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestPhoneThatAnswersEachOfManyRequestsIsHeardOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		require.Greater(t, a.m.Messages()[0].Tries, 2, "asked again and again")
		before := w.device().Stats().PeerRequests
		w.account.Phone().On()
		time.Sleep(time.Minute)
		require.Greater(t, w.device().Stats().PeerRequests-before, 2, "each was answered")
		require.Equal(t, []string{"lost?"}, a.written())
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}

// A user has two names. The phone may answer by the one that the message did not have.
func TestPhoneThatAnswersByAnotherNameIsHeardOnce(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]wasim.Option{"the LID": nil, "the number": {wasim.WithLIDFirst()}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorldOn(t, opts...)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().ByOtherName().Late()
				_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				time.Sleep(2 * time.Hour)
				require.Len(t, a.m.Messages(), 1)
				w.account.Phone().On()
				time.Sleep(12 * time.Hour)
				require.Equal(t, []string{"lost?"}, a.written())
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}

// The sender sends it again while the phone is off, and the phone answers then.
func TestPhoneThatAnswersBehindTheSenderIsNotHeard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		carol := w.writer()
		id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
		time.Sleep(time.Minute)
		require.Empty(t, a.m.Messages())
		before := w.device().Stats().PeerRequests
		w.account.Phone().On()
		time.Sleep(time.Minute)
		require.Greater(t, w.device().Stats().PeerRequests, before, "it was answered")
		require.Equal(t, []string{"lost?"}, a.written())
		a.balanced()
		a.stop()
	})
}

// The sender sends it again, and then something unreadable under the same id: the
// same once more, or another message.
func TestPhoneIsHeardOfAnEntryUnderAnIDThatWasFound(t *testing.T) {
	for second, want := range map[string][]string{"lost?": {"lost?"}, "another": {"lost?", "another"}} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
			require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
			carol := w.writer()
			w.account.Phone().Late()
			id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
			require.NoError(t, err)
			time.Sleep(time.Second)
			require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
			w.await("it is handled", func() bool { return len(a.written()) == 1 })
			require.Empty(t, a.m.Messages())
			require.NoError(t, carol.SendUnreadableAs(id, w.account.JID(), text(second)))
			time.Sleep(time.Second)
			require.Len(t, a.m.Messages(), 1)
			w.account.Phone().On()
			time.Sleep(20 * time.Minute)
			require.Empty(t, a.m.Messages(), "the phone has answered")
			require.Equal(t, want, a.written())
			a.balanced()
			a.stop()
		})
	}
}

// The phone answers, and the sender, who was off, sends the message again the next day.
func TestSenderWhoSendsAgainBehindThePhoneIsNotHeard(t *testing.T) {
	for name, send := range map[string]func(*wasim.Phone, string, types.JID, *waE2E.Message) error{
		"readable":   (*wasim.Phone).SendAs,
		"unreadable": (*wasim.Phone).SendUnreadableAs,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				w.await("the phone has sent it", func() bool { return slices.Contains(a.texts(), "lost?") })
				time.Sleep(10 * time.Hour)
				before, asked := a.balanced().Repeated, w.device().Stats().PeerRequests
				require.NoError(t, send(carol, id, w.account.JID(), text("lost?")))
				time.Sleep(10 * time.Minute)
				require.Equal(t, []string{"lost?"}, a.written(), "once")
				require.Equal(t, asked, w.device().Stats().PeerRequests, "the phone is not asked for it")
				require.Equal(t, before+1, a.balanced().Repeated)
				require.NoError(t, carol.SendAs("3EB0AAAABBBBCCCCDDDD", w.account.JID(), text("next")))
				w.await("the next is handled", func() bool { return slices.Contains(a.texts(), "next") })
				a.stop()

				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready() // another process
				w.await("it is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
				time.Sleep(time.Minute)
				require.Equal(t, []string{"lost?", "next"}, append(a.written(), b.written()...))
				require.Empty(t, b.m.Messages())
				b.balanced()
				b.stop()
			})
		})
	}
}

func TestMessageOfThePhoneThatIsRefusedIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var tries atomic.Int32
		a.refuse = func(e *events.Message) bool {
			return e.Message.GetConversation() == "lost?" && tries.Add(1) < 4
		}
		a.run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		w.await("the handler refused it", func() bool { return tries.Load() == 1 })
		time.Sleep(time.Second)
		require.Equal(t, 1, a.balanced().By[stability.MessageKept].Count, "whatsmeow has acknowledged the phone's answer")
		w.await("it is handled", func() bool { return slices.Contains(a.texts(), "lost?") })
		require.EqualValues(t, 4, tries.Load())
		time.Sleep(2 * time.Second)
		require.Empty(t, a.m.Messages())
		a.stop()
	})
}
