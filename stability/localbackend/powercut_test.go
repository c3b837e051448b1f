package localbackend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability/stabilitytest"
)

type writeAt = func(b []byte, off int64) (int, error)

// hookWrites puts wrap in front of what bbolt writes.
func hookWrites(db *bbolt.DB, wrap func(real writeAt) writeAt) (undo func()) {
	p := (*writeAt)(unsafe.Pointer(reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt").UnsafeAddr()))
	real := *p
	*p = wrap(real)
	return func() { *p = real }
}

// failWrites lets what bbolt writes at some places happen and fail, as when a
// page was written and not synced.
func failWrites(db *bbolt.DB, where func(off int64) bool) (undo func()) {
	return hookWrites(db, func(real writeAt) writeAt {
		return func(p []byte, off int64) (int, error) {
			n, err := real(p, off)
			if err == nil && where(off) {
				err = syscall.EIO
			}
			return n, err
		}
	})
}

func metaPages() int64 { return 2 * int64(os.Getpagesize()) }

func session(id, v string) authstore.Entry {
	return authstore.Entry{Key: authstore.Key{Kind: "session", ID: id}, Value: []byte(v)}
}

// A commit that goes into the tables and whose last sync fails has happened, or
// has not: no part of it is read alone, or becomes durable with the next one.
func TestAFailureAtTheVeryEndOfACommitLeavesNoHalfOfIt(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path, smallLog)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{session("x", "old")}}))
	f := openFileOf(b)
	undo := failWrites(f.db, func(off int64) bool { return off < metaPages() })
	require.Error(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{session("x", "new"), session("y", string(make([]byte, 9000)))}}))
	undo()
	require.True(t, f.unsettled)
	kx, ky := session("x", "").Key, session("y", "").Key
	whole := func(x string, y int) {
		t.Helper()
		require.Equal(t, x == "new", y == 9000, "half a batch: x is %q, y has %d bytes", x, y)
	}
	got, err := b.Auth.Get(t.Context(), kx, ky)
	require.NoError(t, err)
	whole(string(got[kx]), len(got[ky]))
	_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{ID: "i"}) // another commit
	require.NoError(t, err)
	disk, err := crashed(t, imageOf(t, path))
	require.NoError(t, err)
	whole(disk[kx], len(disk[ky]))
	require.NoError(t, b.Close())
}

// Whoever reads while the log is emptied sees the batch that is under way, or
// does not.
func TestAReaderBesideAFoldSeesNoHalfBatch(t *testing.T) {
	t.Parallel()
	b := openAt(t, newPath(t), smallLog)
	rec := hold(t, b)
	commit := func(i int) {
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{
			Put: []authstore.Entry{session("x", fmt.Sprint(i)), session(fmt.Sprint("n", i), "there")},
		}))
	}
	commit(0)
	var now, torn, both atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				i := int(now.Load()) + 1 // on its way
				kx, kn := session("x", "").Key, session(fmt.Sprint("n", i), "").Key
				got, err := b.Auth.Get(t.Context(), kx, kn)
				if err != nil {
					t.Error(err)
					return
				}
				switch _, ok := got[kn]; {
				case ok && string(got[kx]) == fmt.Sprint(i-1):
					torn.Add(1)
				case ok:
					both.Add(1)
				}
				time.Sleep(50 * time.Microsecond) // else the writer starves
			}
		})
	}
	for i := 1; i <= stabilitytest.Pick(300, 3000); i++ {
		commit(i)
		now.Store(int64(i))
	}
	close(done)
	wg.Wait()
	require.Zero(t, torn.Load())
	t.Logf("%d times it was read while it was new", both.Load())
	require.NoError(t, b.Close())
}

// The power goes in any phase of any commit, foldings and new terms included:
// of what was not synced, any sectors are on the disk. What is found then is
// what was there before, or after.
func TestAPowerCutAnywhereLeavesBeforeOrAfter(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	path := newPath(t)
	b := openAt(t, path, smallLog)
	rec := hold(t, b)
	model := map[authstore.Key]string{}
	type write struct {
		off  int64
		data []byte
	}
	folds := 0
	for range stabilitytest.Pick(25, 400) {
		f := openFileOf(b)
		before := imageOf(t, path)
		var writes []write
		undo := hookWrites(f.db, func(real writeAt) writeAt {
			return func(p []byte, off int64) (int, error) {
				writes = append(writes, write{off, bytes.Clone(p)})
				return real(p, off)
			}
		})
		next := model
		if r.IntN(6) == 0 { // the same holder begins anew: a term within the open file
			again, granted, err := b.Lock.Acquire(t.Context(), "one", fmt.Sprint(r.Uint64()), time.Hour)
			require.NoError(t, err)
			require.True(t, granted)
			rec = again
		} else {
			batch := randomBatch(r, 30, 1+r.IntN(6000))
			require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
			next = applied(model, batch)
		}
		undo()
		after := imageOf(t, path)
		cut := func(synced, unsynced []write, allowed ...map[authstore.Key]string) {
			t.Helper()
			image := append(bytes.Clone(before), make([]byte, max(0, len(after)-len(before)))...)
			for _, w := range synced {
				copy(image[w.off:], w.data)
			}
			for _, w := range unsynced {
				for at := 0; at < len(w.data); at += sectorSize {
					if r.IntN(2) == 0 {
						copy(image[w.off+int64(at):], w.data[at:min(at+sectorSize, len(w.data))])
					}
				}
			}
			got, err := crashed(t, image)
			require.NoError(t, err)
			require.Contains(t, allowed, got)
		}
		if len(writes) > 0 {
			folds++
			data, meta := writes[:len(writes)-1], writes[len(writes)-1:]
			require.Less(t, meta[0].off, metaPages())
			for range 2 {
				cut(nil, data, model)
			}
			cut(data, nil, model)
			cut(data, meta, model, next)
			cut(writes, nil, next)
		} else {
			var appended []write
			for at := 0; at < len(after); at += sectorSize {
				if !bytes.Equal(before[at:at+sectorSize], after[at:at+sectorSize]) {
					appended = append(appended, write{int64(at), after[at : at+sectorSize]})
				}
			}
			for range 2 {
				cut(nil, appended, model, next)
			}
		}
		model = next
	}
	require.Positive(t, folds)
	require.NoError(t, b.Close())
}

// The log is emptied, its last sync fails, and the next attempt fails before it
// writes its last page: nobody knows which generation counts on the disk, so the
// commit behind it is not appended to the old one.
func TestNothingIsAppendedBehindAnEmptyingOfUnknownOutcome(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path, smallLog)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{session("x", "old")}}))
	f := openFileOf(b)
	large := authstore.Batch{Put: []authstore.Entry{session("y", string(make([]byte, 9000)))}} // does not go through the log
	undo := failWrites(f.db, func(off int64) bool { return off < metaPages() })
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, large), syscall.EIO)
	undo()
	require.True(t, f.unsettled)
	undo = failWrites(f.db, func(off int64) bool { return off >= metaPages() })
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, large), syscall.EIO)
	undo()
	require.False(t, f.unsettled, "the page was settled by the second attempt, and the second commit never came to its own")

	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{session("x", "new")}}))
	got, err := b.Auth.Get(t.Context(), session("x", "").Key)
	require.NoError(t, err)
	require.Equal(t, "new", string(got[session("x", "").Key]))
	disk, err := crashed(t, imageOf(t, path))
	require.NoError(t, err)
	require.Equal(t, "new", disk[session("x", "").Key], "it was confirmed")
	require.NoError(t, b.Close())
}

// A panic inside bbolt may leave its mutexes held: the term is over at once, no
// later call waits for them, and the account can be held again.
func TestPanicInsideTheFileEndsTheTerm(t *testing.T) {
	path := newPath(t)
	b, err := Open(path, smallLog) // closed below: with a mutex of bbolt held, Close could wait for ever
	require.NoError(t, err)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
	f := openFileOf(b)
	undo := hookWrites(f.db, func(writeAt) writeAt {
		return func([]byte, int64) (int, error) { panic("a page that makes no sense") }
	})
	large := authstore.Batch{Put: []authstore.Entry{session("y", string(make([]byte, 9000)))}}
	require.ErrorContains(t, b.Auth.Commit(t.Context(), rec.Epoch, large), "a page that makes no sense")
	undo()
	_, err = b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, large), authstore.ErrFenced)
	rec = hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, large))
	disk, err := crashed(t, imageOf(t, path))
	require.NoError(t, err)
	require.Equal(t, "v", disk[session("1", "").Key])
	require.Len(t, disk[session("y", "").Key], 9000)
	require.NoError(t, b.Close())
}
