package localbackend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

func TestFileCopiedOverConfirmsNothingAndStays(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated")
	}
	many := func(t *testing.T, b stability.Backend, epoch int64, n int) {
		for i := range n {
			require.NoError(t, b.Auth.Commit(t.Context(), epoch, authstore.Batch{Put: []authstore.Entry{session(fmt.Sprint(i%300), fmt.Sprint(i))}}))
		}
	}
	for name, c := range map[string]struct {
		before, after int  // commits before and after the backup
		sameTerm      bool // both of one term
		foreign       bool // the backup is of another account
		inPlace       bool // not truncated first
	}{
		"of an earlier term":              {before: 50, after: 600},
		"with an empty log":               {after: 1},
		"of this term, one commit before": {before: 3, after: 1, sameTerm: true},
		"of this term, a log before":      {before: 3, after: 300, sameTerm: true},
		"without truncating":              {before: 50, after: 20, inPlace: true},
		"of another account":              {after: 5, foreign: true},
		"of another account, untouched":   {foreign: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			b := openAt(t, path)
			rec := hold(t, b)
			many(t, b, rec.Epoch, c.before)
			if !c.sameTerm {
				require.NoError(t, b.Lock.Release(t.Context(), rec))
			}
			backup := imageOf(t, path)
			if c.foreign {
				other := filepath.Join(t.TempDir(), "other.db")
				fill(t, other, 40, rand.New(rand.NewPCG(1, 2)))
				backup = imageOf(t, other)
			}
			if !c.sameTerm {
				rec = hold(t, b)
			}
			many(t, b, rec.Epoch, c.after)
			flags := os.O_WRONLY | os.O_TRUNC
			if c.inPlace {
				flags = os.O_WRONLY
			}
			f, err := os.OpenFile(path, flags, 0)
			require.NoError(t, err)
			_, err = f.Write(backup)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			backup = imageOf(t, path)

			err = b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{session("lost", "x")}})
			require.ErrorIs(t, err, authstore.ErrFenced)
			require.ErrorContains(t, err, "while it was open")
			_, err = b.Lock.Renew(t.Context(), rec)
			require.ErrorIs(t, err, lock.ErrLost)
			require.NoError(t, b.Lock.Release(t.Context(), rec))
			require.NoError(t, b.Close())
			require.True(t, bytes.Equal(backup, imageOf(t, path)), "what was put there was changed")
			if !c.inPlace {
				hold(t, openAt(t, path)) // a sound file
			}
		})
	}
}

// At the end of a term the log is folded and the release noted: not into a file
// that somebody else has put there.
func TestReleaseWritesNothingIntoACopiedFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated")
	}
	for name, end := range map[string]func(b stability.Backend, rec lock.Record) error{
		"Release": func(b stability.Backend, rec lock.Record) error { return b.Lock.Release(context.Background(), rec) },
		"Close":   func(b stability.Backend, rec lock.Record) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			b := openAt(t, path)
			rec := hold(t, b)
			require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("first")))
			backup := imageOf(t, path)
			require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("second")))
			require.NoError(t, os.WriteFile(path, backup, 0o600))
			require.NoError(t, end(b, rec))
			require.True(t, bytes.Equal(backup, imageOf(t, path)))
		})
	}
}

func TestTouchedFileGoesOn(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	for i := range 5 {
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		require.NoError(t, os.Chtimes(path, at, at))
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one(fmt.Sprint(i))))
		if runtime.GOOS != "windows" {
			f, err := os.OpenFile(path, os.O_WRONLY, 0) // the same bytes again
			require.NoError(t, err)
			_, err = f.Write(imageOf(t, path))
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one(fmt.Sprint(i, "again"))))
	}
	_, err := b.Lock.Renew(t.Context(), rec)
	require.NoError(t, err)
}

// Each error that waiting cannot cure, on each way to the lock: alone, standing
// by for another process, and by hand.
func TestPermanentErrorsEndEveryWait(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be replaced")
	}
	replace := func(path string, with func() error) error { return errors.Join(os.Remove(path), with()) }
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  error
	}{
		"damaged": {func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(bytes.Repeat([]byte{0xAA}, 8192), 0)
			return errors.Join(err, f.Close())
		}, authstore.ErrCorrupt},
		"a symbolic link": {func(path string) error {
			return replace(path, func() error { return os.Symlink("elsewhere", path) })
		}, errBadPlace},
		"a directory": {func(path string) error {
			return replace(path, func() error { return os.Mkdir(path, 0o700) })
		}, errBadPlace},
	} {
		for _, way := range []string{"fresh start", "standby", "by hand", "by hand, waiting"} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				path := newPath(t)
				b := openAt(t, path)
				require.NoError(t, b.Lock.Release(t.Context(), hold(t, b)))
				held, err := os.OpenFile(path, os.O_RDWR, 0)
				require.NoError(t, err)
				defer held.Close()
				b = openAt(t, path)
				m, err := stability.New(stability.WithBackend(b))
				require.NoError(t, err)
				defer func() { _ = m.Close(context.Background()) }() // it looks at the lock once more
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				result := make(chan error, 1)
				switch way {
				case "fresh start":
					require.NoError(t, c.spoil(path))
					result <- m.Run(ctx, nil)
				case "standby":
					ok, err := tryFlock(held, true)
					require.NoError(t, err)
					require.True(t, ok)
					go func() { result <- m.Run(ctx, nil) }()
					require.Eventually(t, func() bool { return m.Status().LockHolder == AnotherProcess }, time.Minute, time.Millisecond)
					require.NoError(t, c.spoil(path))
					require.NoError(t, held.Close())
				case "by hand":
					require.NoError(t, c.spoil(path))
					_, err := m.TryActivate(ctx)
					result <- err
				case "by hand, waiting":
					require.NoError(t, c.spoil(path))
					result <- m.Activate(ctx)
				}
				err = <-result
				require.NoError(t, ctx.Err(), "it went on trying")
				require.ErrorIs(t, err, c.want)
				require.ErrorIs(t, err, stability.ErrUnusable)
			})
		}
	}
}

func TestReadOnlyFileSystemIsPermanent(t *testing.T) {
	for _, err := range []error{syscall.EROFS, os.ErrPermission, authstore.ErrNewerFormat, damaged("x"), errBadPlace} {
		var p *backoff.PermanentError
		wrapped := fmt.Errorf("open: %w", &os.PathError{Op: "open", Path: "wa.db", Err: err})
		require.ErrorAs(t, hopeless(wrapped), &p)
		require.ErrorIs(t, hopeless(wrapped), err)
		require.ErrorIs(t, hopeless(wrapped), stability.ErrUnusable, "the Manager knows it by that")
	}
	var p *backoff.PermanentError
	for _, err := range []error{syscall.ENOSPC, syscall.EIO, errHeld, context.DeadlineExceeded} {
		require.False(t, errors.As(hopeless(err), &p), "%v passes", err)
	}
	require.NoError(t, hopeless(nil))
}
