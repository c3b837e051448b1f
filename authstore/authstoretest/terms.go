package authstoretest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

func testAtomicReads(t *testing.T, a Account) {
	epoch := hold(t, a)
	ks := keys("atomic/first", "session/second", "zebra/third")
	fresh := func(i int) authstore.Key { return key(fmt.Sprint("session/new ", i)) } // in one batch only
	var written atomic.Int64
	write := func(i int) {
		b := authstore.Batch{Put: []authstore.Entry{{Key: fresh(i), Value: []byte("v")}}}
		for _, k := range ks {
			b.Put = append(b.Put, authstore.Entry{Key: k, Value: fmt.Append(nil, i)})
		}
		if i%3 == 2 {
			b = authstore.Batch{Delete: ks}
		}
		commit(t, a, epoch, b)
		written.Store(int64(i))
	}
	write(0)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				next := int(written.Load()) + 1 // may be on its way
				got, err := a.KV.Get(t.Context(), append([]authstore.Key{fresh(next)}, ks...)...)
				if err != nil {
					t.Errorf("Get beside a Commit: %v", err)
					return
				}
				if _, ok := got[fresh(next)]; ok {
					if v, err := strconv.Atoi(string(got[ks[0]])); err == nil && v < next {
						t.Errorf("half a batch: a key that batch %d puts is there, another still has what batch %d put", next, v)
						return
					}
					delete(got, fresh(next))
				}
				if n := len(got); n != 0 && n != len(ks) {
					t.Errorf("half a batch: %d of %d keys", n, len(ks))
					return
				}
				for _, k := range ks {
					if string(got[k]) != string(got[ks[0]]) {
						t.Errorf("half a batch: %v has %q, %v has %q", ks[0], got[ks[0]], k, got[k])
						return
					}
				}
				reads.Add(1)
			}
		})
	}
	for i := 0; i < pick(150, 3000) || reads.Load() < 50 && !t.Failed(); i++ {
		write(i + 1)
	}
	stop()
	readers.Wait()
}

func testConcurrentCommits(t *testing.T, a Account) {
	epoch := hold(t, a)
	const writers = 8
	each := pick(15, 200)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				b := put(fmt.Sprintf("w%d", w), fmt.Sprint(i), fmt.Sprintf("w%d n%d", w, i), "v")
				if err := a.KV.Commit(t.Context(), epoch, b); err != nil {
					t.Errorf("commit beside another: %v", err)
					return
				}
				k := key(fmt.Sprintf("w%d", w))
				got, err := a.KV.Get(t.Context(), k)
				if err != nil || string(got[k]) != fmt.Sprint(i) {
					t.Errorf("own write not read: %q, %v", got[k], err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, scan(t, a, "session", "w"), writers*(each+1))
}

func testNoTerm(t *testing.T, a Account) {
	for _, epoch := range []int64{-1, 0, 1} {
		require.ErrorIs(t, a.KV.Commit(t.Context(), epoch, put("k", "v")), authstore.ErrFenced, "epoch %d before any term", epoch)
	}
	epoch := hold(t, a)
	require.Positive(t, epoch)
	requireAbsent(t, a, key("k"))
	for _, e := range []int64{-1, 0} {
		require.ErrorIs(t, a.KV.Commit(t.Context(), e, put("k", "v")), authstore.ErrFenced)
	}
	requireAbsent(t, a, key("k"))
}

func testFenced(t *testing.T, a Account) {
	var epochs []int64
	for i := range 4 {
		holder := fmt.Sprint("instance ", i%2) // also back under an earlier name
		rec := acquire(t, a, holder)
		epochs = append(epochs, rec.Epoch)
		if i > 0 {
			require.Greater(t, rec.Epoch, epochs[i-1])
		}
		commit(t, a, rec.Epoch, put("k", fmt.Sprint("term ", i), "creds/device", "kept"))
		for _, old := range epochs[:i] {
			b := put("k", "old", fmt.Sprint("old", old), "old")
			b.Delete = keys("creds/device")
			require.ErrorIs(t, a.KV.Commit(t.Context(), old, b), authstore.ErrFenced)
			require.ErrorIs(t, a.KV.Commit(t.Context(), old, authstore.Batch{Delete: keys("k")}), authstore.ErrFenced)
			require.Equal(t, map[string]string{"k": fmt.Sprint("term ", i)}, scan(t, a, "session", ""))
			requireValue(t, a, key("creds/device"), []byte("kept"))
		}
		if i < 3 {
			release(t.Context(), t, a, rec)
		}
	}
	// The same holder again, without a release: a restart under a stable id.
	last := epochs[len(epochs)-1]
	again := acquire(t, a, "instance 1")
	require.Greater(t, again.Epoch, last)
	require.ErrorIs(t, a.KV.Commit(t.Context(), last, put("k", "old")), authstore.ErrFenced)
	requireValue(t, a, key("k"), []byte("term 3"))
	// A renewal keeps the epoch, so commits go on.
	rec, err := a.Lock.Renew(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, again.Epoch, rec.Epoch)
	commit(t, a, again.Epoch, put("k", "renewed"))
}

func testFutureEpoch(t *testing.T, a Account) {
	epoch := hold(t, a)
	require.ErrorIs(t, a.KV.Commit(t.Context(), epoch+1, put("k", "v")), authstore.ErrFenced)
	requireAbsent(t, a, key("k"))
	require.Equal(t, epoch+1, hold(t, a), "and no epoch was used up by it")
}

// testFencedRace hands the lock over in the middle of a stream of commits: the
// new term reads first the value that the old one wrote last.
func testFencedRace(t *testing.T, a Account) {
	for range pick(8, 200) {
		rec := acquire(t, a, "one")
		var wg sync.WaitGroup
		var counter atomic.Int64
		for w := range 4 {
			wg.Go(func() {
				k := fmt.Sprint("racer", w)
				for {
					n := counter.Add(1)
					err := a.KV.Commit(t.Context(), rec.Epoch, put(k, fmt.Sprint(n)))
					if errors.Is(err, authstore.ErrFenced) {
						return
					}
					if err != nil {
						t.Errorf("a commit around the hand-over: %v", err)
						return
					}
				}
			})
		}
		for counter.Load() < 12 {
			_ = get(t, a, key("racer0"))
		}
		next := acquire(t, a, "one") // no release: the old term does not know yet
		before := scan(t, a, "session", "racer")
		wg.Wait()
		require.Equal(t, before, scan(t, a, "session", "racer"), "a commit of the old term landed in the new one")
		commit(t, a, next.Epoch, put("mark", "new term"))
		release(t.Context(), t, a, next)
	}
}

func testOther(t *testing.T, a Account) {
	if a.Other == nil {
		t.Skip("this backend has no second instance")
	}
	first := acquire(t, a, "one")
	commit(t, a, first.Epoch, put("k", "from one"))
	b := a.Other(t)
	rec, granted, err := b.Lock.Acquire(t.Context(), "two", nonce(), lease)
	require.NoError(t, err, "a lock that another instance holds is no error")
	require.False(t, granted)
	require.NotEqual(t, "two", rec.Holder)
	require.ErrorIs(t, b.KV.Commit(t.Context(), first.Epoch+1, put("k", "too early")), authstore.ErrFenced)

	release(t.Context(), t, a, first)
	second := acquire(t, b, "two")
	require.Greater(t, second.Epoch, first.Epoch)
	requireValue(t, b, key("k"), []byte("from one"))
	commit(t, b, second.Epoch, put("k", "from two"))
	require.ErrorIs(t, a.KV.Commit(t.Context(), first.Epoch, put("k", "late")), authstore.ErrFenced)
	requireValue(t, b, key("k"), []byte("from two"))

	release(t.Context(), t, b, second)
	third := acquire(t, a, "one")
	require.Greater(t, third.Epoch, second.Epoch)
	requireValue(t, a, key("k"), []byte("from two"))
}

func testReopen(t *testing.T, a Account) {
	if a.Reopen == nil {
		t.Skip("nothing of this backend outlives the instance")
	}
	want := map[string]string{}
	epoch := int64(0)
	for round := range 3 {
		rec := acquire(t, a, "one")
		require.Greater(t, rec.Epoch, epoch, "an epoch is never used again")
		require.Equal(t, want, scan(t, a, "session", ""))
		for i := range 5 {
			id, v := fmt.Sprintf("%d \x00 %d", round, i), string(random(2000*i))
			commit(t, a, rec.Epoch, put(id, v))
			want[id] = v
		}
		require.Equal(t, want, scan(t, a, "session", ""))
		epoch = rec.Epoch
		a = a.Reopen(t)
		require.ErrorIs(t, a.KV.Commit(t.Context(), epoch+1, put("k", "no term yet")), authstore.ErrFenced)
	}
	rec := acquire(t, a, "one")
	require.ErrorIs(t, a.KV.Commit(t.Context(), epoch, put("k", "older")), authstore.ErrFenced)
	require.Equal(t, want, scan(t, a, "session", ""))
	commit(t, a, rec.Epoch, put("k", "v"))
}
