package link

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// withBotWithout runs a test on a paired bot whose Link does without parts of
// whatsmeow's inside.
func withBotWithout(t *testing.T, f func(t *testing.T, b *bot), without ...Reliance) {
	t.Helper()
	t.Run(fmt.Sprint(without), func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := newBotOn(t, wasim.New(wasim.WithTB(t), wasim.WithFewKeys()), without...)
			f(t, b)
			b.close()
		})
	})
}

func TestQuiesceNeedsNoWayIntoTheQueue(t *testing.T) {
	quiesce := func(t *testing.T, b *bot) {
		alice := b.contact()
		conn := b.online()
		b.pause.Store(int64(3 * time.Second))
		for i := range 3 {
			_, err := alice.Send(t.Context(), b.acct.JID(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		synctest.Wait() // the first is with the handler
		require.Error(t, conn.Quiesce(within(t, time.Second)))
		require.NoError(t, conn.Quiesce(t.Context()))
		require.Zero(t, b.running.Load())
		synctest.Wait()
		require.Empty(t, b.device().Pending(), "handled and answered")

		began := time.Now()
		require.NoError(t, conn.Quiesce(t.Context()))
		require.LessOrEqual(t, time.Since(began), calmTime+settleTime, "there is nothing to wait for")
	}
	withBotWithout(t, quiesce, QueueLoop)
	withBotWithout(t, quiesce, QueueLoop, blindTap)
}

// With any part missing, the client pairs, connects, is cut and comes back.
func TestNothingOfWhatsmeowsInsideIsRequired(t *testing.T) {
	for _, without := range [][]Reliance{
		{}, {QueueLoop}, {LoopWords}, {HandlerTable}, {SendInside}, {DispatchInside}, {Frames},
		{QueueLoop, LoopWords, HandlerTable, DispatchInside, Frames, blindTap},
	} {
		withBotWithout(t, func(t *testing.T, b *bot) {
			alice := b.contact()
			for round := range 3 {
				b.online()
				text := fmt.Sprint("hello ", round)
				_, err := alice.Send(t.Context(), b.acct.JID(), text)
				require.NoError(t, err)
				time.Sleep(time.Second)
				require.True(t, b.received1(text))
				b.cut()
				began := time.Now()
				b.offline()
				require.Less(t, time.Since(began), time.Second)
			}
			require.Empty(t, b.staleEvents())
			for _, r := range []Reliance{QueueLoop, LoopWords, HandlerTable, SendInside, DispatchInside, Frames} {
				require.Equal(t, b.l.cfg.without(r), b.problems[r] != "", r)
			}
		}, without...)
	}
}

// Whoever finds a table of handlers missing must know what is lost with it.
func TestMissingTableNamesWhatDependsOnIt(t *testing.T) {
	for name, x := range map[string]inside{"one queue a client": {shared: older{}}, "one queue a connection": {own: true}} {
		told := map[Reliance]string{}
		x.missing(func(r Reliance, problem string) { told[r] = problem })
		for _, effect := range []string{"although their connection is down", "handled a second time at once", "cannot be counted"} {
			require.Contains(t, told[HandlerTable], effect, name)
		}
	}
}

// Stanzas in a queue that nobody can empty could be handled on the next
// connection: the client is given up.
func TestStanzasLeftInAnUnknownQueueEndTheClient(t *testing.T) {
	withBotWithout(t, func(t *testing.T, b *bot) {
		conn := b.online()
		b.pause.Store(int64(time.Second))
		b.s.Flood(b.device().JID(), 50, 0)
		synctest.Wait()
		require.ErrorIs(t, conn.End(within(t, time.Minute)), errLeftOver)
		_, err := b.l.Connect(t.Context())
		require.ErrorIs(t, err, ErrNotEnded)
		b.pause.Store(0)
		conn.ended.Store(true) // for close
	}, QueueLoop)
}

// A hello in a form that the link does not know costs one attempt.
func TestUnknownHelloIsPassedOnFromTheSecondAttempt(t *testing.T) {
	for _, form := range []Reliance{helloShort, helloLong} {
		t.Run(string(form), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBotOn(t, wasim.New(wasim.WithTB(t), wasim.WithFewKeys()))
				b.l.cfg.Without = []Reliance{form}
				_, err := b.l.Connect(t.Context())
				require.Error(t, err)
				require.Empty(t, b.problems[Frames], "the network may have been at fault")
				for range 3 {
					b.online()
					require.Equal(t, strangeHello, b.problems[Frames])
					b.cut()
					b.offline()
				}
				b.close()
			})
		})
	}
}

// Half a hello and then nothing makes the next attempt a trial, which shows that
// the form is the one that is known.
func TestTrialOfABrokenLinkEndsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBotOn(t, wasim.New(wasim.WithTB(t), wasim.WithFewKeys()))
		b.l.suspectFrames()
		b.fault(wasim.HandshakeDrop()).OnNextLogin()
		_, err := b.l.Connect(t.Context())
		require.Error(t, err)
		require.EqualValues(t, framesKnown, b.l.frames.Load(), "nothing came")

		b.l.suspectFrames()
		b.fault(wasim.TextFirst()).OnNextLogin()
		b.online()
		require.EqualValues(t, framesKnown, b.l.frames.Load())
		b.cut()
		b.offline()
		require.Empty(t, b.problems[Frames])
		b.close()
	})
}
