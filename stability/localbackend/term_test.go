package localbackend

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

func one(v string) authstore.Batch {
	return authstore.Batch{Put: []authstore.Entry{{Key: authstore.Key{Kind: "session", ID: "1"}, Value: []byte(v)}}}
}

func TestOpenTouchesNothing(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	_, err := b.Lock.Load(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = os.Lstat(path)
	require.ErrorIs(t, err, os.ErrNotExist, "the file is made by the first term")
}

func TestAPathThatCannotBeIsAnErrorThatSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	_, err := Open("")
	require.ErrorContains(t, err, "localbackend.Open(")
	_, err = Open(dir)
	require.ErrorContains(t, err, "is a directory: pass the path of a file")
	_, err = Open(filepath.Join(dir, "missing", "wa.db"))
	require.ErrorContains(t, err, "create it first")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(filepath.Join(file, "wa.db"))
	require.Error(t, err)
	if runtime.GOOS == "windows" {
		return
	}
	real := newPath(t)
	b := openAt(t, real)
	hold(t, b)
	require.NoError(t, b.Close())
	for name, target := range map[string]string{"link": real, "dangling": filepath.Join(dir, "nowhere")} {
		link := filepath.Join(dir, name)
		require.NoError(t, os.Symlink(target, link))
		_, err = Open(link)
		require.ErrorContains(t, err, "is a symbolic link")
		_, err = openFile(t.Context(), link, logSize)
		require.ErrorContains(t, err, "is a symbolic link", "also when it is put there after Open")
	}
	_, err = os.Lstat(filepath.Join(dir, "nowhere"))
	require.ErrorIs(t, err, os.ErrNotExist)
	if os.Getuid() == 0 {
		t.Skip("nothing is denied to root")
	}
	require.NoError(t, os.Chmod(real, 0o400))
	_, err = Open(real)
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "change the owner or the mode")
	closed := filepath.Join(dir, "closed")
	require.NoError(t, os.Mkdir(closed, 0o500))
	b = openAt(t, filepath.Join(closed, "wa.db"))
	_, _, err = b.Lock.Acquire(t.Context(), "a", "n", time.Hour)
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "change the owner or the mode")
}

func TestOfManyCreatorsOneWins(t *testing.T) {
	t.Parallel()
	for range 10 {
		path := newPath(t)
		var granted atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			b := openAt(t, path)
			wg.Go(func() {
				_, ok, err := b.Lock.Acquire(t.Context(), lock.NewHolderID("x"), lock.NewHolderID("n"), time.Hour)
				if err != nil {
					t.Error(err)
				}
				if ok {
					granted.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, granted.Load())
	}
}

func TestReleaseWaitsForWhatIsRunningAndClosesTheFile(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	a, b := openAt(t, path), openAt(t, path)
	for range 20 {
		rec := hold(t, a)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for ctx.Err() == nil {
					for e, err := range a.Auth.Scan(t.Context(), "session", "") {
						if err != nil {
							if !isNotHolder(err) {
								t.Error(err)
							}
							return
						}
						_ = e
					}
				}
			})
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := a.Auth.Commit(t.Context(), rec.Epoch, one("v")); err != nil {
						require.ErrorIs(t, err, authstore.ErrFenced)
						return
					}
				}
			})
		}
		require.NoError(t, a.Auth.Commit(t.Context(), rec.Epoch, one("first")))
		require.NoError(t, a.Lock.Release(t.Context(), rec))
		other := hold(t, b) // at once: the file is free
		require.Equal(t, rec.Epoch+1, other.Epoch)
		stop()
		wg.Wait()
		require.NoError(t, b.Lock.Release(t.Context(), other))
	}
}

func TestARemovedOrReplacedFileEndsTheTerm(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be removed")
	}
	for name, take := range map[string]func(path string) error{
		"removed": os.Remove,
		"moved":   func(path string) error { return os.Rename(path, path+".moved") },
		"replaced": func(path string) error {
			return os.Rename(filepath.Join(filepath.Dir(path), "new"), path)
		},
	} {
		for _, first := range []string{"renewal", "commit"} {
			t.Run(name+" "+first, func(t *testing.T) {
				path := newPath(t)
				fresh, err := Open(filepath.Join(filepath.Dir(path), "new"))
				require.NoError(t, err)
				hold(t, fresh)
				require.NoError(t, fresh.Close())

				b := openAt(t, path)
				rec := hold(t, b)
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
				require.NoError(t, take(path))
				if first == "commit" {
					require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, one("into nothing")), authstore.ErrFenced)
				}
				_, err = b.Lock.Renew(t.Context(), rec)
				require.ErrorIs(t, err, lock.ErrLost)
				require.ErrorIs(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{}), reconnect.ErrFenced)
				_, err = b.Auth.Get(t.Context(), authstore.Key{Kind: "session", ID: "1"})
				require.ErrorIs(t, err, ErrNotHolder)
				require.NoError(t, b.Lock.Release(t.Context(), rec))
				// A new term is one of the file that is there now.
				other := hold(t, b)
				if name == "replaced" {
					require.EqualValues(t, 2, other.Epoch)
				} else {
					require.EqualValues(t, 1, other.Epoch)
				}
				require.NoError(t, b.Auth.Commit(t.Context(), other.Epoch, one("v")))
			})
		}
	}
}

func TestAFileTruncatedWhileOpenIsAnErrorAndNoCrash(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated")
	}
	for _, size := range []int64{0, 4096, 16384} {
		path := newPath(t)
		b := openAt(t, path)
		rec := hold(t, b)
		var big authstore.Batch
		for i := range 300 {
			big.Put = append(big.Put, authstore.Entry{Key: authstore.Key{Kind: "session", ID: lock.NewHolderID(string(rune('a' + i%26)))}, Value: make([]byte, 1000)})
		}
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, big))
		require.NoError(t, os.Truncate(path, size))
		err := error(nil)
		for _, e := range big.Put {
			if _, err = b.Auth.Get(t.Context(), e.Key); err != nil {
				break
			}
		}
		require.ErrorIs(t, err, authstore.ErrCorrupt)
		_, err = b.Lock.Renew(t.Context(), rec)
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")), authstore.ErrFenced)
		_, _, err = b.Lock.Acquire(t.Context(), "one", "again", time.Hour)
		require.ErrorIs(t, err, authstore.ErrCorrupt)
		require.NoError(t, b.Close())
	}
	// And when a write is what finds it.
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
	require.NoError(t, os.Truncate(path, 0))
	require.Error(t, b.Auth.Commit(t.Context(), rec.Epoch, one("w")))
	_, err := b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, lock.ErrLost)
	require.NoError(t, b.Close())
}

func TestACommitThatMayNotBeOnDiskIsSettledFirst(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
	f := openFileOf(b)
	f.unsettled, f.unsettledTx = true, newestTx(t, path)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("w")))
	require.False(t, f.unsettled)

	// A batch that cannot be written again, because it is not there any more, is not
	// built upon.
	f.unsettled, f.unsettledTx = true, newestTx(t, path)+1
	require.ErrorContains(t, b.Auth.Commit(t.Context(), rec.Epoch, one("x")), "gone from memory")
	require.Error(t, b.Auth.Commit(t.Context(), rec.Epoch, one("x")))
	rec = hold(t, b)
	got, err := b.Auth.Get(t.Context(), authstore.Key{Kind: "session", ID: "1"})
	require.NoError(t, err)
	require.Equal(t, "w", string(got[authstore.Key{Kind: "session", ID: "1"}]))
	require.NoError(t, b.Close())
	requireOneFile(t, path)
}

// A disk that says that it could not keep what was written is believed: neither a
// commit nor the page that it settles counts then.
func TestFailedSyncConfirmsNothing(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("old")))
	f := openFileOf(b)
	synced := 0
	fails := func(*os.File) error { synced++; return syscall.EIO }
	key := authstore.Key{Kind: "session", ID: "1"}
	is := func(want string) {
		t.Helper()
		got, err := b.Auth.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, want, string(got[key]))
	}

	f.sync = fails
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, one("new")), syscall.EIO)
	require.Equal(t, 1, synced)
	is("old")
	f.sync = datasync
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("newer")))
	is("newer")

	f.unsettled, f.unsettledTx = true, newestTx(t, path)
	before := imageOf(t, path)
	f.sync = fails
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, one("newest")), syscall.EIO)
	require.Equal(t, 2, synced)
	require.True(t, f.unsettled)
	require.True(t, bytes.Equal(before, imageOf(t, path)), "nothing was written behind a page that may not be on the disk")
	is("newer")
	f.sync = datasync
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("newest")))
	is("newest")
	got, err := crashed(t, imageOf(t, path))
	require.NoError(t, err)
	require.Equal(t, "newest", got[key])
}

func newestTx(t *testing.T, path string) int {
	m, err := readMetas(imageOf(t, path))
	require.NoError(t, err)
	return int(m.txid)
}

// Whoever wrote the last transaction may have been killed before it was synced,
// or have failed to sync it: the page is written and synced again before a next
// one may take what it has freed.
func TestOpeningSettlesTheLastTransaction(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	hold(t, b)
	require.NoError(t, b.Close())
	before := imageOf(t, path)
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(path, old, old))
	f, err := openFile(t.Context(), path, logSize)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, info.ModTime().After(old.Add(time.Minute)), "something was written")
	require.True(t, bytes.Equal(before, imageOf(t, path)), "and it was what stood there")
	require.NoError(t, f.close())
}

// A process killed while it created the account may leave its file under a
// second name, with the keys in it.
func TestASecondNameOfANewFileIsRemoved(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	hold(t, b)
	require.NoError(t, b.Close())
	require.NoError(t, os.Link(path, path+newSuffix+"123"))
	other := path + newSuffix + "copy" // somebody else's
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	b = openAt(t, path)
	hold(t, b)
	require.NoError(t, b.Close())
	require.NoFileExists(t, path+newSuffix+"123")
	require.FileExists(t, other)
	require.NoError(t, os.Remove(other))
	requireOneFile(t, path)
}

func TestClosedIsClosed(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, _, err := b.Lock.Acquire(t.Context(), "a", "n", time.Hour)
	require.ErrorIs(t, err, ErrClosed)
	_, err = b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, b.Lock.Release(t.Context(), rec), ErrClosed)
	_, err = b.Lock.Load(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")), ErrClosed)
	_, err = b.State.Load(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	for _, err := range b.Lock.(lock.Watcher).Changes(t.Context()) {
		require.ErrorIs(t, err, ErrClosed)
	}
	hold(t, openAt(t, path)) // and the lock is free
}

func isNotHolder(err error) bool { return errors.Is(err, ErrNotHolder) }

// Whoever opened a file before it was replaced locks one that no path names: a
// second process could lock what stands there now.
func TestFileReplacedBeforeItsLockIsNotHeld(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, path string){
		"removed":  func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"replaced": func(t *testing.T, path string) { require.NoError(t, os.Rename(path+".other", path)) },
		"left":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("an open file cannot be replaced there")
			}
			path := newPath(t)
			require.NoError(t, create(path, logSize))
			require.NoError(t, create(path+".other", logSize))
			f, err := openRaw(path)
			require.NoError(t, err)
			defer f.Close()
			if replace == nil {
				_, err = lockNamed(f, path, true)
				require.NoError(t, err)
				return
			}
			replace(t, path)
			_, err = lockNamed(f, path, true)
			require.ErrorIs(t, err, errHeld)
		})
	}
}
