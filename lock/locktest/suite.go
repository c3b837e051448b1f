package locktest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
)

// Config describes the store under test.
type Config struct {
	// New makes a lock that was never taken; the suite calls it once per test.
	// The function it returns opens one more store on that lock, as another
	// process would. It may return the same store each time where stores of
	// different processes have nothing of their own. Close in t.Cleanup.
	New func(t *testing.T) (open func() lock.Store)

	// Lease is what the tests wait for; default 400 ms. It must be long
	// against the store's slowest call.
	Lease time.Duration

	// Bubble runs each test in a testing/synctest bubble. New is called inside.
	Bubble bool

	// ProcessBound says that possession is bound to the process instead of to
	// time, as a lock on a file is. A lease does not run out while its store is
	// open. Another store on the same lock gets nothing, even under the same
	// holder id, and may know nothing about the record while it is refused. Tests
	// of expiry are skipped; those of a holder id that returns use one store.
	ProcessBound bool
}

// Run is the conformance suite for implementations of lock.Store.
func Run(t *testing.T, c Config) {
	if c.Lease == 0 {
		c.Lease = 400 * time.Millisecond
	}
	for _, tc := range []struct {
		name  string
		timed bool // needs leases that run out
		run   func(*env)
	}{
		{"LoadOfALockNeverTakenIsZero", false, testLoadZero},
		{"FirstEpochIsOne", false, testFirstEpoch},
		{"RecordTellsTheTerm", false, testRecord},
		{"SameNonceGrantsTheSameEpoch", false, testSameNonce},
		{"ReleasedNonceIsNotGrantedAgain", false, testReleasedNonce},
		{"AnotherHolderIsRefusedWhileTheLeaseLives", false, testRefused},
		{"SameHolderWithANewNonceGetsANewEpochAndFencesTheOld", false, testSameHolder},
		{"EpochsIncreaseAcrossRelease", false, testEpochs},
		{"ReleaseLetsAnotherIn", false, testRelease},
		{"ReleaseOfWhatIsNotHeldIsNoError", false, testReleaseNotHeld},
		{"LateReleaseLeavesANewerTermAlone", false, testLateRelease},
		{"RenewAfterReleaseIsLost", false, testRenewAfterRelease},
		{"RenewOfALockNeverTakenIsLost", false, testRenewNever},
		{"ConcurrentAcquiresGrantOne", false, testConcurrent},
		{"OddHolderIDs", false, testOddHolders},
		{"CancelledContextChangesNothing", false, testCancelled},
		{"WatcherWakesOnRelease", false, testWatcher},
		{"WatcherEndsWithItsContext", false, testWatcherEnds},
		{"LeaseHandsOver", false, testLeaseHandsOver},
		{"ExpiredLeaseIsGrantedToAnother", true, testExpiry},
		{"RenewalPostponesExpiry", true, testRenewPostpones},
		{"RenewOfATermThatAnotherTookIsLost", true, testRenewTaken},
		{"NonceOfATermThatAnotherTookIsRefused", true, testNonceTaken},
		{"LeasesOfDifferentLengthAreKept", true, testLengths},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.timed && c.ProcessBound {
				t.Skip("leases of this store do not run out while the process lives")
			}
			run := func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				tc.run(&env{T: t, c: c, ctx: ctx, open: c.New(t), lease: c.Lease})
			}
			if c.Bubble {
				synctest.Test(t, run)
			} else {
				run(t)
			}
		})
	}
}

type env struct {
	*testing.T
	c     Config
	ctx   context.Context
	open  func() lock.Store
	lease time.Duration
}

// long is a lease that does not run out during a test.
const long = time.Minute

func (e *env) granted(s lock.Store, holder, nonce string, lease time.Duration) lock.Record {
	e.Helper()
	rec, ok, err := s.Acquire(e.ctx, holder, nonce, lease)
	require.NoError(e, err)
	require.True(e, ok, "not granted to %q; record %+v", holder, rec)
	require.Equal(e, holder, rec.Holder)
	return rec
}

func (e *env) refused(s lock.Store, holder, nonce string, lease time.Duration) lock.Record {
	e.Helper()
	rec, ok, err := s.Acquire(e.ctx, holder, nonce, lease)
	require.NoError(e, err)
	require.False(e, ok, "granted to %q; record %+v", holder, rec)
	return rec
}

func (e *env) load(s lock.Store) lock.Record {
	e.Helper()
	rec, err := s.Load(e.ctx)
	require.NoError(e, err)
	return rec
}

func (e *env) lost(s lock.Store, held lock.Record) {
	e.Helper()
	now, err := s.Renew(e.ctx, held)
	require.ErrorIs(e, err, lock.ErrLost)
	if now != (lock.Record{}) {
		require.Equal(e, e.load(s).Epoch, now.Epoch, "a record returned with ErrLost is the one in force")
	}
}

// release frees what a test leaves held, so that stores close cleanly.
func (e *env) release(s lock.Store, held lock.Record) {
	e.Helper()
	require.NoError(e, s.Release(e.ctx, held))
}

func testLoadZero(e *env) {
	require.Equal(e, lock.Record{}, e.load(e.open()))
}

func testFirstEpoch(e *env) {
	s := e.open()
	rec := e.granted(s, "a", "n1", long)
	require.EqualValues(e, 1, rec.Epoch)
	e.release(s, rec)
}

func testRecord(e *env) {
	s := e.open()
	rec := e.granted(s, "a", "n1", long)
	require.Equal(e, long, rec.Lease)
	require.False(e, rec.AcquiredAt.IsZero())
	require.False(e, rec.RenewedAt.IsZero())
	require.WithinDuration(e, rec.RenewedAt.Add(long), rec.LeaseUntil, time.Millisecond)
	got := e.load(s)
	require.Equal(e, rec.Holder, got.Holder)
	require.Equal(e, rec.Epoch, got.Epoch)
	require.Equal(e, rec.Lease, got.Lease)
	require.WithinDuration(e, rec.LeaseUntil, got.LeaseUntil, time.Millisecond)

	time.Sleep(5 * time.Millisecond) // of the store's clock
	renewed, err := s.Renew(e.ctx, rec)
	require.NoError(e, err)
	require.Equal(e, rec.Epoch, renewed.Epoch)
	require.Equal(e, rec.Holder, renewed.Holder)
	require.Equal(e, rec.Lease, renewed.Lease)
	require.WithinDuration(e, rec.AcquiredAt, renewed.AcquiredAt, time.Millisecond)
	require.True(e, renewed.RenewedAt.After(rec.RenewedAt), "standby sees that the holder lives by RenewedAt")
	require.True(e, e.load(s).RenewedAt.After(rec.RenewedAt))

	e.release(s, renewed)
	free := e.load(s)
	require.Empty(e, free.Holder)
	require.Equal(e, rec.Epoch, free.Epoch, "the epoch stays after release")
}

func testSameNonce(e *env) {
	s := e.open()
	first := e.granted(s, "a", "n1", long)
	again := e.granted(s, "a", "n1", long)
	require.Equal(e, first.Epoch, again.Epoch)
	require.Equal(e, first.Epoch, e.load(s).Epoch)
	renewed, err := s.Renew(e.ctx, again)
	require.NoError(e, err)
	require.Equal(e, first.Epoch, e.granted(s, "a", "n1", long).Epoch, "after a renewal too")
	e.release(s, renewed)
}

func testReleasedNonce(e *env) {
	s := e.open()
	rec := e.granted(s, "a", "n1", long)
	e.release(s, rec)
	// A repetition that comes late, after the release, must not leave a term
	// that nobody knows of.
	e.refused(s, "a", "n1", long)
	got := e.load(s)
	require.Empty(e, got.Holder)
	require.Equal(e, rec.Epoch, got.Epoch)
	next := e.granted(s, "a", "n2", long)
	require.Equal(e, rec.Epoch+1, next.Epoch)
	e.release(s, next)
}

func testRefused(e *env) {
	s, other := e.open(), e.open()
	rec := e.granted(s, "a", "n1", long)
	got := e.refused(other, "b", "n2", long)
	if !e.c.ProcessBound {
		require.Equal(e, "a", got.Holder, "without a grant the record tells who holds the lock")
		require.Equal(e, rec.Epoch, got.Epoch)
		require.Equal(e, "a", e.load(other).Holder)
	}
	e.refused(s, "b", "n2", long) // through the holder's own store as well
	require.Equal(e, rec.Epoch, e.load(s).Epoch, "an attempt that was refused uses up no epoch")
	_, err := s.Renew(e.ctx, rec)
	require.NoError(e, err)
	e.release(s, rec)
}

func testSameHolder(e *env) {
	s := e.open()
	other := s
	if !e.c.ProcessBound {
		other = e.open()
	}
	old := e.granted(s, "a", "n1", long)
	rec := e.granted(other, "a", "n2", long)
	require.Equal(e, old.Epoch+1, rec.Epoch)
	e.lost(s, old)
	require.NoError(e, s.Release(e.ctx, old))
	_, err := other.Renew(e.ctx, rec)
	require.NoError(e, err, "the old term's calls leave the new one alone")
	require.Equal(e, rec.Epoch, e.load(other).Epoch)
	e.release(other, rec)
}

func testEpochs(e *env) {
	s := e.open()
	for i := int64(1); i <= 5; i++ {
		holder := []string{"a", "b"}[i%2]
		rec := e.granted(s, holder, fmt.Sprint("n", i), long)
		require.Equal(e, i, rec.Epoch)
		e.release(s, rec)
	}
}

func testRelease(e *env) {
	s, other := e.open(), e.open()
	rec := e.granted(s, "a", "n1", long)
	e.refused(other, "b", "n2", long)
	e.release(s, rec)
	next := e.granted(other, "b", "n2", long) // the very attempt that was refused
	require.Equal(e, rec.Epoch+1, next.Epoch)
	e.release(other, next)
}

func testReleaseNotHeld(e *env) {
	s := e.open()
	require.NoError(e, s.Release(e.ctx, lock.Record{Holder: "a", Epoch: 1, Lease: long}), "never taken")
	rec := e.granted(s, "a", "n1", long)
	require.EqualValues(e, 1, rec.Epoch, "the release of nothing left no trace")
	e.release(s, rec)
	e.release(s, rec) // twice
}

func testLateRelease(e *env) {
	s, other := e.open(), e.open()
	old := e.granted(s, "a", "n1", long)
	e.release(s, old)
	rec := e.granted(other, "b", "n2", long)
	e.release(s, old)
	require.Equal(e, "b", e.load(other).Holder)
	_, err := other.Renew(e.ctx, rec)
	require.NoError(e, err)
	e.release(other, rec)
	again := e.granted(s, "a", "n3", long)
	e.release(other, rec)
	require.Equal(e, "a", e.load(s).Holder)
	e.release(s, again)
}

func testRenewAfterRelease(e *env) {
	s := e.open()
	rec := e.granted(s, "a", "n1", long)
	e.release(s, rec)
	e.lost(s, rec)
	require.Empty(e, e.load(s).Holder, "a renewal brings nothing back")
}

func testRenewNever(e *env) {
	s := e.open()
	_, err := s.Renew(e.ctx, lock.Record{Holder: "a", Epoch: 1, Lease: long})
	require.ErrorIs(e, err, lock.ErrLost)
	require.Equal(e, lock.Record{}, e.load(s))
}

func testConcurrent(e *env) {
	const n = 8
	shared := e.open()
	for round := range 5 {
		stores := make([]lock.Store, n)
		for i := range stores {
			stores[i] = shared
			if i%2 == 1 && round == 0 {
				stores[i] = e.open()
			}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var winner lock.Store
		var won []lock.Record
		var errs []error
		for i := range n {
			wg.Go(func() {
				rec, ok, err := stores[i].Acquire(e.ctx, fmt.Sprint("h", i), fmt.Sprint("n", round, i), long)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
				} else if ok {
					winner, won = stores[i], append(won, rec)
				}
			})
		}
		wg.Wait()
		require.Empty(e, errs)
		require.Len(e, won, 1)
		require.EqualValues(e, round+1, won[0].Epoch)
		e.release(winner, won[0])
	}
}

func testOddHolders(e *env) {
	s := e.open()
	for i, holder := range []string{
		"with space", "sl/ash", "..", ".", "__x__", "dot.ted", "back\\slash", "quo\"te'`", "line\nbreak",
		"Grüße-日本-🔒", "\x00nul", strings.Repeat("long", 64), "%s%d", "a",
	} {
		rec := e.granted(s, holder, fmt.Sprintf("nonce/%d ü", i), long)
		require.Equal(e, holder, e.load(s).Holder)
		e.refused(s, holder+"x", fmt.Sprint("other", i), long)
		_, err := s.Renew(e.ctx, rec)
		require.NoError(e, err)
		e.release(s, rec)
	}
}

func testCancelled(e *env) {
	s := e.open()
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, ok, err := s.Acquire(ctx, "a", "n1", long)
	require.ErrorIs(e, err, context.Canceled)
	require.False(e, ok)
	require.Equal(e, lock.Record{}, e.load(s))
	rec := e.granted(s, "a", "n2", long)
	_, err = s.Renew(ctx, rec)
	require.ErrorIs(e, err, context.Canceled)
	require.NotErrorIs(e, err, lock.ErrLost)
	_, err = s.Load(ctx)
	require.ErrorIs(e, err, context.Canceled)
	require.ErrorIs(e, s.Release(ctx, rec), context.Canceled)
	require.Equal(e, "a", e.load(s).Holder, "what was cancelled before it began did nothing")
	e.release(s, rec)
}
