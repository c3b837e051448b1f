package stability_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// A message that kills is offered more and more rarely, and the process dies of it each
// time.
func TestMessageThatKillsEndsTheProcessMoreAndMoreRarely(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day of virtual time")
	}
	bubble(t, func(t *testing.T) {
		m := poisoned(t)
		for _, hours := range []time.Duration{1, 2, 4} {
			before := m.deaths
			m.live(hours*time.Hour - 10*time.Minute)
			require.Equal(t, before, m.deaths, "%d h", hours)
			select {
			case <-m.dead:
				m.deaths++
				m.start()
			case <-time.After(20 * time.Minute):
				t.Fatal("it is not offered again")
			}
			m.live(5 * time.Minute)
			require.Equal(t, before+1, m.deaths, "%d h", hours)
		}
		close(m.over)
		m.now.stop()
	})
}

// No process runs for as long as the message is left alone, and somebody asks for it
// in between.
func TestMessageThatKillsIsOfferedByProcessesThatRunForHoursOnly(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day of virtual time")
	}
	bubble(t, func(t *testing.T) {
		m := poisoned(t)
		require.NoError(t, m.now.m.Redeliver(t.Context(), m.now.m.Messages()[0].Entry))
		m.live(5 * time.Minute)
		require.Equal(t, 5, m.deaths, "somebody has asked for it")
		alone := time.Now().Add(-5 * time.Minute)
		for _, hours := range []time.Duration{1, 2, 4, 8} {
			before := m.deaths
			for time.Since(alone) < hours*time.Hour-2*time.Hour {
				m.live(2 * time.Hour)
				m.now.stop()
				m.start().ready()
			}
			m.live(time.Until(alone.Add(hours*time.Hour - 5*time.Minute)))
			require.Equal(t, before, m.deaths, "%d h", hours)
			select {
			case <-m.dead:
				alone = time.Now()
				m.deaths++
				m.start()
			case <-time.After(time.Hour + 10*time.Minute): // a process must have run for an hour
				t.Fatalf("it is not offered again after %d h", hours)
			}
			m.live(5 * time.Minute)
			require.Equal(t, before+1, m.deaths, "%d h", hours)
		}
		close(m.over)
		m.now.stop()
	})
}

// The verdict about a message that ends the process is not forgotten with the term in
// which it was found.
func TestMessageThatKillsIsLeftAloneBehindACleanEndToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		m := newMortal(w, func(text string) bool { return text == "poison" })
		m.start().pair()
		time.Sleep(2 * time.Second)
		_, err := w.writer().Send(w.account.JID(), "poison")
		require.NoError(t, err)
		m.live(5 * time.Minute)
		deaths := m.deaths
		for range 3 {
			require.Equal(t, 1, m.now.m.Status().Messages.Received.By[stability.MessageLeftAlone].Count)
			m.now.stop()
			m.start().ready()
			m.live(10 * time.Minute)
		}
		require.Equal(t, deaths, m.deaths)
		close(m.over)
		m.now.stop()
	})
}

// A message is offered once more, and WhatsApp has dropped it meanwhile: nobody has
// handled it, and an operator is told.
func TestMessageThatWhatsAppDroppedWhileItWasLeftAloneIsSetAside(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				m := newMortal(w, func(text string) bool { return text == "poison" })
				m.start().pair()
				time.Sleep(2 * time.Second)
				_, err := w.writer().Send(w.account.JID(), "poison")
				require.NoError(t, err)
				m.live(5 * time.Minute)
				require.Equal(t, 1, m.now.m.Status().Messages.Received.By[stability.MessageLeftAlone].Count)
				w.device().Drop()
				if restart {
					require.NoError(t, m.now.m.Redeliver(t.Context(), m.now.m.Messages()[0].Entry))
					m.now.stop() // before the next login could tell
					m.start().ready()
				}
				m.live(70 * time.Minute)
				r := m.now.balanced()
				require.Zero(t, r.Waiting.Count, "%+v", r)
				require.Equal(t, 1, r.SetAside.Count, "%+v", r)
				list := m.now.m.Messages()
				require.Len(t, list, 1)
				require.Contains(t, list[0].Why, "WhatsApp does not deliver it any more")
				require.NoError(t, m.now.m.PurgeMessage(t.Context(), list[0].Entry))
				close(m.over)
				m.now.stop()
				for _, err := range w.look().Auth.Scan(t.Context(), "message", "") {
					require.NoError(t, err)
					t.Error("something of it stays in the store")
				}
			})
		})
	}
}

func TestCleanEndsMakeNobodyCareful(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(2 * time.Second) // its mark is in the store
		a.stop()
		carol := w.writer()
		count := func(n *named) int {
			_, err := carol.Send(w.account.JID(), "one", "two", "three")
			require.NoError(t, err)
			n.run().ready()
			w.await("all are there", func() bool { return len(n.texts()) == 3 })
			commits := n.wire.count("commit")
			time.Sleep(5 * time.Second)
			return commits
		}
		b := w.named("b", stability.WithAutoHeal(noHeal))
		clean := count(b)
		b.wire.hang(anyCall)
		w.sim.Partition("b")
		c := w.named("c", stability.WithAutoHeal(noHeal))
		unclean := count(c)
		require.Equal(t, clean+3, unclean, "one more commit a message, and only behind an unclean end")
		b.kill()
		c.stop()
	})
}
