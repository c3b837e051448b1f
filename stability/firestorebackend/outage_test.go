package firestorebackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// busyInstance calls everything that a Manager calls, as often as it can: what
// is counted at the server is what the backend lets through.
func busyInstance(ctx context.Context, wg *sync.WaitGroup, b stability.Backend, name string, epoch int64) {
	l, err := lock.New(b.Lock, name, lock.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		panic(err)
	}
	wg.Go(func() {
		defer func() { _ = l.Close(context.Background()) }()
		for ctx.Err() == nil {
			term, err := l.Acquire(ctx)
			if err != nil {
				return
			}
			select {
			case <-term.Lost():
			case <-ctx.Done():
			}
		}
	})
	for _, call := range []func(){
		func() { _, _ = b.Auth.Get(ctx, key("a")) },
		func() { _ = b.Auth.Commit(ctx, epoch, put("a", rand.Text())) },
		func() { _ = b.State.Save(ctx, epoch, reconnect.State{RetryCount: 1}) },
		func() { _, _, _ = b.Incidents.Raise(ctx, guard.Incident{ID: "x", DetectedAt: time.Now()}) },
		func() { _, _ = b.Incidents.List(ctx) },
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				call()
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
}

// Call sites of one instance: lock, session, state and incidents, each with its
// reads and its writes, and the listener.
const callSites = 9

func TestLongOutagesCostSixRequestsAMinuteACallSite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		fault   firestoresim.Fault
		on      []firestoresim.Method
		foreign bool // a client that NewClient did not make
		most    int  // requests a minute for two instances
	}{
		{"UNAVAILABLE", firestoresim.Unavailable(), nil, false, 2 * callSites * 6},
		{"RESOURCE_EXHAUSTED", firestoresim.ResourceExhausted(), nil, false, 2 * callSites * 6},
		{"RESOURCE_EXHAUSTED on commits", firestoresim.ResourceExhausted(), []firestoresim.Method{firestoresim.Commit}, false, 2 * 4 * 6},
		// Its client repeats for 5 s, then the backend pauses for 10 s.
		{"UNAVAILABLE on another client", firestoresim.Unavailable(), nil, true, 2 * callSites * 6 * 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithLatency(20*time.Millisecond))
				open := func(name string) stability.Backend {
					if c.foreign {
						return opened(t, foreignOnSim(t, s, firestoresim.Name(name)))
					}
					return opened(t, onSim(t, s, firestoresim.Name(name)))
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				defer cancel()
				busyInstance(ctx, &wg, open("a"), "a", 1)
				time.Sleep(time.Minute)
				busyInstance(ctx, &wg, open("b"), "b", 2)
				time.Sleep(time.Minute)

				refusals := s.Fault(c.fault).On(c.on...).Always().Now()
				time.Sleep(2 * time.Minute)
				s.ResetStats()
				minutes := stabilitytest.Pick(2, 58)
				before := refusals.Fired()
				time.Sleep(time.Duration(minutes) * time.Minute)
				refused := refusals.Fired() - before
				for m, n := range s.Stats().RPCs {
					t.Logf("%s: %.1f a minute", m, float64(n)/float64(minutes))
				}
				t.Logf("%.1f refused requests a minute for two instances", float64(refused)/float64(minutes))
				require.Positive(t, refused)
				require.LessOrEqual(t, refused, c.most*minutes)

				// An outage that is over is noticed at the end of a pause at the
				// latest.
				b := open("user")
				require.Error(t, b.Auth.Commit(ctx, 1, put("a", "v")))
				s.Heal()
				begin := time.Now()
				require.Eventually(t, func() bool {
					got, err := b.Lock.Load(ctx)
					return err == nil && got.Holder != "" && got.RenewedAt.After(begin.Add(-time.Second))
				}, time.Minute, 100*time.Millisecond)
				t.Logf("the lock was renewed or taken again %v after the outage", time.Since(begin).Round(time.Second/10))
				require.LessOrEqual(t, time.Since(begin), maxPause+DefaultTimeout+lock.DefaultLease/2)
			})
		})
	}
}

// Each call works again 10 s after the outage at the latest, however long it
// was.
func TestCallsWorkSoonAfterALongOutage(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t)
				b := opened(t, onSim(t, s))
				rec := hold(t, b)
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "v")))
				s.Fault(firestoresim.Fail(code, "down")).Always().Now()
				all := calls(b, rec)
				delete(all, "release")
				delete(all, "acquire")
				each := func(do func(name string, call func(context.Context) error)) {
					var wg sync.WaitGroup
					for name, call := range all {
						wg.Go(func() { do(name, call) })
					}
					wg.Wait()
				}
				down := time.Now()
				each(func(name string, call func(context.Context) error) {
					for time.Since(down) < stabilitytest.Pick(5*time.Minute, time.Hour) {
						if err := call(t.Context()); err == nil {
							t.Errorf("%s worked in the outage", name)
						}
						time.Sleep(time.Second)
					}
				})
				s.Heal()
				begin := time.Now()
				each(func(name string, call func(context.Context) error) {
					for call(t.Context()) != nil {
						time.Sleep(100 * time.Millisecond)
					}
					// A commit has two pauses to end: that of its reads, and its own.
					if took := time.Since(begin); took > maxPause+time.Second {
						t.Errorf("%s works again only after %v", name, took)
					}
				})
			})
		})
	}
}

// A moment without service costs a caller a moment, and no error.
func TestAShortOutageIsWaitedOutWithinACall(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{50 * time.Millisecond, time.Second, 2500 * time.Millisecond} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t)
				b := opened(t, onSim(t, s))
				rec := hold(t, b)
				all := calls(b, rec)
				delete(all, "release")
				outage := s.Fault(firestoresim.Unavailable()).Always().Now()
				time.AfterFunc(length, outage.Stop)
				begin := time.Now()
				var wg sync.WaitGroup
				for name, call := range all {
					wg.Go(func() {
						if err := call(t.Context()); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					})
				}
				wg.Wait()
				require.Less(t, time.Since(begin), length+outagePause+time.Second)
				require.Less(t, outage.Fired(), 100)
			})
		})
	}
}

// A host's request on the same client is repeated as Firestore's client does.
func TestAHostsOwnRequestsAreRepeatedAsEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		c := onSim(t, s)
		refused := s.Fault(firestoresim.Unavailable()).On(firestoresim.Commit).Times(5).Now()
		_, err := c.Doc("hosts/own").Set(t.Context(), map[string]any{"x": 1})
		require.NoError(t, err)
		require.Equal(t, 5, refused.Fired())
	})
}
