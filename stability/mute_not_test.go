package stability_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestOnlyNewChatsRefusedIsShownAndNotMute(t *testing.T) {
	sends(t, 10, func(t *testing.T, w *world, a *tended, fresh []types.JID) {
		old := w.peer().JID()
		require.NoError(t, a.send(old, "hello"))
		w.sim.Fault(wasim.MessageNack(463)).For(w.account.JID()).ToNewChats().Always().Now()
		a.forget()
		for _, j := range fresh {
			a.sendFails(j, 463)
		}
		require.NoError(t, a.send(old, "hello"))
		for _, j := range fresh {
			a.sendFails(j, 463)
		}
		time.Sleep(10 * time.Minute)
		st := a.status()
		require.NotEqual(t, keepalive.Mute, st.Probes.Health)
		require.Empty(t, a.history(stability.EventIncidentOpened))
		require.NotZero(t, st.Messages.Sent.NewChatsRefusedAt)
		require.Contains(t, st.Messages.Sent.Text, "New chats are refused (code 463), while sends to others are accepted.")
		require.Contains(t, st.Summary, "New chats are refused")
		require.Contains(t, st.Messages.Sent.Do, "Write only to people who wrote to this account first")
		require.EqualValues(t, 2, st.Messages.Sent.Acknowledged)
		require.EqualValues(t, 20, st.Messages.Sent.Refused[0].Count)
	})
}

func TestSendsWhoseConnectionEndedAreUnansweredAndNotMute(t *testing.T) {
	sends(t, 3, func(t *testing.T, w *world, a *tended, to []types.JID) {
		for n := range 6 {
			time.Sleep(5 * time.Minute)
			w.sim.Fault(wasim.MessageIgnored()).For(w.account.JID()).Now()
			done := make(chan error, 1)
			again := whatsmeow.SendRequestExtra{ID: fmt.Sprint("MESSAGE", n)}
			send := func() error {
				_, err := a.m.Client().SendMessage(context.Background(), to[n%3], text("hello"), again)
				return err
			}
			go func() { done <- send() }()
			w.await("it is under way", func() bool { return a.sent().Waiting == 1 })
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			require.Error(t, <-done)
			a.ready()
			s := a.sent()
			require.EqualValues(t, n+1, s.Unanswered)
			require.Zero(t, s.Waiting)
			require.NotEqual(t, keepalive.Mute, a.status().Probes.Health)
			if n == 5 {
				require.NoError(t, send(), "the program sends it again, under its id")
				require.EqualValues(t, 1, a.sent().Acknowledged)
				require.EqualValues(t, 6, a.sent().Unanswered)
			}
		}
		require.Empty(t, a.history(stability.EventIncidentOpened))
	})
}

func TestSendsIntoADeadLinkAreNotMute(t *testing.T) {
	sends(t, 3, func(t *testing.T, w *world, a *tended, to []types.JID) {
		for _, j := range to {
			require.NoError(t, a.send(j, "hello"))
		}
		a.forget()
		w.sim.Fault(wasim.BlackHole()).For(w.account.JID()).Now()
		for n := range 6 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := a.m.Client().SendMessage(ctx, to[n%3], text("hello"))
			cancel()
			require.Error(t, err)
		}
		a.reached(1, stability.EventDisconnected)
		for _, e := range a.history(stability.EventHealth) {
			require.NotEqual(t, keepalive.Mute, e.Health)
		}
		a.ready()
		require.EqualValues(t, 6, a.sent().Unanswered)
		require.Zero(t, a.sent().MuteSince)
		require.Empty(t, a.history(stability.EventIncidentOpened))
	})
}

func TestPeerMessagesAndResendsAreNotSends(t *testing.T) {
	sends(t, 0, func(t *testing.T, w *world, a *tended, _ []types.JID) {
		peer := w.peer()
		require.NoError(t, a.send(peer.JID(), "hello"))
		w.await("it arrived", func() bool { return len(peer.Texts()) == 1 })
		sent := w.device().Stats().MessagesSent
		for _, us := range []types.JID{w.account.JID(), w.account.LID()} {
			require.NoError(t, peer.Client().Store.Sessions.DeleteAllSessions(context.Background(), us.SignalAddressUser()))
		}
		require.NoError(t, a.send(peer.JID(), "again"))
		w.await("it was sent once more and arrived", func() bool { return len(peer.Texts()) == 2 })
		require.Greater(t, w.device().Stats().MessagesSent, sent+1, "the service got the second sending")
		require.NoError(t, w.account.Phone().ShareAppStateKeys(), "the first message of a phone begins the session")
		time.Sleep(time.Second)
		_, err := a.m.Client().SendMessage(context.Background(), w.account.JID(),
			a.m.Client().BuildHistorySyncRequest(&types.MessageInfo{ID: "x", MessageSource: types.MessageSource{Chat: peer.JID()}}, 1),
			whatsmeow.SendRequestExtra{Peer: true})
		require.NoError(t, err)
		time.Sleep(10 * time.Minute)
		s := a.sent()
		require.EqualValues(t, 2, s.Acknowledged)
		require.Zero(t, s.Waiting)
		require.Zero(t, s.Unanswered)
		require.Empty(t, s.Refused)
	})
}

func TestBlindTapSaysThatSendsAreNotSeen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		require.NoError(t, a.m.Activate(t.Context()))
		d, err := a.m.AuthState(t.Context())
		require.NoError(t, err)
		require.NoError(t, a.m.Attach(whatsmeow.NewClient(d, nil)))
		require.False(t, a.sent().Seen)
		require.Contains(t, a.sent().Text, "Sends are not seen")
		a.stop()
	})
}
