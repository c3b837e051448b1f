package stability_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestEndlessReplacementsAreNotAnsweredInKind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		before := w.logins()
		// Somebody outside of the lock takes the session back each time.
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(5 * time.Second) {
			if a.status().WA == reconnect.StatusConnected {
				w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
			}
		}
		require.LessOrEqual(t, w.logins()-before, 6*5+1, "one delayed try, then every 12 to 18 min")
		require.Equal(t, []guard.Change{opened}, a.book.of("wa_connection_conflict_active"))
		require.False(t, a.exited())
		a.stop()
		w.close()
	})
}

func TestAReplacedConnectionComesBackByItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
		w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
		st := a.status()
		require.Equal(t, reconnect.ReasonConnectionReplaced, st.LastDisconnectReason)
		require.False(t, st.NextRetryAt.IsZero())
		time.Sleep(3 * time.Minute)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.stop()
		w.close()
	})
}

func TestReconnectsAskedAtOnceMakeOneLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		for range 10 {
			logins := w.logins()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(a.m.Reconnect)
			}
			wg.Wait()
			w.await("one login", func() bool { return w.logins() > logins && a.status().WA == reconnect.StatusConnected })
			time.Sleep(2 * time.Minute)
			require.Equal(t, logins+1, w.logins())
			require.Zero(t, w.device().Stats().Replaced, "the old socket is closed first")
		}
		a.stop()
		w.close()
	})
}

func TestRefusedFromTheStartItKeepsTrying(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.tended("a").run().pair().stop()
		for _, f := range []wasim.Fault{wasim.Refused(), wasim.DialHang(), wasim.UpgradeStatus(503)} {
			broken := w.sim.Fault(f).Always().OnNextLogin()
			b := w.tended("b"+f.String(), stability.WithAutoHeal(noHeal)).run()
			time.Sleep(3 * time.Hour)
			st := b.status()
			tries := st.Connecting || !st.NextRetryAt.IsZero() || !st.AsksAgainAt.IsZero()
			require.True(t, tries, st.Summary)
			broken.Stop()
			b.ready()
			b.stop()
		}
		w.close()
	})
}

func TestRetriesOfAnHourAreThrottled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		time.Sleep(5 * time.Minute)
		before := w.sim.Dials()
		stop := w.loops()
		time.Sleep(time.Hour)
		require.Less(t, w.sim.Dials()-before, 3600/48+7)
		require.Greater(t, w.sim.Dials()-before, 3600/72, "and not endless pauses either")
		stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestAnOutdatedClientIsTriedSlowlyAndTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		f := w.sim.Fault(wasim.Failure(405)).Always().OnNextLogin()
		before := w.sim.Dials()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(6 * time.Hour)
		require.LessOrEqual(t, w.sim.Dials()-before, 6*5+1)
		require.Equal(t, reconnect.ReasonClientOutdated, a.status().LastDisconnectReason)
		require.Equal(t, []guard.Change{opened}, a.book.of("wa_client_outdated_active"))
		f.Stop()
		time.Sleep(20 * time.Minute)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.stop()
		w.close()
	})
}

func TestABanIsWaitedOutAndIsNoLogout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		w.sim.Fault(wasim.TemporaryBan(101, 5*time.Hour)).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		w.await("the ban", func() bool { return a.status().LastDisconnectReason == reconnect.ReasonTemporaryBan })
		dials := w.sim.Dials()
		for range 10 {
			a.m.Reconnect()
			time.Sleep(29 * time.Minute)
			require.Equal(t, dials, w.sim.Dials(), "never hammered")
			require.Equal(t, reconnect.StatusDisconnected, a.status().WA)
		}
		a.ready()
		require.Empty(t, a.codes)

		// It is learnt of while somebody has asked to reconnect: the wish is the
		// older news.
		time.Sleep(2 * time.Minute)
		dials = w.sim.Dials()
		a.m.Reconnect()
		d, err := a.m.HandleDisconnected(t.Context(), &events.TemporaryBan{Code: 101, Expire: time.Hour})
		require.NoError(t, err)
		require.Equal(t, reconnect.ReasonTemporaryBan, d.Reason)
		time.Sleep(59 * time.Minute)
		require.Equal(t, dials, w.sim.Dials())
		a.ready()
		require.Equal(t, dials+1, w.sim.Dials())
		a.stop()
		w.close()
	})
}

// hasty is a service that closes right behind its last word.
func hasty(t *testing.T) *world {
	sim := wasim.New(wasim.WithTB(t), wasim.WithFewKeys(), wasim.WithCloseDelay(0))
	return &world{t: t, sim: sim, account: sim.NewAccount("491520000001"), memory: newServer(t)}
}

func TestTheReasonIsKnownHoweverItsEventsArrive(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := hasty(t)
		a := w.tended("a").run().pair()
		for n := range stabilitytest.Pick(40, 400) {
			time.Sleep(90 * time.Minute) // a replacement is forgotten after an hour
			a.forget()
			a.heed(func(any) { time.Sleep(time.Duration(n%7) * time.Millisecond) })
			c := []struct {
				f    wasim.Fault
				want reconnect.Reason
			}{
				{wasim.Replaced(), reconnect.ReasonConnectionReplaced}, {wasim.StreamError("503"), reconnect.ReasonServiceUnavailable},
				{wasim.StreamError("515"), reconnect.ReasonRestartRequired}, {wasim.StreamError("500"), reconnect.ReasonBadSession},
			}[n%4]
			w.sim.Fault(c.f).For(w.account.JID()).Now()
			e := a.reached(1, stability.EventDisconnected)
			require.Equal(t, c.want, e.Reason)
			a.ready()
			time.Sleep(5 * time.Minute)
			require.Len(t, a.history(stability.EventConnected), 1)
		}
		a.stop()
		w.close()
	})
}

func TestAStanzaOfAnOldConnectionDoesNotReachTheNext(t *testing.T) {
	for _, slow := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 40 * time.Second} {
		bubble(t, func(t *testing.T) {
			w := hasty(t)
			a := w.tended("a").run().pair()
			time.Sleep(5 * time.Minute)
			a.forget()
			a.heed(func(evt any) {
				if m, ok := evt.(*events.Message); ok && m.Message.GetConversation() == "slow" {
					time.Sleep(slow)
				}
			})
			_, err := w.say("slow")
			require.NoError(t, err)
			time.Sleep(50 * time.Millisecond)
			w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now() // waits in the queue behind it
			e := a.reached(1, stability.EventDisconnected)
			require.Equal(t, reconnect.ReasonConnectionReplaced, e.Reason)
			a.reached(1, stability.EventConnected)
			time.Sleep(10 * time.Minute)
			require.Len(t, a.history(stability.EventDisconnected), 1, "the next connection is healthy")
			// And its own end is not silent.
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			require.Equal(t, reconnect.ReasonConnectionClosed, a.reached(2, stability.EventDisconnected).Reason)
			a.ready()
			a.stop()
			w.close()
		})
	}
}

func TestMessagesBeforeConnectedAreHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(time.Minute)
		for range 3 {
			a.forget()
			refused := w.sim.Fault(wasim.Refused()).Always().OnNextLogin()
			w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
			for range 5 {
				_, err := w.say("while away")
				require.NoError(t, err)
			}
			refused.Stop()
			a.ready()
			time.Sleep(time.Minute)
			require.Len(t, a.texts(), 5, "each once, none refused")
		}
		require.Zero(t, w.device().Stats().RetryReceipts)
		a.stop()
		w.close()
	})
}

// The goroutine of whatsmeow's that reads a stream error may be the last to run:
// the socket is known to be gone by then, and the queue is being emptied.
func TestReasonThatIsReadBehindTheEndOfItsSocketIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a")
		busy := make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Receipt); ok {
				<-busy
			}
		})
		a.run().pair()
		time.Sleep(5 * time.Minute)
		w.flood(1, 0) // the queue is busy with it when the socket goes
		time.Sleep(time.Second)
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(3 * time.Second)
		require.Equal(t, reconnect.ReasonConnectionClosed, a.status().LastDisconnectReason, "it is not known yet")
		a.m.Client().Log.Sub("Recv").Debugf("%s", `<stream:error><conflict type="replaced"/></stream:error>`) // as that goroutine does
		close(busy)
		time.Sleep(time.Second)
		st := a.status()
		require.Equal(t, reconnect.ReasonConnectionReplaced, st.LastDisconnectReason)
		require.Greater(t, time.Until(st.NextRetryAt), time.Minute, "and it is not taken back at once")
		a.stop()
		w.close()
	})
}
