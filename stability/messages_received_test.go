package stability_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// balanced checks that every message is in one of the three places.
func (i *instance) balanced() stability.ReceivedMessages {
	i.w.t.Helper()
	r := i.m.Status().Messages.Received
	require.EqualValues(i.w.t, r.Total, r.Handled+uint64(r.Waiting.Count)+uint64(r.SetAside.Count), "%+v", r)
	i.served()
	return r
}

// getMessage sends one to the account.
func (w *world) getMessage(text string) {
	w.t.Helper()
	_, err := w.say(text)
	require.NoError(w.t, err)
}

func TestRefusedMessageComesAgainByItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		var tries atomic.Int32
		a.refuse = func(*events.Message) bool { return tries.Add(1) < 4 }
		a.run().pair()
		time.Sleep(time.Minute)
		start := time.Now()
		w.getMessage("again, please")
		w.await("the handler refused", func() bool { return tries.Load() == 1 })
		time.Sleep(time.Second)
		r := a.balanced()
		require.Equal(t, 1, r.By[stability.MessageRefused].Count)
		require.Contains(t, r.Text, "refused by the program's handlers")
		list := a.m.Messages()
		require.Len(t, list, 1)
		require.Equal(t, stability.MessageRefused, list[0].State)
		require.Contains(t, []string{w.scribe.JID().User, w.scribe.LID().User}, list[0].Sender.User)
		require.Equal(t, 1, list[0].Tries)

		w.await("it is handled", func() bool { return len(a.texts()) == 1 })
		require.Equal(t, reconnect.ReasonRedelivery, a.reached(2, stability.EventDisconnected).Reason)
		took := time.Since(start)
		require.Greater(t, took, 3*time.Minute, "with growing pauses")
		require.Less(t, took, 12*time.Minute)
		time.Sleep(time.Second)
		require.Zero(t, a.balanced().Waiting.Count)
		require.Empty(t, a.m.Messages())
		logins := w.logins()
		time.Sleep(time.Hour)
		require.Equal(t, logins, w.logins(), "nothing waits, so nothing is ended")
		a.stop()
	})
}

func TestMessageThatPanicsAHandlerIsKeptAndHandedOverAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		var tries atomic.Int32
		a.refuse = func(*events.Message) bool {
			if tries.Add(1) < 3 {
				panic("index out of range [3] with length 2")
			}
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		logins := w.logins()
		w.getMessage("dangerous")
		w.await("the handler panicked", func() bool { return tries.Load() == 1 })
		time.Sleep(time.Second)
		r := a.balanced()
		require.Equal(t, 1, r.By[stability.MessageKept].Count, "%+v", r)
		require.Contains(t, a.m.Messages()[0].Why, "index out of range [3]")
		require.Empty(t, w.device().Pending(), "the service has it no more")
		w.await("it is handled", func() bool { return len(a.texts()) == 1 })
		require.Equal(t, "dangerous", a.texts()[0])
		time.Sleep(2 * time.Second)
		require.Zero(t, a.balanced().Waiting.Count)
		require.Equal(t, logins, w.logins(), "without a new connection")
		a.stop()
	})
}

// A handler panics at everything for a day. What is kept here is tried, but each
// try is a commit, so not each message is tried each quarter of an hour.
func TestHostThatPanicsAtEverythingCostsFewCommits(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("two days of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var down atomic.Bool
		var tries atomic.Int32
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		a.refuse = func(*events.Message) bool {
			if down.Load() {
				tries.Add(1)
				panic("down")
			}
			return false
		}
		a.run().pair()
		time.Sleep(time.Hour)
		before := a.wire.count("commit")
		time.Sleep(24 * time.Hour)
		quiet := a.wire.count("commit") - before
		down.Store(true)
		const n = 20
		for i := range n {
			w.getMessage(fmt.Sprint("message ", i))
		}
		time.Sleep(time.Hour)
		require.Equal(t, n, a.balanced().By[stability.MessageKept].Count)
		before = a.wire.count("commit")
		tries.Store(0)
		time.Sleep(24 * time.Hour)
		require.GreaterOrEqual(t, tries.Load(), int32(90), "it is tried all the same")
		require.LessOrEqual(t, a.wire.count("commit")-before, quiet+100, "a try each quarter of an hour, whatever waits")
		down.Store(false)
		time.Sleep(16 * time.Minute)
		require.Zero(t, a.balanced().Waiting.Count, "then all are handed over at once")
		require.Len(t, a.texts(), n)
		a.stop()
	})
}

func TestWhatAHandlerPanickedAtOutlivesTheProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		a.refuse = func(*events.Message) bool { panic("boom") }
		a.run().pair()
		w.getMessage("dangerous")
		w.await("it is kept", func() bool { return a.m.Status().Messages.Received.By[stability.MessageKept].Count == 1 })
		a.stop()
		b := w.instance().run().ready()
		w.await("another instance hands it over", func() bool { return len(b.texts()) == 1 })
		time.Sleep(2 * time.Second)
		require.Empty(t, b.m.Messages())
		require.EqualValues(t, 1, b.balanced().Handled)
		b.stop()
	})
}

func TestPoisonousMessageIsSetAsideWithItsContent(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	no := func() bool { return true }
	for name, c := range map[string]struct {
		refuse func() bool
		early  bool // one is handed over before the next login, and one removed
	}{
		"refused":  {refuse: no},
		"panicked": {refuse: func() bool { panic("boom") }},
		"refused, handed over or removed before the next login": {no, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var poison atomic.Bool
				var tries atomic.Int32
				poison.Store(true)
				a.refuse = func(e *events.Message) bool {
					if strings.HasPrefix(e.Message.GetConversation(), "poison") && poison.Load() {
						tries.Add(1)
						return c.refuse()
					}
					return false
				}
				a.run().pair()
				keep, err := w.say("poison")
				require.NoError(t, err)
				n := 1
				if c.early {
					w.getMessage("poison to remove")
					n++
				}
				for range 26 {
					time.Sleep(time.Hour)
					w.getMessage("good")
				}
				time.Sleep(time.Minute)
				r := a.balanced()
				require.Equal(t, n, r.SetAside.Count, "%+v %+v %d", r, a.m.Messages(), tries.Load())
				require.Zero(t, r.Waiting.Count)
				require.GreaterOrEqual(t, tries.Load(), int32(20*n))
				require.Empty(t, w.device().Pending(), "it is acknowledged")
				if c.early {
					poison.Store(false)
					for _, msg := range a.m.Messages() {
						deal := a.m.PurgeMessage
						if msg.ID == keep {
							deal = a.m.Redeliver
						}
						require.NoError(t, deal(t.Context(), msg.Entry))
					}
					time.Sleep(time.Minute)
					a.m.Reconnect()
					time.Sleep(time.Minute)
					require.Empty(t, w.device().Pending())
					require.Empty(t, a.m.Messages())
					got := slices.DeleteFunc(a.texts(), func(s string) bool { return !strings.HasPrefix(s, "poison") })
					require.Equal(t, []string{"poison"}, got, "it is handed over as often as it was asked for")
					a.balanced()
					a.stop()
					return
				}
				a.m.Reconnect()
				time.Sleep(time.Minute)
				before := tries.Load()
				logins := w.logins()
				time.Sleep(stabilitytest.Pick(3*time.Hour, 24*time.Hour))
				require.Equal(t, before, tries.Load(), "it is left alone")
				require.Equal(t, logins, w.logins())

				list := a.m.Messages()
				require.Len(t, list, 1)
				require.True(t, list[0].HasContent)
				require.ErrorIs(t, a.m.Redeliver(t.Context(), "nonsense"), stability.ErrNoMessage)
				poison.Store(false)
				require.NoError(t, a.m.Redeliver(t.Context(), list[0].Entry))
				w.await("it is handled after all", func() bool { return a.texts()[len(a.texts())-1] == "poison" })
				time.Sleep(2 * time.Second)
				require.Empty(t, a.m.Messages())
				require.ErrorIs(t, a.m.Redeliver(t.Context(), list[0].Entry), stability.ErrNoMessage)
				a.balanced()
				a.stop()
			})
		})
	}
}

func TestHostThatRefusesEverythingIsDownAndNotPoisoned(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var down atomic.Bool
		down.Store(true)
		a.refuse = func(*events.Message) bool { return down.Load() }
		a.run().pair()
		for range 5 {
			w.getMessage("wait for me")
		}
		time.Sleep(stabilitytest.Pick(30*time.Hour, 72*time.Hour))
		r := a.balanced()
		require.Equal(t, 5, r.By[stability.MessageRefused].Count, "%+v", r)
		require.Less(t, w.logins(), 72*4+20, "about one login in a quarter of an hour")
		down.Store(false)
		time.Sleep(20 * time.Minute)
		w.await("all are handled", func() bool { return len(a.texts()) == 5 })
		time.Sleep(time.Second)
		require.Zero(t, a.balanced().Waiting.Count)
		a.stop()
	})
}

// A message that is kept is with a handler for a moment, again and again.
func TestTextSaysWhatWaitsAlsoWhileItIsTried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var during []string
		a.refuse = func(*events.Message) bool {
			time.Sleep(20 * time.Second)
			during = append(during, a.m.Status().Messages.Received.Text)
			panic("not today")
		}
		a.run().pair()
		_, err := w.writer().Send(w.account.JID(), "kept")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		a.stop()
		require.Greater(t, len(during), 3)
		require.Empty(t, during[0], "the first try is no news")
		for _, text := range during[1:] {
			require.Contains(t, text, "One message waits here to be handed over to the program's handlers; it was received ")
		}
	})
}
