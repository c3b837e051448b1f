package stability_test

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

func TestTwoMessagesUnderOneIDAreBothHandled(t *testing.T) {
	const id = "3EB0AAAABBBBCCCCDDDD"
	for name, fail := range map[string]func() bool{
		"the first is handled":          nil,
		"the first is refused":          func() bool { return true },
		"a handler panics at the first": func() bool { panic("not today") },
	} {
		for _, from := range []string{"one sender", "two senders"} {
			t.Run(name+", "+from, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					var mended atomic.Bool
					a := w.instance(stability.WithAutoHeal(noHeal))
					a.refuse = func(e *events.Message) bool {
						return fail != nil && !mended.Load() && e.Message.GetConversation() == "first" && fail()
					}
					a.run().pair()
					carol := w.writer()
					dave := carol
					if from == "two senders" {
						dave = w.sim.NewAccount("491520000008").Phone()
					}
					require.NoError(t, carol.SendAs(id, w.account.JID(), text("first")))
					time.Sleep(5 * time.Second)
					a.balanced()
					require.NoError(t, dave.SendAs(id, w.account.JID(), text("second")))
					w.await("the second is handled", func() bool { return slices.Contains(a.texts(), "second") })
					a.balanced()
					mended.Store(true)
					time.Sleep(time.Hour)
					a.m.Reconnect()
					time.Sleep(20 * time.Minute)
					r := a.balanced()
					require.ElementsMatch(t, []string{"first", "second"}, a.texts(), "%+v", a.m.Messages())
					require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
					require.Empty(t, w.device().Pending())
					a.stop()
				})
			})
		}
	}
}

// The message with other content is not readable, and the kept one stays.
func TestUnreadableMessageTakesNoKeptOnesContent(t *testing.T) {
	const id = "3EB0AAAABBBBCCCCDDDD"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var mended atomic.Bool
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.refuse = func(*events.Message) bool {
			if !mended.Load() {
				panic("not today")
			}
			return false
		}
		a.run().pair()
		carol := w.writer()
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("first")))
		w.await("it is kept", func() bool { return a.m.Status().Messages.Received.By[stability.MessageKept].Count == 1 })
		require.NoError(t, carol.SendUnreadableAs(id, w.account.JID(), text("second")))
		w.await("both are entries", func() bool { return len(a.m.Messages()) == 2 })
		require.EqualValues(t, 2, a.balanced().Total)
		a.stop()
		mended.Store(true)
		b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
		w.await("the first is handled", func() bool { return slices.Contains(b.texts(), "first") })
		time.Sleep(time.Second)
		require.Len(t, b.m.Messages(), 1)
		require.Equal(t, stability.MessageUndecrypted, b.m.Messages()[0].State)
		b.balanced()
		b.stop()
	})
}

func TestLateContentIsHandled(t *testing.T) {
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	for _, by := range []string{"its sender", "the phone"} {
		t.Run(by, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				a.m.Client().AutomaticMessageRerequestFromPhone = false
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("late"))
				require.NoError(t, err)
				w.await("it is an entry", func() bool { return len(a.m.Messages()) == 1 })
				info := a.m.Messages()[0]
				a.stop()
				time.Sleep(15 * 24 * time.Hour)
				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				w.await("it is set aside", func() bool { return b.m.Status().Messages.Received.SetAside.Count == 1 })
				if by == "the phone" {
					require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
					time.Sleep(time.Minute) // there is a session with the phone now
					c := b.m.Client()
					ask := c.BuildUnavailableMessageRequest(info.Chat, info.Sender, types.MessageID(id))
					_, err = c.SendMessage(t.Context(), w.account.JID(), ask, whatsmeow.SendRequestExtra{Peer: true})
					require.NoError(t, err)
				} else {
					require.NoError(t, carol.SendAs(id, w.account.JID(), text("late")))
				}
				w.await("it is handled", func() bool { return slices.Contains(b.texts(), "late") })
				time.Sleep(2 * time.Second)
				require.Empty(t, b.m.Messages())
				require.Zero(t, b.balanced().SetAside.Count)
				b.stop()
			})
		})
	}
}

func TestSetAsideMessageHidesNoOther(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	const id = "3EB0AAAABBBBCCCCDDDD"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var mended atomic.Bool
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.refuse = func(e *events.Message) bool {
			if !mended.Load() && e.Message.GetConversation() == "poison" {
				panic("not today")
			}
			return false
		}
		a.run().pair()
		carol := w.writer()
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("poison")))
		for range 26 {
			time.Sleep(time.Hour)
			_, err := carol.SendMessage(w.account.JID(), text("good"))
			require.NoError(t, err)
		}
		w.await("it is set aside", func() bool { return a.m.Status().Messages.Received.SetAside.Count == 1 })
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("poison"))) // the same once more
		time.Sleep(time.Second)
		require.Equal(t, 1, a.balanced().SetAside.Count)
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("another")))
		w.await("the other one is handled", func() bool { return slices.Contains(a.texts(), "another") })
		time.Sleep(time.Second)
		r := a.balanced()
		require.Equal(t, 1, r.SetAside.Count)
		mended.Store(true)
		require.NoError(t, a.m.Redeliver(t.Context(), a.m.Messages()[0].Entry))
		w.await("what was set aside is handled", func() bool { return slices.Contains(a.texts(), "poison") })
		time.Sleep(2 * time.Second)
		require.Empty(t, a.m.Messages())
		a.stop()
	})
}

// A message to a group comes in two parts, a sender's key and the text. whatsmeow
// stops at the part that a handler refuses, so no more of it is kept.
func TestRefusedMessageOfTwoPartsIsOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var mended atomic.Bool
		a := w.instance(stability.WithAutoHeal(noHeal))
		a.refuse = func(*events.Message) bool { return !mended.Load() }
		a.run().pair()
		peer := w.peer()
		group := w.sim.NewGroup("team", w.account, peer.Account())
		_, err := peer.Send(t.Context(), group.JID(), "to all")
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count)
		mended.Store(true)
		time.Sleep(time.Hour)
		a.m.Reconnect()
		time.Sleep(20 * time.Minute)
		r := a.balanced()
		require.Equal(t, []string{"to all"}, slices.DeleteFunc(a.texts(), func(s string) bool { return s == "" }))
		require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
		require.EqualValues(t, 1, r.Total)
		a.stop()
	})
}
