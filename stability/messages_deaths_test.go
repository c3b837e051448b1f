package stability_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// mortal starts one instance after the other; the handler of each dies of some
// messages: from then on nothing that it does is heard.
type mortal struct {
	w      *world
	over   chan struct{} // closed at the end: the dead handlers return
	dead   chan struct{}
	mu     sync.Mutex
	took   map[string]int
	deaths int
	kills  func(text string) bool
	slow   time.Duration // each commit of a process takes that long
	dying  time.Duration // a message that kills takes that long to do so
	now    *tended
	all    []*tended
}

func newMortal(w *world, kills func(string) bool) *mortal {
	return &mortal{w: w, over: make(chan struct{}), dead: make(chan struct{}, 1), took: make(map[string]int), kills: kills}
}

func (m *mortal) start() *tended {
	n := m.w.tended(fmt.Sprint("i", m.deaths), stability.WithAutoHeal(noHeal))
	n.refuse = func(e *events.Message) bool {
		text := e.Message.GetConversation()
		m.mu.Lock()
		kills := m.kills(text)
		m.mu.Unlock()
		if kills {
			time.Sleep(m.dying)
			n.crash()
			time.AfterFunc(10*time.Minute, n.kill) // another has its place by then, and it would ask for the lock for days
			m.dead <- struct{}{}
			<-m.over
			return true
		}
		if strings.HasPrefix(text, "panic") {
			if text == "panic slowly" {
				time.Sleep(time.Second)
			}
			panic(text)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.took[text]++
		return false
	}
	m.now, m.all = n, append(m.all, n)
	n.wire.slow(m.slow)
	return n.run()
}

// live goes on, with as many processes as it takes, until nothing dies for long.
func (m *mortal) live(calm time.Duration) {
	for {
		select {
		case <-m.dead:
			m.deaths++
			require.Less(m.w.t, m.deaths, 100, "it dies again and again: %+v", m.now.m.Status().Messages.Received)
			m.start()
		case <-time.After(calm):
			return
		}
	}
}

// told is how the incident about messages set aside was told, by all processes.
func (m *mortal) told() (out []guard.Change) {
	for _, n := range m.all {
		out = append(out, n.book.of(guard.TypeMessagesSetAside.ActiveID())...)
	}
	return out
}

func TestMessagesThatKillTheProcessAreFoundAndLeftAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		n := stabilitytest.Pick(60, 1000)
		m := newMortal(w, func(text string) bool { return strings.HasPrefix(text, "kill") })
		m.start().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		time.Sleep(2 * time.Second)
		m.now.stop()
		carol := w.writer()
		for i := range n {
			text := fmt.Sprint("text ", i)
			switch {
			case i == n/6 || i == n/2+1 || i == n-5:
				text = fmt.Sprint("kill ", i)
			case i%(n/5) == n/10-1:
				text = fmt.Sprint("panic ", i)
			}
			_, err := carol.Send(w.account.JID(), text)
			require.NoError(t, err)
		}
		m.start()
		m.live(10 * time.Minute)
		require.LessOrEqual(t, m.deaths, 10)
		require.GreaterOrEqual(t, m.deaths, 9)
		r := m.now.balanced()
		require.Equal(t, 3, r.By[stability.MessageLeftAlone].Count, "%+v", r)
		require.Equal(t, 5, r.By[stability.MessageKept].Count, "%+v", r)
		require.Len(t, w.device().Pending(), 3, "they are at the service")
		m.mu.Lock()
		handled := 0
		for text := range m.took {
			if strings.HasPrefix(text, "text") {
				handled++
			}
		}
		m.mu.Unlock()
		require.Equal(t, n-8, handled)
		require.Equal(t, []guard.Change{opened}, m.told(), "an operator is told, once")

		// The program is mended.
		deaths := m.deaths
		m.mu.Lock()
		m.kills = func(string) bool { return false }
		m.mu.Unlock()
		for _, msg := range m.now.m.Messages() {
			if msg.State == stability.MessageLeftAlone {
				require.NoError(t, m.now.m.Redeliver(t.Context(), msg.Entry))
			}
		}
		m.live(30 * time.Minute)
		require.Equal(t, deaths, m.deaths)
		require.Zero(t, m.now.balanced().By[stability.MessageLeftAlone].Count, "%+v", m.now.m.Messages())
		require.Empty(t, w.device().Pending())

		// The program goes on to panic at five of the messages while it takes others.
		if !stabilitytest.Race && os.Getenv("WASTABILITY_BACKEND") == "" { // a day and more of virtual time
			for range 26 {
				_, err := carol.Send(w.account.JID(), "text")
				require.NoError(t, err)
				m.live(time.Hour)
			}
			require.Equal(t, deaths, m.deaths)
			r = m.now.balanced()
			require.Equal(t, 5, r.By[stability.MessageSetAside].Count, "%+v", r)
			require.Zero(t, r.Waiting.Count)
			for _, msg := range m.now.m.Messages() {
				require.True(t, msg.HasContent, "%+v", msg)
			}
			require.Equal(t, []guard.Change{opened, resolved, opened}, m.told(), "once more, for all five")
		}
		close(m.over)
		m.now.stop()
	})
}

// The message was decrypted in an earlier term, so it is handed over without a
// commit, and ends the process before the first commit of its term is through.
func TestMessageThatKillsBeforeAnythingIsWrittenIsFoundToo(t *testing.T) {
	for state, was := range map[stability.MessageState]struct {
		refuse func() bool
		found  stability.MessageState
	}{
		stability.MessageRefused: {func() bool { return true }, stability.MessageLeftAlone},
		stability.MessageKept:    {func() bool { panic("not today") }, stability.MessageSetAside},
	} {
		t.Run(string(state), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a", stability.WithAutoHeal(noHeal))
				a.refuse = func(e *events.Message) bool { return e.Message.GetConversation() == "kill" && was.refuse() }
				a.run().pair()
				_, err := w.writer().Send(w.account.JID(), "kill")
				require.NoError(t, err)
				w.await("no handler has taken it", func() bool { return a.balanced().By[state].Count == 1 })
				time.Sleep(5 * time.Second)
				a.stop()
				time.Sleep(10 * time.Minute)

				m := newMortal(w, func(s string) bool { return s == "kill" })
				defer close(m.over)
				m.slow = 500 * time.Millisecond
				m.start()
				m.live(10 * time.Minute)
				require.Equal(t, 4, m.deaths, "the first one was not careful yet")
				r := m.now.balanced()
				require.Equal(t, 1, r.By[was.found].Count, "%+v", r)
				m.now.stop()
			})
		})
	}
}

func TestWhatWasAccusedWronglyIsOfferedAgainAfterAStableHour(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		dying := true // of something else
		m := newMortal(w, func(text string) bool { return dying && text == "innocent" })
		m.start().pair()
		time.Sleep(2 * time.Second)
		_, err := w.writer().Send(w.account.JID(), "innocent")
		require.NoError(t, err)
		m.live(5 * time.Minute)
		require.Equal(t, 4, m.deaths)
		require.Equal(t, 1, m.now.m.Status().Messages.Received.By[stability.MessageLeftAlone].Count)
		m.mu.Lock()
		dying = false
		m.mu.Unlock()
		m.live(70 * time.Minute)
		m.mu.Lock()
		require.Equal(t, 1, m.took["innocent"])
		m.mu.Unlock()
		require.Zero(t, m.now.balanced().Waiting.Count)
		close(m.over)
		m.now.stop()
	})
}

// poisoned is a mortal that has died of a message until it was left alone.
func poisoned(t *testing.T) *mortal {
	t.Helper()
	w := newWorld(t)
	m := newMortal(w, func(text string) bool { return text == "poison" })
	m.start().pair()
	time.Sleep(2 * time.Second)
	_, err := w.writer().Send(w.account.JID(), "poison")
	require.NoError(t, err)
	m.live(5 * time.Minute)
	require.Equal(t, 4, m.deaths)
	return m
}

func TestCrashBehindAnAcknowledgementLeavesNoEntry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		var refused atomic.Bool
		a.refuse = func(*events.Message) bool { return !refused.Swap(true) }
		a.run().pair()
		time.Sleep(time.Minute)
		_, err := w.writer().Send(w.account.JID(), "refused once")
		require.NoError(t, err)
		w.await("it is an entry in the store", func() bool { return len(a.m.Messages()) == 1 })
		time.Sleep(5 * time.Second)
		a.m.Reconnect()
		w.await("it is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
		a.crash()
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		require.Empty(t, b.m.Messages())
		logins := w.logins()
		time.Sleep(time.Hour)
		require.Equal(t, logins, w.logins(), "no connection is ended for it")
		a.kill()
		b.stop()
	})
}

// The kept message and the one that kills come at the same moment, the login.
func TestKeptMessageIsNotAccusedOfTheDeathsOfAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		m := newMortal(w, func(text string) bool { return strings.HasPrefix(text, "kill") })
		defer close(m.over)
		m.start().pair()
		time.Sleep(2 * time.Second)
		m.dying = 500 * time.Millisecond
		w.getMessage("panic slowly")
		time.Sleep(5 * time.Second)
		for i := range 4 {
			w.getMessage(fmt.Sprint("kill ", i))
		}
		m.live(20 * time.Minute)
		r := m.now.balanced()
		require.Equal(t, 4, r.By[stability.MessageLeftAlone].Count, "%+v", r)
		require.Equal(t, 1, r.By[stability.MessageKept].Count, "%+v", r)
		require.Contains(t, r.By[stability.MessageKept].Why, "panicked")
		m.now.stop()
	})
}
