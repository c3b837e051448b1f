package firestorebackend

import (
	"context"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/guard/guardtest"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func sim(t testing.TB, opts ...firestoresim.Option) *firestoresim.Server {
	t.Helper()
	s := firestoresim.New(opts...)
	t.Cleanup(s.Close)
	return s
}

// onSim gives a client with the interceptors of NewClient.
func onSim(t testing.TB, s *firestoresim.Server, opts ...firestoresim.ClientOption) *firestore.Client {
	t.Helper()
	return foreignOnSim(t, s, append(opts, firestoresim.DialOptions(noteOptions()...))...)
}

// foreignOnSim gives a client that a host made itself.
func foreignOnSim(t testing.TB, s *firestoresim.Server, opts ...firestoresim.ClientOption) *firestore.Client {
	t.Helper()
	c, err := s.Client(context.Background(), "demo-sim", opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestTheLockConformsInVirtualTime(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("server clock off by ", offset), func(t *testing.T) {
			locktest.Run(t, locktest.Config{Bubble: true, New: func(t *testing.T) func() lock.Store {
				s := sim(t, firestoresim.WithClockOffset(offset), firestoresim.WithLatency(2*time.Millisecond))
				return func() lock.Store { return opened(t, onSim(t, s)).Lock }
			}})
		})
	}
}

func TestAuthConformsOnTheSimulator(t *testing.T) {
	t.Parallel()
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account {
		a := authAccount(t, onSim(t, sim(t)))
		a.KV = a.KV.(inTurn).keyValues // readers beside writers see one moment here
		return a
	})
}

func TestStateConformsOnTheSimulator(t *testing.T) {
	t.Parallel()
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, onSim(t, sim(t))) })
}

func TestIncidentsConformOnTheSimulator(t *testing.T) {
	t.Parallel()
	guardtest.Run(t, func(t *testing.T) guardtest.Account { return incidentAccount(t, onSim(t, sim(t))) })
}

// contest runs leases against each other for a time and returns how long each
// hand-over took. Two terms that are trusted at once fail the test.
func contest(t *testing.T, s *firestoresim.Server, contenders int, length time.Duration, wrap func(lock.Store) lock.Store) (handovers []time.Duration) {
	var mu sync.Mutex
	var terms []lock.Term
	var released time.Time
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for i := range contenders {
		store := wrap(opened(t, onSim(t, s, firestoresim.Name(fmt.Sprint("c", i)))).Lock)
		l, err := lock.New(store, fmt.Sprint("holder ", i), lock.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		r := mrand.New(mrand.NewPCG(uint64(i), 1))
		wg.Go(func() {
			defer func() { _ = l.Close(context.Background()) }()
			for ctx.Err() == nil {
				term, err := l.Acquire(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				if !released.IsZero() {
					handovers = append(handovers, time.Since(released))
					released = time.Time{}
				}
				terms = append(terms, term)
				held := 0
				for _, o := range terms {
					if o.Held() {
						held++
					}
				}
				if held > 1 {
					t.Errorf("%d terms are held at once", held)
				}
				mu.Unlock()
				hold := time.NewTimer(5*time.Second + time.Duration(r.IntN(60_000))*time.Millisecond)
				select {
				case <-hold.C:
				case <-term.Lost():
				case <-ctx.Done():
				}
				hold.Stop()
				mu.Lock()
				if term.Held() {
					released = time.Now()
				}
				mu.Unlock()
				_ = term.Release(context.Background())
				pause := time.NewTimer(20 * time.Second) // or it would be the next holder itself
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
				pause.Stop()
			}
		})
	}
	wg.Wait()
	return handovers
}

func same(s lock.Store) lock.Store { return s }

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func TestAHandOverIsQuickWithAListenerAndBoundedWithout(t *testing.T) {
	t.Parallel()
	for name, silent := range map[string]bool{"listener": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithLatency(30*time.Millisecond))
				if silent {
					s.Fault(firestoresim.SilentListener()).Always().Now()
				}
				d := contest(t, s, 5, 10*time.Minute, same)
				require.Greater(t, len(d), 5)
				t.Logf("%d hand-overs: median %v, longest %v", len(d), median(d), d[len(d)-1])
				if silent {
					require.Less(t, d[len(d)-1], 15*time.Second)
				} else {
					require.Less(t, median(d), time.Second)
				}
			})
		})
	}
}

// Many instances, a network that loses a fifth of all replies, listeners that
// fall silent, a server whose clock is an hour off: one lock.
func TestContendersWithLostRepliesAreLinearizable(t *testing.T) {
	t.Parallel()
	contenders, length := stabilitytest.Pick(6, 20), stabilitytest.Pick(3*time.Minute, 10*time.Minute)
	for _, offset := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("server clock off by ", offset), func(t *testing.T) {
			rec := &locktest.Recorder{}
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithClockOffset(offset), firestoresim.WithLatency(30*time.Millisecond))
				rec = locktest.NewRecorder()
				rec.Slack = 10 * time.Millisecond
				lost := s.Fault(firestoresim.DropReply()).On(firestoresim.Commit, firestoresim.BatchGetDocuments).Chance(0.2, 1).Always().Now()
				deaf := s.Fault(firestoresim.SilentListener()).Chance(0.3, 2).Always().Now()
				d := contest(t, s, contenders, length, rec.Wrap)
				require.NotEmpty(t, d)
				require.Positive(t, lost.Fired())
				require.Positive(t, deaf.Fired())
				t.Logf("%d contenders, %d hand-overs, median %v; %d replies lost, %d listeners silent", contenders, len(d), median(d), lost.Fired(), deaf.Fired())
			})
			calls, decided := rec.Check(t, time.Minute)
			require.True(t, decided)
			t.Logf("%d calls", calls)
		})
	}
}

// What a standby costs while nothing happens: doc.go's formula.
func TestAnIdleStandbyCostsWhatTheFormulaSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		quiet := lock.WithLogger(slog.New(slog.DiscardHandler))
		a, err := lock.New(opened(t, onSim(t, s, firestoresim.Name("holder"))).Lock, "a", quiet)
		require.NoError(t, err)
		b, err := lock.New(opened(t, onSim(t, s, firestoresim.Name("standby"))).Lock, "b", quiet)
		require.NoError(t, err)
		_, err = a.Acquire(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _, _ = b.Acquire(ctx) }()
		time.Sleep(5 * time.Minute)
		s.ResetStats()
		time.Sleep(time.Hour)
		h, w := s.StatsOf("holder"), s.StatsOf("standby")
		t.Logf("an hour: holder %+v, standby %+v", h, w)
		require.InDelta(t, 120, h.Billing.Writes, 2, "86,400/r a day")
		require.Zero(t, h.Billing.Reads)
		require.InDelta(t, 120+360, w.Billing.Reads+w.Billing.ListenReads, 10, "86,400/r + 86,400/p a day")
		require.Zero(t, w.Billing.Writes)
		cancel()
		<-done
		require.NoError(t, a.Close(context.Background()))
		require.NoError(t, b.Close(context.Background()))
	})
}

// A listener that has fallen silent is noticed, and the next one hears.
func TestADeafListenerIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		a := opened(t, onSim(t, s, firestoresim.Name("holder"))).Lock
		b := opened(t, onSim(t, s, firestoresim.Name("standby"))).Lock
		rec, _, err := a.Acquire(t.Context(), "a", "n", time.Hour)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range b.(lock.Watcher).Changes(ctx) {
			}
		}()
		time.Sleep(time.Second)
		s.Fault(firestoresim.SilentListener()).From("standby").Now()
		s.ResetStats()
		for range 4 {
			rec, err = a.Renew(ctx, rec)
			require.NoError(t, err)
			time.Sleep(30 * time.Second)
		}
		require.Equal(t, 1, s.StatsOf("standby").RPCs[firestoresim.Listen], "it listens again, once")
		heard := s.StatsOf("standby").ListenReads
		_, err = a.Renew(ctx, rec)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, heard+1, s.StatsOf("standby").ListenReads)
		cancel()
		<-done
	})
}

// A cold start reads thousands of sessions in two rounds of requests.
func TestAColdStartTakesTwoRounds(t *testing.T) {
	t.Parallel()
	const latency = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		c := onSim(t, s)
		b := opened(t, c)
		rec := hold(t, b)
		coldAccount(t, b, rec)
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		b = opened(t, c)
		rec = hold(t, b)
		s.ResetStats()
		s.SetLatency(latency)
		begin := time.Now()
		n := coldStart(t, b)
		t.Logf("%d sessions in %v: %+v", n, time.Since(begin), s.Stats())
		require.Equal(t, 5000, n)
		require.Less(t, time.Since(begin), 3*latency, "at most two rounds")
		s.SetLatency(0)
		s.ResetStats()
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("1", "x", "2", "y", "new", "z")))
		require.Equal(t, 1, s.Stats().RPCs[firestoresim.Commit])
		require.Zero(t, s.Stats().RPCs[firestoresim.BatchGetDocuments], "after the scan a commit reads nothing")
	})
}

// A holder that is not heard of keeps the lock until its lease has run out, by
// the server's clock, to the second.
func TestLeaseIsWaitedInFull(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("server clock off by ", offset), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithClockOffset(offset))
				a, b := opened(t, onSim(t, s)).Lock, opened(t, onSim(t, s)).Lock
				rec, _, err := a.Acquire(t.Context(), "a", "na", lock.DefaultLease)
				require.NoError(t, err)
				time.Sleep(20 * time.Second)
				_, err = a.Renew(t.Context(), rec)
				require.NoError(t, err)
				begin := time.Now()
				for n := 0; ; n++ {
					_, granted, err := b.Acquire(t.Context(), "b", fmt.Sprint(n), lock.DefaultLease)
					require.NoError(t, err)
					if granted {
						break
					}
					time.Sleep(time.Second)
				}
				require.InDelta(t, lock.DefaultLease.Seconds(), time.Since(begin).Seconds(), 1.01)
			})
		})
	}
}
