package lock_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

// oddStore changes what a store answers, or shows.
type oddStore struct {
	lock.Store
	record  func(lock.Record) lock.Record // of Acquire and Renew
	changes func(ctx context.Context) iter.Seq2[lock.Record, error]
}

func (s oddStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	rec, granted, err := s.Store.Acquire(ctx, holder, nonce, lease)
	if s.record != nil && err == nil {
		rec = s.record(rec)
	}
	return rec, granted, err
}

func (s oddStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	rec, err := s.Store.Renew(ctx, held)
	if s.record != nil && err == nil {
		rec = s.record(rec)
	}
	return rec, err
}

// watchedStore is an oddStore that can watch.
type watchedStore struct{ oddStore }

func (s watchedStore) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return s.changes(ctx)
}

// The lease that the store keeps counts, not the one that was asked for.
func TestShorterLeaseOfTheStoreShortensTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := oddStore{Store: locktest.NewStore(), record: func(rec lock.Record) lock.Record {
			rec.Lease = 50 * time.Second
			return rec
		}}
		term := acquire(t, newLease(t, s, "a"))
		require.Equal(t, time.Now().Add(50*time.Second-margin), term.TrustedUntil())
		time.Sleep(refresh)
		synctest.Wait()
		require.Equal(t, time.Now().Add(50*time.Second-margin), term.TrustedUntil(), "after a renewal too")
	})
}

func TestFencedRenewalEndsTheTermAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		s.Next(locktest.OpRenew, locktest.Fault{Drop: true, Err: lock.ErrFenced})
		time.Sleep(refresh + time.Millisecond)
		requireEnded(t, term, lock.ErrLost)
	})
}

// A store that renews a term as another one has mixed two holders up.
func TestRenewalUnderAnotherEpochEndsTheTerm(t *testing.T) {
	for _, by := range []int64{-1, 1} {
		synctest.Test(t, func(t *testing.T) {
			began := false
			s := oddStore{Store: locktest.NewStore(), record: func(rec lock.Record) lock.Record {
				if began {
					rec.Epoch += by
				}
				began = true
				return rec
			}}
			term := acquire(t, newLease(t, s, "a"))
			time.Sleep(refresh + 2*time.Second)
			requireEnded(t, term, lock.ErrLost)
		})
	}
}

// calls notes when a method was called, and lets the given ones fail.
type calls struct {
	mu   sync.Mutex
	at   []time.Time
	fail func(n int, at time.Time) bool // n from 1
}

func (c *calls) faults(op locktest.Op) func(locktest.Op) locktest.Fault {
	return func(o locktest.Op) locktest.Fault {
		c.mu.Lock()
		defer c.mu.Unlock()
		if o == op {
			c.at = append(c.at, time.Now())
		}
		if c.fail(len(c.at), time.Now()) {
			return locktest.Fault{Drop: true, Err: errDown}
		}
		return locktest.Fault{}
	}
}

// gap is the pause between call n and the next.
func (c *calls) gap(n int) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at[n].Sub(c.at[n-1])
}

// firstPause is the longest that the first pause of a series can be.
const firstPause = 1200 * time.Millisecond

func TestRenewalThatSucceedsEndsASeriesOfPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		c := &calls{fail: func(n int, _ time.Time) bool { return n <= 6 || n == 8 }}
		s.SetFaults(c.faults(locktest.OpRenew))
		time.Sleep(3 * refresh)
		require.True(t, term.Held())
		require.Greater(t, c.gap(6), 2*firstPause, "the pauses have grown")
		require.LessOrEqual(t, c.gap(8), firstPause)
	})
}

func TestStandbyIsQuickAgainAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		acquire(t, newLease(t, s, "a"))
		conn := s.Connect()
		conn.Silence(true)
		b := newLease(t, conn, "b")
		began := time.Now()
		c := &calls{}
		again := 0 // the first call of the second outage
		c.fail = func(n int, at time.Time) bool {
			switch since := at.Sub(began); {
			case since < 10*time.Minute:
				return true
			case since < 20*time.Minute:
				return false
			case again == 0:
				again = n
			}
			return n < again+3 // one attempt, which is three calls
		}
		conn.SetFaults(c.faults(locktest.OpAcquire))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		_, err := b.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, c.gap(again+2), firstPause)
	})
}

func TestWatchIsBegunAgainQuicklyAfterItWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		acquire(t, newLease(t, s, "a"))
		var mu sync.Mutex
		var began []time.Time
		var ended time.Time
		watched := watchedStore{oddStore{Store: s.Connect(), changes: func(ctx context.Context) iter.Seq2[lock.Record, error] {
			return func(yield func(lock.Record, error) bool) {
				mu.Lock()
				began = append(began, time.Now())
				n := len(began)
				mu.Unlock()
				switch {
				case n <= 20:
					yield(lock.Record{}, errors.New("no watch"))
				case n == 21:
					yield(lock.Record{}, nil)
					time.Sleep(time.Minute)
					mu.Lock()
					ended = time.Now()
					mu.Unlock()
				default:
					<-ctx.Done()
				}
			}
		}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := newLease(t, watched, "b").Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, began, 22)
		require.LessOrEqual(t, began[21].Sub(ended), firstPause)
	})
}

// A watch that tells of renewals, and not of the release, delays nobody: the
// store is asked as often as without it.
func TestBusyWatchDoesNotPutOffTheNextLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		term := acquire(t, newLease(t, s, "a"))
		rec := term.Record()
		watched := watchedStore{oddStore{Store: s.Connect(), changes: func(ctx context.Context) iter.Seq2[lock.Record, error] {
			return func(yield func(lock.Record, error) bool) {
				for ctx.Err() == nil {
					rec.RenewedAt = rec.RenewedAt.Add(5 * time.Second)
					if !yield(rec, nil) {
						return
					}
					select {
					case <-time.After(5 * time.Second):
					case <-ctx.Done():
					}
				}
			}
		}}}
		released := time.AfterFunc(5*time.Minute, func() { term.Release(context.Background()) })
		defer released.Stop()
		began := time.Now()
		acquire(t, newLease(t, watched, "b"))
		require.LessOrEqual(t, time.Since(began), 5*time.Minute+10*time.Second)
	})
}

// A store that hangs holds no stop up for longer than one call may take.
func TestCloseOutlastsAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := locktest.NewStore()
		l := newLease(t, s, "a")
		acquire(t, l)
		s.SetFaults(hang)
		began := time.Now()
		require.Error(t, l.Close(context.Background()))
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
	})
}
