package stability_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
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
