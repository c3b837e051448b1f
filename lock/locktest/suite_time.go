package locktest

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
)

func testExpiry(e *env) {
	s, other := e.open(), e.open()
	rec := e.granted(s, "a", "n1", e.lease)
	next, waited := e.eventually(other, "b", "n2", time.Now())
	require.Equal(e, rec.Epoch+1, next.Epoch)
	// The store's count began before Acquire returned; half leaves room for
	// slow calls, and a store that does not wait at all is far below.
	require.Greater(e, waited, e.lease/2)
	e.release(other, next)
}

// eventually repeats the attempt until it is granted.
func (e *env) eventually(s lock.Store, holder, nonce string, since time.Time) (lock.Record, time.Duration) {
	e.Helper()
	for e.ctx.Err() == nil {
		rec, ok, err := s.Acquire(e.ctx, holder, nonce, long)
		require.NoError(e, err)
		if ok {
			return rec, time.Since(since)
		}
		time.Sleep(e.lease / 20)
	}
	require.FailNow(e, "never granted to "+holder)
	return lock.Record{}, 0
}

func testRenewPostpones(e *env) {
	s, other := e.open(), e.open()
	rec := e.granted(s, "a", "n1", e.lease)
	for range 6 { // two leases long
		time.Sleep(e.lease / 3)
		sent := time.Now()
		var err error
		rec, err = s.Renew(e.ctx, rec)
		if time.Since(sent) < e.lease/3 { // else this machine is too slow for the lease
			require.NoError(e, err)
			e.refused(other, "b", "n2", long)
		}
	}
	next, _ := e.eventually(other, "b", "n2", time.Now())
	require.Equal(e, rec.Epoch+1, next.Epoch)
	e.release(other, next)
}

func testRenewTaken(e *env) {
	s, other := e.open(), e.open()
	old := e.granted(s, "a", "n1", e.lease)
	next, _ := e.eventually(other, "b", "n2", time.Now())
	e.lost(s, old)
	require.NoError(e, s.Release(e.ctx, old))
	require.Equal(e, "b", e.load(s).Holder)
	_, err := other.Renew(e.ctx, next)
	require.NoError(e, err)
	e.release(other, next)
}

func testNonceTaken(e *env) {
	s, other := e.open(), e.open()
	e.granted(s, "a", "n1", e.lease)
	next, _ := e.eventually(other, "b", "n2", time.Now())
	got := e.refused(s, "a", "n1", long) // the repetition comes too late
	require.Equal(e, "b", got.Holder)
	require.Equal(e, next.Epoch, got.Epoch)
	e.release(other, next)
}

func testLengths(e *env) {
	s, other := e.open(), e.open()
	// A term lasts as long as its holder asked for, whatever others ask for.
	rec := e.granted(s, "a", "n1", long)
	time.Sleep(e.lease + e.lease/4)
	e.refused(other, "b", "n2", e.lease)
	e.release(s, rec)
	next := e.granted(other, "b", "n2", e.lease)
	require.Equal(e, e.lease, next.Lease)
	_, waited := e.eventually(s, "a", "n3", time.Now())
	require.Less(e, waited, long/2)
}

func testWatcher(e *env) {
	s, other := e.open(), e.open()
	w, ok := other.(lock.Watcher)
	if !ok {
		e.Skip("the store does not watch")
	}
	rec := e.granted(s, "a", "n1", long)
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	wake := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range w.Changes(ctx) {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	// When the watch begins is the store's business, so what may be missed is
	// repeated until one change is seen.
	for n := 0; ; n++ {
		e.release(s, rec)
		select {
		case <-wake:
			next := e.granted(other, "b", "n2", long)
			e.release(other, next)
			cancel()
			<-done
			return
		case <-time.After(e.lease / 4):
			require.NoError(e, e.ctx.Err(), "the watch saw no release")
			rec = e.granted(s, "a", fmt.Sprint("again", n), long)
		}
	}
}

func testWatcherEnds(e *env) {
	w, ok := e.open().(lock.Watcher)
	if !ok {
		e.Skip("the store does not watch")
	}
	ctx, cancel := context.WithTimeout(e.ctx, e.lease/4)
	defer cancel()
	for range w.Changes(ctx) {
	}
	require.Error(e, ctx.Err(), "the watch ended before its context")
	// A consumer that stops is no problem either.
	ctx, cancel = context.WithTimeout(e.ctx, e.lease/4)
	defer cancel()
	for range w.Changes(ctx) {
		break
	}
}

// testLeaseHandsOver runs lock.Lease itself over the store.
func testLeaseHandsOver(e *env) {
	a, err := lock.New(e.open(), "a", lock.WithPoll(e.lease/20))
	require.NoError(e, err)
	b, err := lock.New(e.open(), "b", lock.WithPoll(e.lease/20))
	require.NoError(e, err)
	first, err := a.Acquire(e.ctx)
	require.NoError(e, err)
	require.True(e, first.Held())
	_, ok, err := b.TryAcquire(e.ctx)
	require.NoError(e, err)
	require.False(e, ok)
	got := make(chan lock.Term, 1)
	go func() {
		t, _ := b.Acquire(e.ctx)
		got <- t
	}()
	require.NoError(e, first.Release(e.ctx))
	require.False(e, first.Held())
	second := <-got
	require.NotNil(e, second)
	require.Greater(e, second.Epoch(), first.Epoch())
	require.True(e, second.Held())
	require.NoError(e, a.Close(e.ctx))
	require.NoError(e, b.Close(e.ctx))
	<-second.Lost()
}
