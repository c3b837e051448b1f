package stability_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// unfinished counts the decrypted messages in the store that are not marked as
// finished.
func (w *world) unfinished() (n int) {
	w.t.Helper()
	for _, err := range w.look().Auth.Scan(w.t.Context(), "event", "") {
		require.NoError(w.t, err)
		n++
	}
	return n
}

// whatsmeow acknowledges a message after its handlers took it. The mark in the
// store comes up to a second later, so a kill between the two costs the mark.
func TestKillBehindAcknowledgementHandsNothingOverTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		carol := w.writer()
		_, err := carol.Send(w.account.JID(), "before")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Zero(t, w.unfinished())
		_, err = carol.Send(w.account.JID(), "last")
		require.NoError(t, err)
		w.await("the last is acknowledged", func() bool {
			return slices.Contains(a.texts(), "last") && len(w.device().Pending()) == 0
		})
		a.crash()
		require.Equal(t, 1, w.unfinished(), "the mark is lost")

		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		time.Sleep(time.Hour)
		_, err = carol.Send(w.account.JID(), "after")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		r := b.balanced()
		require.Equal(t, []string{"after"}, b.texts(), "the handlers had taken the others")
		require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", b.m.Messages())
		require.Empty(t, w.device().Pending())
		b.stop()
	})
}

// leaves ends a process at the moment behind the acknowledgement of a message
// and before the note of it.
func (w *world) leaves(carol *wasim.Phone, a *tended, say string) {
	w.t.Helper()
	was := w.unfinished()
	_, err := carol.Send(w.account.JID(), "before "+say)
	require.NoError(w.t, err)
	time.Sleep(time.Minute)
	_, err = carol.Send(w.account.JID(), say)
	require.NoError(w.t, err)
	w.await("the last is acknowledged", func() bool {
		return slices.Contains(a.texts(), say) && len(w.device().Pending()) == 0
	})
	a.crash()
	require.Equal(w.t, was+1, w.unfinished(), "the mark is lost")
}

func TestWhatAKilledProcessLeftWasPerhapsHandledAndGoesInTheEnd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const day = 24 * time.Hour
		w := newWorld(t)
		start := func(label string) *tended { return w.tended(label, stability.WithAutoHeal(noHeal)).run() }
		a := start("a").pair()
		carol := w.writer()
		left := func(n *tended) stability.MessageGroup { return n.balanced().PerhapsHandled }
		over := func(n *tended) { // the killed process leaves nothing that runs for weeks
			n.wire.heal()
			n.kill()
		}
		w.leaves(carol, a, "last")
		received := time.Now()

		b := start("b").ready()
		over(a)
		time.Sleep(10 * time.Minute)
		require.Zero(t, left(b), "the service may still deliver it")
		require.Empty(t, b.status().Messages.Received.Text)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1, left(b).Count)
		require.WithinDuration(t, received, left(b).Oldest, 2*time.Second)
		require.Contains(t, b.status().Messages.Received.Text, "One message was perhaps handled")
		require.Empty(t, b.m.Messages(), "it is not one of those that wait")
		b.stop()
		time.Sleep(7 * day) // without a process: an idle connection would be most of the test's work
		b = start("b, later").ready()
		require.Equal(t, 1, left(b).Count)

		w.leaves(carol, b, "and another")
		c := start("c").ready()
		over(b)
		require.Equal(t, 1, left(c).Count, "the new holder knows of it at once")
		time.Sleep(20 * time.Minute)
		require.Equal(t, 2, left(c).Count)
		require.Contains(t, c.status().Messages.Received.Text, "2 messages were perhaps handled")
		c.stop()
		time.Sleep(6*day + 12*time.Hour)
		c = start("c, later").ready()
		time.Sleep(20 * time.Minute) // it has looked
		require.Equal(t, 2, left(c).Count)
		time.Sleep(day + time.Hour)
		require.Equal(t, 1, left(c).Count, "14 days after it was found the first is gone")
		require.Equal(t, 1, w.unfinished())
		c.stop()
		time.Sleep(6 * day)
		c = start("c, at last").ready()
		time.Sleep(20 * time.Minute) // it has looked
		require.Equal(t, 1, left(c).Count)
		time.Sleep(day + time.Hour)
		require.Zero(t, left(c))
		require.Zero(t, w.unfinished())
		require.Empty(t, c.status().Messages.Received.Text)
		c.stop()
		require.Equal(t, []string{"before and another", "and another"}, b.texts())
		require.Empty(t, c.texts(), "none is handed over twice")
	})
}

// whatsmeow acknowledges a message whose content it cannot read, and never comes back
// for it. Whoever sends many of them fills nothing up.
func TestUnreadableContentStaysInNoBuffer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		bob := w.peer()
		group := w.sim.NewGroup("team", w.account, bob.Account())
		_, err := bob.SendMessage(t.Context(), group.JID(), text("a good one"))
		require.NoError(t, err)
		w.await("they have met", func() bool { return len(a.written()) == 1 })
		ours, in := w.device().JID(), bob.Client().DangerousInternals()
		lid := a.m.Client().Store.GetLID() // the session stands under it
		for range 5 {
			enc, _, err := in.EncryptMessageForDevice(t.Context(), []byte("no message at all"), lid, nil, nil, map[string]bool{lid.SignalAddress().String(): true})
			require.NoError(t, err)
			require.NoError(t, in.SendNode(t.Context(), waBinary.Node{
				Tag: "message", Attrs: waBinary.Attrs{"id": bob.Client().GenerateMessageID(), "type": "text", "to": w.account.JID()},
				Content: []waBinary.Node{{Tag: "participants", Content: []waBinary.Node{{Tag: "to", Attrs: waBinary.Attrs{"jid": ours}, Content: []waBinary.Node{*enc}}}}},
			}))
		}
		time.Sleep(time.Minute)
		require.Empty(t, w.device().Pending())
		require.Len(t, a.written(), 1)
		r := a.balanced()
		require.Equal(t, 5, r.SetAside.Count+r.Waiting.Count, "%+v", r)
		require.Zero(t, w.unfinished())
		a.stop()
	})
}

// A decrypted message that the book knows is none of these, however long it waits.
func TestWhatIsKnownToWaitWasNotPerhapsHandled(t *testing.T) {
	t.Parallel()
	never := func(t *testing.T, w *world, n *tended, state stability.MessageState) {
		for range 12 {
			time.Sleep(20 * time.Minute)
			require.Zero(t, n.balanced().PerhapsHandled)
			require.Equal(t, 1, w.unfinished())
		}
		require.Equal(t, 1, n.balanced().By[state].Count)
	}
	refusing := func(w *world, name string) *tended {
		n := w.tended(name, stability.WithAutoHeal(noHeal))
		n.refuse = func(*events.Message) bool { return true }
		return n.run()
	}
	for name, f := range map[string]func(*testing.T, *world){
		"refused": func(t *testing.T, w *world) {
			a := refusing(w, "a").pair()
			_, err := w.writer().Send(w.account.JID(), "no")
			require.NoError(t, err)
			time.Sleep(time.Second)
			a.stop()
			never(t, w, refusing(w, "b").ready(), stability.MessageRefused)
		},
		"refused, and acknowledged by another program": func(t *testing.T, w *world) {
			a := refusing(w, "a").pair()
			id, err := w.writer().Send(w.account.JID(), "no")
			require.NoError(t, err)
			time.Sleep(time.Second)
			require.NoError(t, a.m.Client().DangerousInternals().SendNode(t.Context(), waBinary.Node{
				Tag: "receipt", Attrs: waBinary.Attrs{"id": id[0], "to": types.NewJID("491520000007", types.DefaultUserServer)},
			}))
			w.await("it is gone", func() bool { return len(w.device().Pending()) == 0 })
			a.stop()
			b := refusing(w, "b").ready()
			time.Sleep(20 * time.Minute)
			never(t, w, b, stability.MessageSetAside)
		},
		"left alone": func(t *testing.T, w *world) {
			m := newMortal(w, func(s string) bool { return s == "kill" })
			defer close(m.over)
			m.start().pair()
			_, err := w.writer().Send(w.account.JID(), "kill")
			require.NoError(t, err)
			m.live(10 * time.Minute)
			require.Equal(t, 1, m.now.balanced().By[stability.MessageLeftAlone].Count)
			for range 2 { // a stable hour offers it once more
				time.Sleep(10 * time.Minute)
				require.Zero(t, m.now.balanced().PerhapsHandled)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { f(t, newWorld(t)) })
		})
	}
}

// A sender may use an id in two chats. Each message has an entry of its own.
func TestOneIDInTwoChatsIsTwoMessages(t *testing.T) {
	const id = "3EB0AAAABBBBCCCCDDDD"
	for name, fail := range map[string]func() bool{
		"handled":          nil,
		"refused":          func() bool { return true },
		"a handler panics": func() bool { panic("not today") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var mended atomic.Bool
				a := w.instance(stability.WithAutoHeal(noHeal))
				a.refuse = func(*events.Message) bool { return fail != nil && !mended.Load() && fail() }
				a.run().pair()
				peer := w.peer()
				group := w.sim.NewGroup("team", w.account, peer.Account())
				send := func(to types.JID, s string) {
					_, err := peer.Client().SendMessage(t.Context(), to, text(s), whatsmeow.SendRequestExtra{ID: id})
					require.NoError(t, err)
				}
				send(w.account.JID(), "to one")
				send(group.JID(), "to all")
				time.Sleep(5 * time.Second)
				r := a.balanced()
				require.EqualValues(t, 2, r.Total, "%+v", r)
				if fail != nil {
					require.Len(t, a.m.Messages(), 2)
				}
				mended.Store(true)
				time.Sleep(time.Hour)
				a.m.Reconnect()
				time.Sleep(20 * time.Minute)
				r = a.balanced()
				got := slices.DeleteFunc(a.texts(), func(s string) bool { return s == "" })
				require.ElementsMatch(t, []string{"to one", "to all"}, got)
				require.EqualValues(t, 2, r.Total, "%+v", r)
				require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
				require.Empty(t, w.device().Pending())
				a.stop()
			})
		})
	}
}
