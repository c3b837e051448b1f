package lock_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

func TestReleaseHandsOverAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		wrap func(*locktest.Store) lock.Store
		most time.Duration
	}{
		{"watching", func(s *locktest.Store) lock.Store { return s }, 0},
		{"watch is silent", func(s *locktest.Store) lock.Store { s.Silence(true); return s }, 10 * time.Second},
		{"cannot watch", func(s *locktest.Store) lock.Store { return struct{ lock.Store }{s} }, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := locktest.NewStore()
				a, b := newLease(t, s, "a"), newLease(t, tc.wrap(s.Connect()), "b")
				term := acquire(t, a)
				granted := make(chan time.Time, 1)
				go func() {
					require.EqualValues(t, 2, acquire(t, b).Epoch())
					granted <- time.Now()
				}()
				time.Sleep(5 * time.Minute)
				require.Equal(t, "a", b.Stats().Seen.Holder)
				released := time.Now()
				require.NoError(t, term.Release(t.Context()))
				require.LessOrEqual(t, (<-granted).Sub(released), tc.most)
			})
		})
	}
}

// However the crash, the watch and the start of standby fall: the lock is taken
// over within lease + 1 s.
func TestCrashIsOverWithinTheLeaseAndASecond(t *testing.T) {
	for _, silent := range []bool{false, true} {
		for began := time.Duration(0); began < lease; began += 13 * time.Second {
			synctest.Test(t, func(t *testing.T) {
				s := locktest.NewStore()
				conn := s.Connect()
				conn.Silence(silent)
				a, b := newLease(t, s, "a"), newLease(t, conn, "b")
				acquire(t, a)
				s.SetFaults(down) // a is gone
				crashed := time.Now()
				time.Sleep(began)
				acquire(t, b)
				took := time.Since(crashed)
				require.GreaterOrEqual(t, took, lease)
				require.LessOrEqual(t, took, lease+time.Second)
			})
		}
	}
}

func TestStandbyIsCheapWhileTheHolderLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		a, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
		acquire(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := b.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, s.Calls(locktest.OpAcquire), 420, "one look per 10 s, more often only until the holder is seen alive")
		require.Zero(t, s.Calls(locktest.OpLoad))
	})
}

func TestAcquireWaitsOutAStoreThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		s.SetFaults(down)
		time.AfterFunc(10*time.Minute, func() {
			require.ErrorIs(t, l.Stats().LastError, errDown)
			require.NotZero(t, l.Stats().Failures)
			s.SetFaults(nil)
		})
		began := time.Now()
		require.True(t, acquire(t, l).Held())
		require.Less(t, time.Since(began), 11*time.Minute)
		require.NoError(t, l.Stats().LastError)

		l = newLease(t, s, "b")
		s.SetFaults(down)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := l.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errDown, "and it says what kept it")
	})
}

func TestPermanentErrorIsReturnedNotWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		broken := errors.New("damaged")
		s.SetFaults(func(locktest.Op) locktest.Fault { return locktest.Fault{Drop: true, Err: backoff.Permanent(broken)} })
		_, err := newLease(t, s, "a").Acquire(t.Context())
		require.ErrorIs(t, err, broken)
		require.Zero(t, s.Calls(locktest.OpAcquire))
	})
}

func TestLostReplyOfAcquireIsSettled(t *testing.T) {
	for name, f := range map[string][]locktest.Fault{
		"lost reply":  {{LoseReply: true}},
		"twice":       {{LoseReply: true}, {Drop: true}},
		"slow reply":  {{Reply: time.Minute}},
		"hang":        {{Hang: true}},
		"late":        {{Delay: 15 * time.Second, Late: true}},
		"unreachable": {{Drop: true}, {Drop: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := locktest.NewStore()
				s.Next(locktest.OpAcquire, f...)
				l := newLease(t, s, "a")
				term := tryAcquire(t, l)
				require.EqualValues(t, 1, term.Epoch(), "no second epoch")
				require.True(t, term.Held())
				require.Equal(t, 1, s.Calls(locktest.OpRenew), "a term that may be old is renewed before it is trusted")
				require.NoError(t, term.Release(t.Context()))
				s.Wait()
				require.Zero(t, s.HeldBy("a"), "nothing is left behind")
				require.EqualValues(t, 2, tryAcquire(t, l).Epoch())
			})
		})
	}
}

// A grant whose reply one attempt did not get is taken up by the next attempt.
func TestUnheardTermIsTakenUpByTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		lost := locktest.Fault{LoseReply: true, Err: errDown}
		s.Next(locktest.OpAcquire, lost, lost, lost)
		s.Next(locktest.OpLoad, locktest.Fault{Drop: true})
		_, ok, err := l.TryAcquire(t.Context())
		require.ErrorIs(t, err, errDown)
		require.False(t, ok)
		require.EqualValues(t, 1, s.HeldBy("a"))
		time.Sleep(85 * time.Second) // trust counted from any of these calls would outlive the lease
		sent := time.Now()
		term := tryAcquire(t, l)
		require.EqualValues(t, 1, term.Epoch())
		require.Equal(t, sent.Add(window), term.TrustedUntil())
		require.Equal(t, 1, s.Calls(locktest.OpRenew))
	})
}

func TestCloseGivesUpAnUnheardTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		s.Next(locktest.OpAcquire, locktest.Fault{LoseReply: true})
		ctx, cancel := context.WithTimeout(t.Context(), 1)
		defer cancel()
		_, _, err := l.TryAcquire(ctx)
		require.Error(t, err)
		require.EqualValues(t, 1, s.HeldBy("a"))
		require.Error(t, l.Close(ctx), "not even that could be asked")
		require.NoError(t, l.Close(t.Context()))
		require.Zero(t, s.HeldBy("a"))
	})
}

func TestRecordAnswersWhenAcquireDoesNotGetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		acquire(t, newLease(t, s, "a"))
		conn := s.Connect()
		conn.Next(locktest.OpAcquire, locktest.Fault{Drop: true}, locktest.Fault{Drop: true}, locktest.Fault{Drop: true})
		_, ok, err := newLease(t, conn, "b").TryAcquire(t.Context())
		require.NoError(t, err)
		require.False(t, ok)
	})
}

func TestRestartUnderAStableIDTakesOverAtOnceAndTheOldProcessDoesNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		old, young := newLease(t, s, "a"), newLease(t, s.Connect(), "a")
		first := acquire(t, old)
		second := tryAcquire(t, young)
		require.EqualValues(t, 2, second.Epoch())
		<-first.Lost()
		requireEnded(t, first, lock.ErrInstanceIDNotUnique)
		require.ErrorIs(t, lock.Cause(first), lock.ErrLost)

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		_, err := old.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "it waits")
		require.True(t, second.Held(), "and leaves the other alone")

		require.NoError(t, young.Close(t.Context()))
		third := tryAcquire(t, old)
		require.EqualValues(t, 3, third.Epoch(), "free is free")
	})
}

// A request of our own that arrives when another attempt has won long ago is no
// other process: the term is lost, and taken again.
func TestOwnLateRequestIsNoTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		s.Next(locktest.OpAcquire, locktest.Fault{Delay: 40 * time.Second, Late: true})
		require.NoError(t, tryAcquire(t, l).Release(t.Context()))
		term := tryAcquire(t, l)
		require.EqualValues(t, 2, term.Epoch())
		<-term.Lost()
		requireEnded(t, term, lock.ErrLost)
		require.NotErrorIs(t, lock.Cause(term), lock.ErrInstanceIDNotUnique)
		require.EqualValues(t, 3, s.HeldBy("a"), "by the late request")
		again := tryAcquire(t, l)
		require.Greater(t, again.Epoch(), int64(3))
		require.True(t, again.Held())
	})
}

func TestTwinThatCrashedIsSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		conn := s.Connect()
		old, young := newLease(t, s, "a"), newLease(t, conn, "a")
		first := acquire(t, old)
		acquire(t, young)
		<-first.Lost()
		conn.SetFaults(down)
		crashed := time.Now()
		require.EqualValues(t, 3, acquire(t, old).Epoch())
		require.LessOrEqual(t, time.Since(crashed), lease+time.Second)
	})
}

func TestTermLostToNobodyKnownIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		terse := terseStore{s}
		old := newLease(t, terse, "a")
		first := acquire(t, old)
		acquire(t, newLease(t, s.Connect(), "a"))
		<-first.Lost()
		requireEnded(t, first, lock.ErrInstanceIDNotUnique)

		s = locktest.NewStore()
		l := newLease(t, terseStore{s}, "a")
		term := acquire(t, l)
		s.SetFaults(func(op locktest.Op) locktest.Fault { return locktest.Fault{Hang: op == locktest.OpLoad} })
		require.NoError(t, s.Connect().Release(t.Context(), term.Record()))
		time.Sleep(refresh + 1)
		require.False(t, term.Held(), "trust ends before the lookup")
		time.Sleep(time.Second)
		requireEnded(t, term, lock.ErrLost)
	})
}

// terseStore does not say who holds the lock along with ErrLost.
type terseStore struct{ lock.Store }

func (s terseStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	rec, err := s.Store.Renew(ctx, held)
	if err != nil {
		rec = lock.Record{}
	}
	return rec, err
}

func TestClosedLeaseGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
		term := acquire(t, l)
		waiting := make(chan error, 1)
		go func() {
			_, err := b.Acquire(t.Context())
			waiting <- err
		}()
		synctest.Wait()
		require.NoError(t, b.Close(t.Context()))
		require.ErrorIs(t, <-waiting, lock.ErrClosed)
		require.NoError(t, l.Close(t.Context()))
		require.NoError(t, l.Close(t.Context()))
		requireEnded(t, term, lock.ErrReleased)
		require.NoError(t, term.Release(t.Context()))
		_, ok, err := l.TryAcquire(t.Context())
		require.ErrorIs(t, err, lock.ErrClosed)
		require.False(t, ok)
		_, err = l.Acquire(t.Context())
		require.ErrorIs(t, err, lock.ErrClosed)
		require.False(t, l.Stats().Live)
	})
}

func TestInvalidOptionsNameTheOption(t *testing.T) {
	s := locktest.NewStore()
	for want, opts := range map[string][]lock.Option{
		"WithLease":       {lock.WithLease(-1)},
		"WithPoll":        {lock.WithPoll(-1)},
		"WithMargin":      {lock.WithMargin(30 * time.Second)},
		"WithRefresh":     {lock.WithRefresh(80 * time.Second)},
		"WithCallTimeout": {lock.WithCallTimeout(50 * time.Second)},
		"WithRetryDelay":  {lock.WithRetryDelay(40 * time.Second)},
		"too short":       {lock.WithLease(10)},
	} {
		_, err := lock.New(s, "a", opts...)
		require.ErrorContains(t, err, want)
	}
	for _, holder := range []string{"", "\xff", strings.Repeat("x", 257)} {
		_, err := lock.New(s, holder)
		require.ErrorContains(t, err, "holder id")
	}
	_, err := lock.New(nil, "a")
	require.ErrorContains(t, err, "no store")
	for _, opts := range [][]lock.Option{
		nil, {lock.WithLease(0), lock.WithLogger(nil), nil}, {lock.WithLease(300 * time.Millisecond)},
		{lock.WithRefresh(60 * time.Second)}, {lock.WithMargin(29 * time.Second)},
	} {
		_, err := lock.New(s, "a", opts...)
		require.NoError(t, err)
	}
}

func TestHolderIDsAreUniqueAndReadable(t *testing.T) {
	seen := map[string]bool{}
	for _, prefix := range []string{"web-1", "", strings.Repeat("é", 300), "bad\xff"} {
		for range 100 {
			id := lock.NewHolderID(prefix)
			require.False(t, seen[id])
			seen[id] = true
			_, err := lock.New(locktest.NewStore(), id)
			require.NoError(t, err)
		}
	}
	require.True(t, strings.HasPrefix(lock.NewHolderID("web-1"), "web-1-"))
}
