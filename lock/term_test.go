package lock_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

const (
	lease   = 90 * time.Second
	refresh = 30 * time.Second
	margin  = 10 * time.Second
	window  = lease - margin
)

var errDown = errors.New("down")

func newLease(t *testing.T, s lock.Store, holder string, opts ...lock.Option) *lock.Lease {
	t.Helper()
	l, err := lock.New(s, holder, append([]lock.Option{lock.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		l.Close(ctx)
	})
	return l
}

func acquire(t *testing.T, l *lock.Lease) lock.Term {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	term, err := l.Acquire(ctx)
	require.NoError(t, err)
	return term
}

func tryAcquire(t *testing.T, l *lock.Lease) lock.Term {
	t.Helper()
	term, ok, err := l.TryAcquire(t.Context())
	require.NoError(t, err)
	if !ok {
		return nil
	}
	return term
}

func down(locktest.Op) locktest.Fault { return locktest.Fault{Drop: true, Err: errDown} }
func hang(locktest.Op) locktest.Fault { return locktest.Fault{Hang: true} }

func requireEnded(t *testing.T, term lock.Term, cause error) {
	t.Helper()
	require.False(t, term.Held())
	select {
	case <-term.Lost():
	default:
		require.Fail(t, "Lost is open")
	}
	require.ErrorIs(t, lock.Cause(term), cause)
	require.False(t, term.TrustedUntil().After(time.Now()))
}

func TestTrustIsCountedFromTheSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		s.Next(locktest.OpAcquire, locktest.Fault{Delay: 3 * time.Second, Reply: 4 * time.Second})
		sent := time.Now()
		term := acquire(t, newLease(t, s, "a"))
		require.Equal(t, 7*time.Second, time.Since(sent))
		require.Equal(t, sent.Add(window), term.TrustedUntil())
		require.EqualValues(t, 1, term.Epoch())
		require.Equal(t, "a", term.Record().Holder)
		require.NoError(t, lock.Cause(term))
	})
}

func TestSlowRenewalDoesNotExtendTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		sent := time.Now()
		term := acquire(t, newLease(t, s, "a"))
		s.Next(locktest.OpRenew, locktest.Fault{Reply: 9 * time.Second})
		time.Sleep(refresh + 9*time.Second - 1)
		require.Equal(t, sent.Add(window), term.TrustedUntil())
		time.Sleep(2 * time.Nanosecond)
		require.Equal(t, sent.Add(refresh+window), term.TrustedUntil(), "from the send, not from the reply")
	})
}

func TestRenewalKeepsTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		term := acquire(t, l)
		for range 3600 {
			time.Sleep(time.Second)
			require.True(t, term.Held())
		}
		synctest.Wait()
		require.Equal(t, 120, s.Calls(locktest.OpRenew))
		require.Same(t, term, tryAcquire(t, l))
		require.Equal(t, 1, s.Calls(locktest.OpAcquire), "no I/O while the term lives")
		st := l.Stats()
		require.True(t, st.Held && st.Live)
		require.Less(t, time.Since(st.LastRenewal), refresh+1)
		require.Equal(t, term.Epoch(), st.Epoch)
	})
}

func TestOneFailedRenewalLosesNothing(t *testing.T) {
	for name, f := range map[string]locktest.Fault{
		"error": {Drop: true}, "lost reply": {LoseReply: true}, "hang": {Hang: true}, "slow": {Delay: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := locktest.NewStore()
				l := newLease(t, s, "a")
				term := acquire(t, l)
				s.Next(locktest.OpRenew, f)
				time.Sleep(refresh + 9*time.Second + window/2)
				require.True(t, term.Held())
				require.Zero(t, l.Stats().Failures)
				time.Sleep(window)
				require.True(t, term.Held())
			})
		})
	}
}

// A holder that cannot renew stops on time, whatever its network does.
func TestTrustEndsBeforeAnyoneElseCanBeGranted(t *testing.T) {
	for name, f := range map[string]locktest.Faults{"errors": down, "hangs": hang} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := locktest.NewStore()
				sent := time.Now()
				a, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
				term := acquire(t, a)
				s.SetFaults(f)
				granted := make(chan time.Time, 1)
				go func() {
					acquire(t, b)
					granted <- time.Now()
				}()
				time.Sleep(window - 1)
				require.True(t, term.Held())
				require.NotZero(t, a.Stats().Failures)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				requireEnded(t, term, lock.ErrExpired)
				require.ErrorContains(t, lock.Cause(term), "last error")
				at := <-granted
				require.GreaterOrEqual(t, at.Sub(sent), lease)
				require.LessOrEqual(t, at.Sub(sent), lease+time.Second, "a crash is over within lease + 1 s")
			})
		})
	}
}

// A process that wakes hears no from the first question on, whether its timers
// have run yet or not, and a reply that comes too late changes nothing.
func TestTrustEndsWithoutATimerAndALateReplyDoesNotRevive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		s.SetFaults(down)
		lock.StopExpiry(term)
		time.Sleep(window - 1)
		require.True(t, term.Held())
		time.Sleep(time.Nanosecond)
		require.False(t, term.Held())
		select {
		case <-term.Lost():
			require.Fail(t, "a timer has run")
		default:
		}
		s.SetFaults(nil) // a renewal gets through, and is answered
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			require.False(t, term.Held())
		}
		require.NotZero(t, s.Calls(locktest.OpRenew))
		requireEnded(t, term, lock.ErrExpired)
	})
}

// A store that ignores its context cannot hold up the end of a term.
func TestStoreThatNeverReturnsDoesNotDelayTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &deafStore{Store: locktest.NewStore(), block: make(chan struct{})}
		l := newLease(t, s, "a")
		sent := time.Now()
		term := acquire(t, l)
		<-term.Lost()
		require.Equal(t, window, time.Since(sent))
		requireEnded(t, term, lock.ErrExpired)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, l.Close(ctx), context.DeadlineExceeded)
		close(s.block)
		require.NoError(t, l.Close(t.Context()))
	})
}

type deafStore struct {
	*locktest.Store
	block chan struct{}
}

func (s *deafStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	<-s.block
	return s.Store.Renew(ctx, held)
}

func TestLostEndsTheTermAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		require.NoError(t, s.Connect().Release(t.Context(), term.Record())) // an operator did it
		time.Sleep(refresh + 1)
		requireEnded(t, term, lock.ErrLost)
		require.NotErrorIs(t, lock.Cause(term), lock.ErrInstanceIDNotUnique)
	})
}

func TestWallClockSteppedForwardPausesUntilARenewalThatIsTriggeredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		var wall atomic.Int64
		lock.SetWallShift(l, func() time.Duration { return time.Duration(wall.Load()) })
		sent := time.Now()
		term := acquire(t, l)
		wall.Store(int64(margin))
		require.True(t, term.Held(), "the margin covers that")
		wall.Store(int64(time.Hour))
		require.False(t, term.Held())
		require.True(t, l.Stats().Live)
		require.Same(t, term, tryAcquire(t, l), "a paused term lives")
		synctest.Wait()
		require.True(t, term.Held(), "confirmed")
		require.Equal(t, 1, s.Calls(locktest.OpRenew))
		require.Equal(t, sent, term.TrustedUntil().Add(-window), "and extended by nothing but that renewal")

		wall.Store(int64(2 * time.Hour)) // nobody asks: noticed all the same
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 2, s.Calls(locktest.OpRenew))
		require.True(t, term.Held())
	})
}

func TestWallClockSteppedBackNeitherLosesNorExtends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		var wall atomic.Int64
		lock.SetWallShift(l, func() time.Duration { return time.Duration(wall.Load()) })
		sent := time.Now()
		term := acquire(t, l)
		s.SetFaults(down)
		wall.Store(-int64(time.Hour))
		require.True(t, term.Held())
		time.Sleep(5 * time.Second)
		wall.Add(int64(margin) + 1) // a suspend the step back must not hide
		require.False(t, term.Held())
		wall.Store(-int64(2 * time.Hour)) // nor may a later one undo it
		require.False(t, term.Held())
		<-term.Lost()
		require.Equal(t, window, time.Since(sent))
	})
}

func TestWallClocksOfServerAndOtherSideDoNotMatter(t *testing.T) {
	for _, d := range []time.Duration{-time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := locktest.NewStore()
			s.ShiftWall(d)
			a, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
			lock.SetWallShift(b, func() time.Duration { return -d })
			term := acquire(t, a)
			require.Nil(t, tryAcquire(t, b))
			s.ShiftWall(-d)
			time.Sleep(10 * lease)
			require.True(t, term.Held())
			require.Nil(t, tryAcquire(t, b))
			require.NoError(t, a.Close(t.Context()))
			require.True(t, acquire(t, b).Held())
		})
	}
}

// All machines but the server are suspended past the lease: whoever wakes first
// trusts nothing until the store has confirmed it.
func TestSuspendedMachineTrustsNothingWhenItWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		a, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
		var wall atomic.Int64
		lock.SetWallShift(a, func() time.Duration { return time.Duration(wall.Load()) })
		term := acquire(t, a)
		s.SetFaults(hang)
		wall.Add(int64(2 * lease))
		s.RunAhead(2 * lease)
		require.False(t, term.Held())
		other := tryAcquire(t, b)
		require.True(t, other.Held())
		require.False(t, term.Held())
		s.SetFaults(nil)
		<-term.Lost()
		requireEnded(t, term, lock.ErrLost)
	})
}

// The machine is suspended while the store answers: what comes of it is
// confirmed first, and can be used at once.
func TestGrantAcrossASuspendIsRenewedBeforeItIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		var wall atomic.Int64
		lock.SetWallShift(l, func() time.Duration { return time.Duration(wall.Load()) })
		s.Next(locktest.OpAcquire, locktest.Fault{Delay: 2 * time.Second})
		time.AfterFunc(time.Second, func() { wall.Store(int64(time.Hour)) })
		term := tryAcquire(t, l)
		require.True(t, term.Held())
		require.Equal(t, 1, s.Calls(locktest.OpRenew))
	})
}

func TestReleaseEndsTrustBeforeTheStoreIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		s.Next(locktest.OpRelease, locktest.Fault{Delay: 2 * time.Second})
		go func() {
			time.Sleep(time.Second)
			requireEnded(t, term, lock.ErrReleased)
			require.NotZero(t, s.HeldBy("a"))
		}()
		require.NoError(t, term.Release(t.Context()))
		require.NoError(t, term.Release(t.Context()), "twice")
		require.Zero(t, s.HeldBy("a"))
		require.Equal(t, 1, s.Calls(locktest.OpRelease))
	})
}

func TestReleaseObeysItsContextAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		term := acquire(t, l)
		s.Next(locktest.OpRelease, locktest.Fault{Delay: 2 * time.Second, Drop: true})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, term.Release(ctx), context.Canceled)
		requireEnded(t, term, lock.ErrReleased)
		require.NoError(t, l.Close(t.Context()))
		require.Zero(t, s.HeldBy("a"), "it went on, and was repeated")
	})
}
