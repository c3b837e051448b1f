package stability_test

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// writer is a phone whose messages need no client; it is off, so it answers no
// retry receipt.
func (w *world) writer() *wasim.Phone { return w.sim.NewAccount("491520000007").Phone() }

// written are the texts that were handed over, without the messages that have none:
// the phone shares its keys in one, a sender its own.
func (i *instance) written() []string {
	return slices.DeleteFunc(i.texts(), func(s string) bool { return s == "" })
}

func TestUndecryptableMessageIsAskedOfThePhoneUntilItIsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		a.m.Client().AutomaticMessageRerequestFromPhone = false
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys(), "as a phone does after pairing")
		carol := w.writer()
		id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		w.await("it is an entry", func() bool {
			return a.m.Status().Messages.Received.By[stability.MessageUndecrypted].Count == 1
		})
		a.balanced()
		list := a.m.Messages()
		require.Len(t, list, 1)
		require.Equal(t, id, list[0].ID)
		require.Equal(t, "491520000007", list[0].Sender.User)
		require.False(t, list[0].HasContent)
		require.Contains(t, a.m.Status().Messages.Received.Text, "could not be decrypted")
		w.await("it is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
		w.await("the phone has sent it", func() bool { return slices.Contains(a.texts(), "lost?") })
		time.Sleep(2 * time.Second)
		require.Empty(t, a.m.Messages())
		require.Zero(t, a.balanced().Waiting.Count)
		a.stop()
	})
}

// The sender sends it again from its other name, and the phone is asked no more.
func TestMessageThatComesAgainByAnotherNameIsTheSame(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]wasim.Option{"the LID": nil, "the number": {wasim.WithLIDFirst()}} {
		for again, mood := range map[string]int32{"readable": 0, "refused at first": 3, "unreadable": 0} {
			t.Run(name+", "+again, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorldOn(t, opts...)
					a := w.instance(stability.WithAutoHeal(noHeal))
					var fails atomic.Int32
					a.refuse = func(e *events.Message) bool { return e.Message.GetConversation() != "" && fails.Add(-1) >= 0 }
					a.run().pair()
					require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
					w.account.Phone().Late()
					carol := w.writer()
					id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
					require.NoError(t, err)
					time.Sleep(time.Second)
					require.Len(t, a.m.Messages(), 1)
					carol.ByOtherName()
					fails.Store(mood)
					if again == "unreadable" {
						require.NoError(t, carol.SendUnreadableAs(id, w.account.JID(), text("lost?")))
						time.Sleep(time.Second)
						require.Len(t, a.m.Messages(), 1, "the phone is asked for one")
					} else {
						require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
					}
					time.Sleep(2 * time.Hour)
					w.account.Phone().On()
					time.Sleep(2 * time.Hour)
					if again == "unreadable" { // two wait for the phone
						time.Sleep(10 * time.Hour)
					}
					require.Equal(t, []string{"lost?"}, a.written(), "once")
					require.Empty(t, a.m.Messages())
					require.Empty(t, w.device().Pending())
					a.balanced()
					a.stop()
				})
			})
		}
	}
}

func TestMessageThatNobodySendsAgainEndsAsAnEntryWithoutContent(t *testing.T) {
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		a.m.Client().AutomaticMessageRerequestFromPhone = false
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost"))
		require.NoError(t, err)
		w.await("it is an entry", func() bool { return len(a.m.Messages()) == 1 })
		entry := a.m.Messages()[0].Entry
		a.stop()
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		require.Len(t, b.m.Messages(), 1, "another instance knows it")
		time.Sleep(24 * time.Hour)
		tries := b.m.Messages()[0].Tries
		require.Greater(t, tries, 5, "the phone was asked again and again")
		b.stop()
		time.Sleep(13 * 24 * time.Hour)
		b = w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		w.await("it is set aside", func() bool { return b.m.Status().Messages.Received.SetAside.Count == 1 })
		last := b.m.Messages()[0]
		require.Equal(t, entry, last.Entry)
		require.Equal(t, "491520000007", last.Sender.User)
		require.False(t, last.Sent.IsZero())
		require.GreaterOrEqual(t, last.Tries, tries)
		require.ErrorIs(t, b.m.Redeliver(t.Context(), entry), stability.ErrNoMessage, "there is nothing to hand over")
		w.await("an operator is told", func() bool { return len(b.book.of(guard.TypeMessagesSetAside.ActiveID())) == 1 })
		require.NoError(t, b.m.PurgeMessage(t.Context(), entry))
		w.await("it is over", func() bool { return len(b.book.of(guard.TypeMessagesSetAside.ActiveID())) == 2 })
		require.Zero(t, b.balanced().SetAside.Count)
		b.stop()
	})
}

// Nobody misses a view-once message: the phone alone is given it.
func TestMessageForThePhoneAloneNeedsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		w.sim.Fault(wasim.Stanza(waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{
			"id": "3EB0AAAABBBBCCCCDDDD", "t": time.Now().Unix(), "type": "media", "from": w.sim.NewAccount("491520000009").JID(),
		}, Content: []waBinary.Node{{Tag: "unavailable", Attrs: waBinary.Attrs{"type": "view_once"}}}})).For(w.account.JID()).Now()
		w.await("it is an entry", func() bool { return a.balanced().By[stability.MessageUndecrypted].Count == 1 })
		time.Sleep(2 * time.Hour)
		r := a.balanced()
		require.Empty(t, r.Missed)
		require.Contains(t, r.Text, "One message is for the phone alone")
		require.Empty(t, r.Do)
		require.Equal(t, 3, a.m.Messages()[0].Tries, "so often the phone was asked")
		a.stop()
		time.Sleep(14 * 24 * time.Hour)
		a = w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		w.await("it is set aside", func() bool { return a.balanced().SetAside.Count == 1 })
		time.Sleep(time.Hour)
		r = a.balanced()
		require.Empty(t, r.Missed)
		require.Contains(t, r.Text, "One message was set aside without content, for the phone alone")
		require.Empty(t, r.Do)
		require.Empty(t, a.book.of(guard.TypeMessagesSetAside.ActiveID()))
		a.stop()
	})
}

func TestUndecryptableMessageIsNotedBeforeItIsAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(time.Minute)
		// The store falls silent while the entry is written: had the message been
		// acknowledged before, nobody would know of it any more.
		a.wire.hang(only("commit"))
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.Len(t, w.device().Pending(), 1, "not acknowledged before it is noted")
		a.wire.heal()
		w.await("it is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
		require.Len(t, a.m.Messages(), 1)
		a.stop()
	})
}

func TestPhoneIsNotFloodedUnderTraffic(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		a.m.Client().AutomaticMessageRerequestFromPhone = false
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		time.Sleep(time.Minute)
		carol := w.writer()
		var asked []int // by second
		look := func() {
			n := 0
			for _, m := range a.m.Messages() {
				n += m.Tries
			}
			asked = append(asked, n)
		}
		for range 50 {
			for range 4 {
				_, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				time.Sleep(250 * time.Millisecond)
			}
			look()
		}
		w.await("all are entries", func() bool { return len(a.m.Messages()) == 200 })
		for range 8 * 60 { // each is asked for first after five minutes
			time.Sleep(time.Second)
			look()
		}
		a.balanced()
		require.Greater(t, asked[len(asked)-1], 25, "it is asked all the while")
		for i := range asked[29:] {
			require.LessOrEqual(t, asked[i+29]-asked[i], 5)
		}
		a.stop()
	})
}

// WhatsApp refuses each request to the phone for two hours. None counts as one that the
// phone has had, and the phone is asked when requests are taken again.
func TestRequestThatWhatsAppRefusesIsNoTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		a.m.Client().AutomaticMessageRerequestFromPhone = false
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		refuse := w.sim.Fault(wasim.MessageNack(479)).For(w.account.JID()).Always().Now()
		_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		list := a.m.Messages()
		require.Len(t, list, 1)
		require.Zero(t, list[0].Tries)
		require.False(t, list[0].LastTry.IsZero())
		refuse.Stop()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"lost?"}, a.written())
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}
