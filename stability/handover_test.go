package stability_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// handOvers lets two instances take turns under a stream of messages, each of
// which is answered by whoever gets it.
func handOvers(t *testing.T, rounds int) (gaps []time.Duration) {
	w := newWorld(t)
	a := w.tended("a").run().pair()
	b := w.tended("b").run()
	both := []*tended{a, b}
	peer := w.peer()
	for _, i := range both {
		i.heed(func(evt any) {
			if m, ok := evt.(*events.Message); ok {
				time.Sleep(20 * time.Millisecond) // work
				if err := i.send(peer.JID(), "re "+m.Message.GetConversation()); err != nil {
					t.Errorf("%s could not answer %q: %v", i.label, m.Message.GetConversation(), err)
				}
			}
		})
	}
	stop := w.chatter(100 * time.Millisecond)
	time.Sleep(time.Minute)
	for range rounds {
		leaves, comes := both[0], both[1]
		comes.forget0()
		leaves.forget0()
		leaves.cancel()
		require.NoError(t, <-leaves.result)
		released := leaves.reached(1, stability.EventDeactivated).Time
		connected := comes.reached(1, stability.EventConnected).Time
		gaps = append(gaps, connected.Sub(released))
		require.Less(t, connected.Sub(released), 2*time.Second, "without a jitter")
		time.Sleep(5 * time.Second)
		leaves.run()
		both[0], both[1] = comes, leaves
	}
	sent := stop()
	time.Sleep(time.Minute)
	onceEach(t, sent, a.texts(), b.texts())
	answers := map[string]int{}
	for _, text := range peer.Texts() {
		answers[text]++
	}
	for n := range sent {
		require.Equal(t, 1, answers[fmt.Sprintf("re m%d", n)], "m%d of %d", n, sent)
	}
	require.Zero(t, w.device().Stats().Replaced, "never two logins")
	require.Zero(t, w.device().Stats().RetryReceipts)
	a.kill()
	b.kill()
	w.close()
	return gaps
}

func TestHandOversInARowAnswerEveryMessageOnceAndTakeLessThanTwoSeconds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		t.Log("from release to logged in, virtual:", handOvers(t, stabilitytest.Pick(5, 20)))
	})
}

func TestARunningHandlerFinishesAndItsAnswerLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithShutdownTimeout(5*time.Second)).run().pair()
		peer := w.peer()
		time.Sleep(time.Minute)
		a.heed(func(evt any) {
			if m, ok := evt.(*events.Message); ok {
				time.Sleep(3 * time.Second)
				require.NoError(t, a.send(peer.JID(), "re "+m.Message.GetConversation()))
			}
		})
		for n := range 3 { // one is handled, the others wait
			_, err := peer.Send(t.Context(), w.account.JID(), fmt.Sprint("m", n))
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		start := time.Now()
		a.cancel()
		require.NoError(t, <-a.result)
		require.Less(t, time.Since(start), 6*time.Second, "within the budget")
		require.Equal(t, []string{"re m0"}, peer.Texts(), "what was begun is finished, and nothing new")
		require.Equal(t, []string{"m0"}, a.texts())
		rec, err := w.look().Lock.Load(t.Context())
		require.NoError(t, err)
		require.Empty(t, rec.Holder)

		b := w.tended("b").run().ready()
		time.Sleep(10 * time.Second)
		require.ElementsMatch(t, []string{"m1", "m2"}, b.texts(), "the others come to the next")
		b.stop()
		require.NoError(t, a.m.Close(t.Context()))
		w.close()
	})
}

func TestAHandlerThatDoesNotFinishCostsTheBudgetAndNoMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithShutdownTimeout(5*time.Second)).run().pair()
		time.Sleep(time.Minute)
		stuck := make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				<-stuck
			}
		})
		_, err := w.say("stick")
		require.NoError(t, err)
		time.Sleep(time.Second)
		start := time.Now()
		a.cancel()
		require.NoError(t, <-a.result)
		require.Less(t, time.Since(start), 11*time.Second)
		b := w.tended("b").run().ready()
		b.stop()
		close(stuck)
		time.Sleep(time.Second)
		_ = a.m.Close(t.Context())
		w.close()
	})
}

func TestOnlyACrashOrAHealIsFollowedByAJitter(t *testing.T) {
	t.Parallel()
	jitters := func(crash bool) (longest time.Duration) {
		for n := range 12 {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				b := w.tended("b", stability.WithReconnect(reconnect.Policy{StartJitter: 10 * time.Second})).run()
				b.reached(1, stability.EventStandby)
				time.Sleep(time.Minute + time.Duration(n)*time.Second)
				if crash {
					a.crash()
				} else {
					a.cancel()
				}
				active := b.reached(1, stability.EventActivated)
				longest = max(longest, b.reached(1, stability.EventConnected).Time.Sub(active.Time))
				a.wire.heal()
				w.sim.Heal()
				a.kill()
				b.kill()
				w.close()
			})
		}
		return longest
	}
	require.Less(t, jitters(false), 500*time.Millisecond)
	after := jitters(true)
	require.Greater(t, after, time.Second)
	require.Less(t, after, 11*time.Second)
}

func TestNobodyPairsWithoutTheLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run()
		w.await("a code", func() bool { return len(a.codes) > 0 })
		b := w.tended("b").run()
		time.Sleep(time.Hour)
		require.Empty(t, b.codes)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := b.m.PairPhone(ctx, "491520000001")
		cancel()
		require.ErrorIs(t, err, stability.ErrNotActive)
		_, err = b.m.AuthState(t.Context())
		require.ErrorIs(t, err, stability.ErrNotActive)
		require.Zero(t, w.sim.DialsFrom("b"))
		a.kill()
		b.kill()
		w.close()
	})
}

func TestNoAttemptBeginsThatCouldNotBeSaved(t *testing.T) {
	for _, c := range []struct {
		name  string
		which func(string) bool
		keeps bool // the lock
	}{
		{"the state alone", only("save state"), true},
		{"session and state", only("save state", "commit", "get", "scan"), true},
		{"everything", anyCall, false},
	} {
		for _, hang := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,hang=%v", c.name, hang), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.tended("a").run().pair()
					time.Sleep(5 * time.Minute)
					epoch := a.status().LeaseEpoch
					before := a.status().State
					if hang {
						a.wire.hang(c.which)
					} else {
						a.wire.fail(c.which)
					}
					until := a.status().TrustedUntil
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
					time.Sleep(100 * time.Millisecond)
					dials := w.sim.Dials()
					require.Equal(t, stability.ModeActive, a.status().Mode, "a held lock is kept")
					for time.Until(until) > time.Second {
						time.Sleep(time.Second)
						require.Equal(t, stability.ModeActive, a.status().Mode, "until trust ends")
					}
					time.Sleep(time.Hour)
					require.Equal(t, dials, w.sim.Dials(), "no attempt")
					st := a.status()
					require.Error(t, st.StoreUnavailable)
					require.Contains(t, st.Summary, "backend does not answer")
					require.Equal(t, c.keeps, st.Mode == stability.ModeActive)
					require.LessOrEqual(t, st.State.Failures, before.Failures+1)
					require.LessOrEqual(t, len(st.State.Attempts), 1)
					require.False(t, a.exited())
					a.wire.heal()
					start := time.Now()
					a.ready() // by itself
					require.Less(t, time.Since(start), time.Minute)
					require.Equal(t, c.keeps, a.status().LeaseEpoch == epoch)
					a.stop()
					w.close()
				})
			})
		}
	}
}

func TestAnIdleConnectionOutlivesAnOutageOfWhatItDoesNotNeed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run().pair()
		time.Sleep(5 * time.Minute)
		a.forget()
		a.wire.fail(only("save state", "raise"))
		time.Sleep(time.Hour)
		require.Empty(t, a.history(stability.EventDisconnected))
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		a.wire.heal()
		a.stop()
		w.close()
	})
}

// standbys makes n Managers that stand by, each on a backend of its own.
func standbys(tb testing.TB, n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	all := make([]*stability.Manager, n)
	ends := make(chan error, n)
	standing := make(chan struct{}, n)
	for i := range all {
		memory := memorybackend.New()
		_, granted, err := memory.Backend().Lock.Acquire(ctx, "another", "nonce", time.Hour)
		require.NoError(tb, err)
		require.True(tb, granted)
		all[i], err = stability.New(stability.WithBackend(memory.Backend()), stability.WithLogger(logger()),
			stability.WithObserver(func(e stability.Event) {
				if e.Kind == stability.EventStandby {
					standing <- struct{}{}
				}
			}))
		require.NoError(tb, err)
		go func() { ends <- all[i].Run(ctx, nil) }()
	}
	for range all {
		<-standing
	}
	return func() {
		cancel()
		for range all {
			<-ends
		}
		for _, m := range all {
			require.NoError(tb, m.Close(context.Background()))
		}
	}
}

func idle(tb testing.TB, n int) (bytes, goroutines float64) {
	measure := func() (uint64, int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()
	}
	b0, g0 := measure()
	stop := standbys(tb, n)
	time.Sleep(100 * time.Millisecond) // the last observers' goroutines end
	b1, g1 := measure()
	stop()
	return float64(b1-b0) / float64(n), float64(g1-g0) / float64(n)
}

func TestAnIdleManagerInStandbyIsSmall(t *testing.T) {
	bytes, goroutines := idle(t, 500)
	t.Logf("%.0f bytes, %.2f goroutines each", bytes, goroutines)
	require.LessOrEqual(t, goroutines, 3.01)
	require.LessOrEqual(t, bytes, 40.0*1024)
}

func BenchmarkIdleStandby(b *testing.B) {
	for b.Loop() {
		bytes, goroutines := idle(b, 10_000)
		b.ReportMetric(bytes, "B/manager")
		b.ReportMetric(goroutines, "goroutines/manager")
	}
}

func TestHowLongItTakesFromAFaultToItsNoticeAndBack(t *testing.T) {
	for _, f := range []wasim.Fault{
		wasim.FIN(), wasim.Reset(), wasim.WebsocketClose(1001), wasim.StreamEnd(), wasim.StreamError("500"), wasim.StreamError("503"),
		wasim.StreamError("515"), wasim.Replaced(), wasim.DeviceRemoved(), wasim.BlackHole(), wasim.Silence(),
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.tended("a").run().pair()
			time.Sleep(5 * time.Minute)
			a.forget()
			start := time.Now()
			w.sim.Fault(f).For(w.account.JID()).Now()
			for step := time.Millisecond; a.status().WA == reconnect.StatusConnected && len(a.history(stability.EventDisconnected)) == 0; step = min(2*step, 100*time.Millisecond) {
				time.Sleep(step)
			}
			noticed := time.Since(start)
			require.LessOrEqual(t, noticed, noticing)
			back := "not by itself"
			if a.reached(1, stability.EventDisconnected).Decision.ShouldReconnect {
				back = a.reached(1, stability.EventConnected).Time.Sub(start).String()
			}
			t.Logf("%-22s noticed after %-14s back after %s", f, noticed, back)
			a.stop()
			w.close()
		})
	}
}

// What a platform must wait, even with everything against it.
func TestHandOverEndsWithinItsBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithShutdownTimeout(5*time.Second)).run().pair()
		time.Sleep(time.Minute)
		bound := a.status().Settings.HandOver()
		require.Equal(t, 36*time.Second, bound)
		stuck := make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				<-stuck
			}
		})
		_, err := w.say("stick")
		require.NoError(t, err)
		time.Sleep(time.Second)
		a.wire.hang(func(string) bool { return true })
		start := time.Now()
		a.cancel()
		<-a.result
		_ = a.m.Close(context.Background())
		took := time.Since(start)
		t.Log("a hand-over with a stuck handler and a store that hangs took", took)
		require.Greater(t, took, 10*time.Second)
		require.LessOrEqual(t, took, bound)
		a.wire.heal()
		close(stuck)
		time.Sleep(time.Minute)
	})
}
