package localbackend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// termsAt are the terms of this process on a path.
func termsAt(path string) (terms []*term) {
	here.mu.Lock()
	defer here.mu.Unlock()
	for t := range here.terms {
		if t.path == path {
			terms = append(terms, t)
		}
	}
	return terms
}

// A term of this process whose file was closed under it holds nothing.
func TestHolderOfAClosedFileIsNobody(t *testing.T) {
	path := newPath(t)
	b, err := Open(path)
	require.NoError(t, err)
	_, granted, err := b.Lock.Acquire(t.Context(), "one", "n", time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	one := termsAt(path)[0]
	require.NoError(t, unflock(one.f))
	require.NoError(t, one.f.Close())
	defer one.delist()

	p := start(t, "hold", path)
	require.Equal(t, "2", p.line(), p.err)
	rec, granted, err := openAt(t, path).Lock.Acquire(t.Context(), "standby", "n", time.Hour)
	require.NoError(t, err)
	require.False(t, granted)
	require.Equal(t, AnotherProcess, rec.Holder)
	require.NoError(t, p.in.Close())
}

func TestASecondProcessStandsByAndTakesOver(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"exit", "kill"} {
		t.Run(how, func(t *testing.T) {
			path := newPath(t)
			p := start(t, "hold", path)
			require.Equal(t, "1", p.line(), p.err)

			b := openAt(t, path) // a file that another process has open is no error
			rec, granted, err := b.Lock.Acquire(t.Context(), "standby", "n", time.Hour)
			require.NoError(t, err)
			require.False(t, granted)
			require.Equal(t, AnotherProcess, rec.Holder)
			rec, err = b.Lock.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, AnotherProcess, rec.Holder)

			lease, err := lock.New(b.Lock, "standby")
			require.NoError(t, err)
			got := make(chan lock.Term, 1)
			go func() {
				term, err := lease.Acquire(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- term
			}()
			select {
			case <-got:
				require.Fail(t, "the lock was granted twice")
			case <-time.After(3 * watchEvery): // it stays so
			}
			began := time.Now()
			if how == "kill" {
				require.NoError(t, p.Process.Kill())
			} else {
				require.NoError(t, p.in.Close())
			}
			term := <-got
			t.Log("taken over after", time.Since(began))
			require.EqualValues(t, 2, term.Epoch())
			require.NoError(t, b.Auth.Commit(t.Context(), 2, authstore.Batch{}))
			require.ErrorIs(t, b.Auth.Commit(t.Context(), 1, authstore.Batch{}), authstore.ErrFenced)
			require.NoError(t, term.Release(t.Context()))
			require.NoError(t, lease.Close(t.Context()))
		})
	}
}

func TestAStandbyHasNoStore(t *testing.T) {
	path := newPath(t)
	p := start(t, "hold", path)
	require.Equal(t, "1", p.line(), p.err)
	b := openAt(t, path)
	_, err := b.Auth.Get(t.Context(), authstore.Key{Kind: "a", ID: "x"})
	require.ErrorIs(t, err, ErrNotHolder)
	for _, err := range b.Auth.Scan(t.Context(), "a", "") {
		require.ErrorIs(t, err, ErrNotHolder)
	}
	_, err = b.State.Load(t.Context())
	require.ErrorIs(t, err, ErrNotHolder)
	_, err = b.Incidents.List(t.Context())
	require.ErrorIs(t, err, ErrNotHolder)
	_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{ID: "x"})
	require.ErrorIs(t, err, ErrNotHolder)
	require.ErrorIs(t, b.Auth.Commit(t.Context(), 1, authstore.Batch{}), authstore.ErrFenced)
	require.ErrorIs(t, b.State.Save(t.Context(), 1, reconnect.State{}), reconnect.ErrFenced)
}

// A process killed at any moment leaves a file that opens, with every batch it
// was told is there, and at most the one that was on its way.
func TestKilledAtAnyMomentNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	for i := range stabilitytest.Pick(20, 200) {
		path := newPath(t)
		p := start(t, "commit", path)
		done := make(chan int, 1)
		go func() {
			acked := 0
			for {
				n, err := strconv.Atoi(p.line())
				if err != nil {
					done <- acked
					return
				}
				acked = n
			}
		}()
		time.Sleep(rand.N(120 * time.Millisecond)) // some before the file is there
		require.NoError(t, p.Process.Kill())
		acked := <-done
		_ = p.Wait()
		require.Empty(t, p.err.String())

		b := openAt(t, path)
		rec := hold(t, b)
		last := 0
		if acked > 0 {
			last = acked
		}
		got, err := b.Auth.Get(t.Context(), authstore.Key{Kind: "n", ID: fmt.Sprint(acked + 1)})
		require.NoError(t, err)
		last += len(got)
		want := map[authstore.Key][]byte{}
		for n := 1; n <= last; n++ {
			for _, e := range commitBatch(n).Put {
				want[e.Key] = e.Value
			}
			for _, k := range commitBatch(n).Delete {
				delete(want, k)
			}
		}
		found := map[authstore.Key][]byte{}
		for _, kind := range []authstore.Kind{"a", "b", "n", "z"} {
			for e, err := range b.Auth.Scan(t.Context(), kind, "") {
				require.NoError(t, err)
				found[e.Key] = e.Value
			}
		}
		require.Equal(t, want, found, "kill %d: %d acknowledged", i, acked)
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		require.NoError(t, b.Close())
		requireOneFile(t, path)
	}
}

// requireOneFile fails when something else lies beside the file.
func requireOneFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(strings.TrimSuffix(path, "wa.db"))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	info, err := entries[0].Info()
	require.NoError(t, err)
	if os.PathSeparator == '/' {
		require.Equal(t, os.FileMode(0o600), info.Mode(), "only its owner may read it")
	}
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = check(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
}

// However a term ends, this process forgets it.
func TestEndedTermsAreForgotten(t *testing.T) {
	path := newPath(t)
	listed := func() int { return len(termsAt(path)) }
	b := openAt(t, path)
	for range 3 {
		rec := hold(t, b)
		require.Equal(t, 1, listed())
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		require.Zero(t, listed(), "released")
	}
	rec := hold(t, b)
	openFileOf(b).unusable.Store(true) // as after a fault
	_, err := b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, lock.ErrLost)
	hold(t, b)
	require.Equal(t, 1, listed(), "one that nobody released")
	require.NoError(t, b.Close())
	require.Zero(t, listed(), "closed")
}
