package stability_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// chatter lets the contact send numbered messages until stop, which returns
// how many there were.
func (w *world) chatter(every time.Duration) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	sent := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := w.say(fmt.Sprintf("m%d", sent)); err == nil {
				sent++
			}
			time.Sleep(every)
		}
	})
	stop = func() int { cancel(); wg.Wait(); return sent }
	w.t.Cleanup(func() { stop() })
	return stop
}

// onceEach checks that of n numbered messages each was handed over exactly once
// by all instances together.
func onceEach(t *testing.T, n int, got ...[]string) {
	t.Helper()
	seen := map[string]int{}
	for _, g := range got {
		for _, s := range g {
			seen[s]++
		}
	}
	for i := range n {
		require.Equal(t, 1, seen[fmt.Sprintf("m%d", i)], "m%d of %d", i, n)
	}
}

func never(t *testing.T, reason reconnect.Reason, instances ...*named) {
	t.Helper()
	for _, i := range instances {
		for _, e := range i.history(stability.EventDisconnected, stability.EventReasonKnown) {
			require.NotEqual(t, reason, e.Reason)
		}
	}
}

func TestTheSocketIsCutBeforeAnotherInstanceCanBeGrantedTheLock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		cut    func(*wire)
		reason reconnect.Reason
	}{
		{"lock refuses", func(w *wire) { w.fail(lockCalls) }, reconnect.ReasonLockLost},
		{"lock is silent", func(w *wire) { w.hang(lockCalls) }, reconnect.ReasonLockLost},
		{"backend is silent", func(w *wire) { w.hang(anyCall) }, reconnect.ReasonNone},
		{"backend refuses", func(w *wire) { w.fail(anyCall) }, reconnect.ReasonNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a").run().pair()
				b := w.named("b").run()
				stop := w.chatter(700 * time.Millisecond)
				b.reached(1, stability.EventStandby)
				time.Sleep(time.Minute)
				device := w.device()
				a.forget0()
				for len(a.codes) > 0 {
					<-a.codes
				}
				c.cut(a.wire)
				granted := b.reached(1, stability.EventActivated)
				b.ready()

				over := a.reached(1, stability.EventDisconnected)
				require.Contains(t, []reconnect.Reason{reconnect.ReasonLockLost, reconnect.ReasonStoreUnavailable}, over.Reason)
				if c.reason != reconnect.ReasonNone {
					require.Equal(t, c.reason, over.Reason)
				}
				require.True(t, over.Time.Before(granted.Time))
				for _, l := range a.lines.times() {
					require.False(t, l.closed.IsZero())
					require.True(t, l.closed.Before(granted.Time), "closed %v, granted %v", l.closed, granted.Time)
					require.True(t, l.lastWrite.Before(granted.Time))
				}
				require.Zero(t, device.Stats().Replaced, "never two logins")
				require.NotEqual(t, stability.ModeActive, a.status().Mode)

				// The way to the backend comes back: it stands by, and takes its turn.
				a.wire.heal()
				a.reached(1, stability.EventStandby)
				time.Sleep(2 * time.Minute) // longer than a lease
				require.Equal(t, stability.ModePassive, a.status().Mode)
				require.NotEmpty(t, a.status().Summary)
				b.stop()
				a.reached(1, stability.EventActivated)
				a.ready()
				sent := stop()
				time.Sleep(time.Minute)
				require.Zero(t, device.Stats().Replaced)
				never(t, reconnect.ReasonConnectionReplaced, a, b)
				onceEach(t, sent, a.texts(), b.texts())
				require.Empty(t, a.codes, "no code after the pairing")
				require.Empty(t, b.codes)
				a.stop()
				w.close()
			})
		})
	}
}

// pausing is a lock whose terms can be paused, as those of a process are that
// was suspended: they live, and nobody knows yet whether the lease does.
type pausing struct {
	lock.Lock
	paused atomic.Bool
}

type pausingTerm struct {
	lock.Term
	l *pausing
}

var _ lock.Causer = pausingTerm{}

func (l *pausing) TryAcquire(ctx context.Context) (lock.Term, bool, error) {
	t, granted, err := l.Lock.TryAcquire(ctx)
	if t == nil {
		return nil, granted, err
	}
	return pausingTerm{t, l}, granted, err
}

func (t pausingTerm) Held() bool   { return !t.l.paused.Load() && t.Term.Held() }
func (t pausingTerm) Cause() error { return lock.Cause(t.Term) }

func TestWhileTheTermIsPausedNothingIsSentAndNoAttemptIsMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		lease, err := lock.New(w.memory.Backend().Lock, "a", lock.WithLogger(logger()))
		require.NoError(t, err)
		p := &pausing{Lock: lease}
		a := w.named("a", stability.WithLock(p)).run().pair()
		peer := w.peer()
		time.Sleep(2 * time.Minute)
		a.forget0()
		dials := w.sim.Dials()

		p.paused.Store(true)
		since := time.Now()
		_ = a.send(peer.JID(), "too early")
		require.Empty(t, peer.Texts())
		e := a.reached(1, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonConnectionLost, e.Reason)
		require.Contains(t, e.Detail, "paused")
		time.Sleep(20 * time.Minute)
		for _, l := range a.lines.times() {
			require.False(t, l.lastWrite.After(since), "a byte left")
		}
		require.Equal(t, dials, w.sim.Dials())
		require.Empty(t, a.history(stability.EventConnecting), "no attempt")
		require.Equal(t, stability.ModeActive, a.status().Mode, "the term is not over")

		p.paused.Store(false) // a renewal has confirmed it
		start := time.Now()
		a.ready()
		require.Less(t, time.Since(start), time.Second)
		require.NoError(t, a.send(peer.JID(), "now"))
		a.stop()
		require.NoError(t, lease.Close(t.Context()))
		w.close()
	})
}

func TestHandOverIsImmediateAndEveryMessageIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		b := w.named("b").run()
		b.reached(1, stability.EventStandby)
		time.Sleep(time.Minute)
		stop := w.chatter(30 * time.Millisecond)
		time.Sleep(5 * time.Second)
		device := w.device()
		both := []*named{a, b}
		for range 4 {
			leaves, comes := both[0], both[1]
			comes.forget0()
			start := time.Now()
			leaves.cancel()
			require.NoError(t, <-leaves.result)
			comes.ready()
			require.Less(t, time.Since(start), time.Second)
			time.Sleep(5 * time.Second)
			leaves.run()
			both[0], both[1] = comes, leaves
		}
		sent := stop()
		time.Sleep(time.Minute)
		onceEach(t, sent, a.texts(), b.texts())
		require.Zero(t, device.Stats().Replaced)
		require.Zero(t, device.Stats().RetryReceipts)
		never(t, reconnect.ReasonConnectionReplaced, a, b)
		a.stop()
		b.stop()
		w.close()
	})
}

// forget0 empties the events and keeps the messages.
func (i *instance) forget0() {
	synctest.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.events = nil
}

func TestAfterACrashAnotherInstanceTakesOverWithinTheLeaseAndASecond(t *testing.T) {
	for _, lease := range []time.Duration{0, 15 * time.Second} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.named("a", stability.WithLockOptions(lock.WithLease(lease))).run().pair()
			b := w.named("b", stability.WithLockOptions(lock.WithLease(lease))).run()
			b.reached(1, stability.EventStandby)
			stop := w.chatter(time.Second)
			time.Sleep(time.Minute + 7*time.Second + 500*time.Millisecond) // between two messages
			if lease == 0 {
				lease = 90 * time.Second
			}
			// A crash as the world sees it: silence on both sides.
			crash := time.Now()
			a.wire.hang(anyCall)
			heal := w.sim.Partition("a")
			granted := b.reached(1, stability.EventActivated)
			require.LessOrEqual(t, granted.Time.Sub(crash), lease+time.Second)
			b.ready()
			sent := stop()
			time.Sleep(10 * time.Second)
			onceEach(t, sent, a.texts(), b.texts())
			for _, l := range a.lines.times() {
				require.True(t, l.lastWrite.Before(granted.Time))
			}
			heal()
			a.wire.heal()
			time.Sleep(5 * time.Minute)
			require.Equal(t, reconnect.StatusConnected, b.status().WA)
			require.Equal(t, stability.ModePassive, a.status().Mode)
			never(t, reconnect.ReasonConnectionReplaced, a, b)
			a.kill() // the release that went unanswered is reported by Close
			b.stop()
			w.close()
		})
	}
}

func TestManagersInOneProcessDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, stabilitytest.Pick(20, 50)} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var worlds []*world
				var all []*named
				for i := range n {
					own := &world{t: t, sim: w.sim, account: w.sim.NewAccount(fmt.Sprintf("4916%08d", i)), memory: newServer(t)}
					worlds = append(worlds, own)
					all = append(all, own.named(fmt.Sprint("m", i)).run())
				}
				for _, a := range all {
					a.pair()
				}
				time.Sleep(2 * time.Minute)
				for i, a := range all {
					a.forget0()
					_, err := w.peer().Send(t.Context(), worlds[i].account.JID(), fmt.Sprint("for ", i))
					require.NoError(t, err)
				}
				// Every second one has trouble of its own.
				for i, a := range all {
					switch {
					case i%2 == 0:
					case i%8 == 1:
						w.sim.Fault(wasim.Reset()).For(worlds[i].account.JID()).Now()
					case i%8 == 3:
						a.wire.fail(anyCall)
					case i%8 == 5:
						w.sim.Fault(wasim.DeviceRemoved()).For(worlds[i].account.JID()).Now()
					default:
						a.stop()
					}
				}
				time.Sleep(10 * time.Minute)
				for i, a := range all {
					if i%8 != 7 {
						require.Equal(t, []string{fmt.Sprint("for ", i)}, a.texts())
					}
					if i%2 == 0 {
						require.Equal(t, reconnect.StatusConnected, a.status().WA)
						require.Empty(t, a.history(stability.EventDisconnected, stability.EventDeactivated, stability.EventConnected), "nothing happened to it")
						require.EqualValues(t, 1, a.status().LeaseEpoch)
					}
				}
				for i, a := range all {
					a.wire.heal()
					if i%8 != 7 {
						a.kill()
					}
				}
				w.close()
			})
		})
	}
}
