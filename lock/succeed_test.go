package lock_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

// The lock is never free between two terms of which one succeeds the other, also
// to somebody who waits for it, and the older one is fenced.
func TestSucceedingTermLeavesTheLockToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		a, b := newLease(t, s, "a"), newLease(t, s, "b")
		term := acquire(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		waited := make(chan error, 1)
		go func() {
			_, err := b.Acquire(ctx)
			waited <- err
		}()
		for n := range 20 {
			time.Sleep(time.Minute)
			next, err := a.Succeed(t.Context(), term)
			require.NoError(t, err)
			requireEnded(t, term, lock.ErrSucceeded)
			require.True(t, next.Held())
			require.EqualValues(t, n+2, next.Epoch())
			require.NoError(t, term.Release(t.Context()), "it has nothing to release")
			same, granted, err := a.TryAcquire(t.Context())
			require.NoError(t, err)
			require.True(t, granted)
			require.Same(t, next, same)
			rec, err := b.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, "a", rec.Holder)
			term = next
		}
		time.Sleep(time.Hour)
		require.True(t, term.Held(), "it is renewed")
		require.NoError(t, term.Release(t.Context()))
		require.NoError(t, <-waited)
		cancel()
	})
}

// late is a store whose answers to renewals come whatever the caller has given up.
type late struct{ *locktest.Store }

func (s late) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	return s.Store.Renew(context.WithoutCancel(ctx), held)
}

// A renewal that is under way meets the new epoch. That is our own, and no other
// process with this holder id.
func TestSucceededTermIsNoTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := late{locktest.NewStore()}
		l := newLease(t, s, "a")
		term := acquire(t, l)
		s.Next(locktest.OpRenew, locktest.Fault{Delay: 5 * time.Second})
		time.Sleep(refresh + time.Second)
		next, err := l.Succeed(t.Context(), term)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		requireEnded(t, term, lock.ErrSucceeded)
		third, err := l.Succeed(t.Context(), next)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.True(t, third.Held())
	})
}

func TestTermThatCannotBeSucceededIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l, b := newLease(t, s, "a"), newLease(t, s.Connect(), "b")
		term := acquire(t, l)
		s.SetFaults(func(op locktest.Op) locktest.Fault {
			if op == locktest.OpAcquire {
				return down(op)
			}
			return locktest.Fault{}
		})
		_, err := l.Succeed(t.Context(), term)
		require.ErrorIs(t, err, errDown)
		requireEnded(t, term, lock.ErrSucceeded)
		next := tryAcquire(t, b)
		require.NotNil(t, next, "it is free")
		_, err = l.Succeed(t.Context(), term)
		require.ErrorIs(t, err, lock.ErrLost, "a term that is over has no successor")
		require.True(t, next.Held())
		_, err = l.Succeed(t.Context(), next)
		require.ErrorIs(t, err, lock.ErrLost, "nor has one of another Lease")
	})
}
