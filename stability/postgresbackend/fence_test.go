package postgresbackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

func values(t testing.TB, b stability.Backend) map[string]string {
	t.Helper()
	var got map[string]string
	retried(t, func() error {
		got = map[string]string{}
		for e, err := range b.Auth.Scan(context.WithoutCancel(t.Context()), "session", "") {
			if err != nil {
				return err
			}
			got[e.Key.ID] = string(e.Value)
		}
		return nil
	})
	return got
}

// An instance that has lost its lease and does not know it goes on writing, as
// fast as it can, while another takes over: what the new holder reads first is
// what it finds at the end.
func TestNothingOfTheOldTermLandsAfterATakeover(t *testing.T) {
	db := opened(t)
	landed := 0
	for round := range stabilitytest.Pick(60, 500) {
		id := anyAccount()
		a, b := backend(t, db, id), backend(t, db, id)
		old, granted, err := a.Lock.Acquire(t.Context(), "a", rand.Text(), time.Millisecond)
		require.NoError(t, err)
		require.True(t, granted)
		var (
			wg      sync.WaitGroup
			n, done atomic.Int64
		)
		write := func(f func(i int64) error) {
			wg.Go(func() {
				for {
					err := f(n.Add(1))
					if errors.Is(err, authstore.ErrFenced) {
						return
					}
					if err != nil {
						t.Errorf("round %d: a write around the takeover: %v", round, err)
						return
					}
					done.Add(1)
				}
			})
		}
		for range 3 {
			write(func(i int64) error {
				return a.Auth.Commit(t.Context(), old.Epoch, put(fmt.Sprint("k", i%5), fmt.Sprint(i)))
			})
		}
		write(func(i int64) error {
			return a.State.Save(t.Context(), old.Epoch, reconnect.State{Status: reconnect.StatusConnected, RetryCount: int(i)})
		})
		for done.Load() < 4 {
			time.Sleep(100 * time.Microsecond)
		}
		rec := lock.Record{}
		for granted = false; !granted; {
			rec, granted, err = b.Lock.Acquire(t.Context(), "b", rand.Text(), time.Hour)
			require.NoError(t, err)
		}
		require.Equal(t, old.Epoch+1, rec.Epoch)
		first := values(t, b)
		state, err := b.State.Load(t.Context())
		require.NoError(t, err)
		wg.Wait()
		require.Equal(t, first, values(t, b), "a commit of the old term landed in the new one")
		later, err := b.State.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, state, later)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "new")))
		landed += int(done.Load())
	}
	t.Logf("%d writes landed before the takeovers, none after", landed)
}

// The reply of a commit is lost, the next one is acknowledged; then the first
// arrives once more.
func TestALateCommitUndoesNothing(t *testing.T) {
	db := opened(t)
	b := backend(t, db, anyAccount())
	a := b.Auth.(keyValues).a
	rec := hold(t, b, "one")
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "1")))
	a.mu.Lock()
	first := a.term
	a.mu.Unlock()
	late := func() int {
		var passed int
		require.NoError(t, db.pool.QueryRow(t.Context(), db.q.commit, a.id, first.epoch, first.nonce, first.token,
			[]string{"session"}, [][]byte{[]byte("k")}, [][]byte{[]byte("1")}, []string{}, [][]byte{}).Scan(&passed))
		return passed
	}
	require.Equal(t, 1, late(), "a request as the instance sends it")

	a.doubt(first)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "2")))
	require.Zero(t, late())
	require.Equal(t, "2", value(t, b, "k"))
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 1}), "all writes know the new token")
}

// The move of the token has its own lost replies.
func TestAMoveOfTheTokenWhoseReplyWasLostIsFound(t *testing.T) {
	db := opened(t)
	b := backend(t, db, anyAccount())
	a := b.Auth.(keyValues).a
	rec := hold(t, b, "one")
	a.mu.Lock()
	before := a.term
	a.mu.Unlock()
	a.doubt(before)
	moved, err := a.bump(t.Context(), "test", before, term{token: "landed"})
	require.NoError(t, err)
	require.True(t, moved)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "1")))
	moved, err = a.bump(t.Context(), "test", before, term{token: "late"})
	require.NoError(t, err)
	require.False(t, moved, "a move that comes late finds another token")
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "2")))
}

// A standby that lagged is promoted: the term of the holder is gone, and the
// next one could have its number.
func TestATermThatAFailoverForgotWritesNoMore(t *testing.T) {
	db := opened(t)
	id := anyAccount()
	a, b := backend(t, db, id), backend(t, db, id)
	first := hold(t, a, "a")
	require.NoError(t, a.Lock.Release(t.Context(), first))
	second := hold(t, a, "a")
	require.NoError(t, a.Auth.Commit(t.Context(), second.Epoch, put("k", "mine")))
	// What the standby had: the state after the release.
	exec(t, db, `UPDATE wastability.locks SET lease_epoch = 1, holder_instance_id = '', nonce = 'x' WHERE account = $1`, id)
	exec(t, db, `UPDATE wastability.fences SET lease_epoch = 1, nonce = 'x', token = 'x', released = true WHERE account = $1`, id)

	_, err := a.Lock.Renew(t.Context(), second)
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorContains(t, err, "standby")
	other := hold(t, b, "b")
	require.Equal(t, second.Epoch, other.Epoch, "this instance never heard of the lost term")
	require.ErrorIs(t, a.Auth.Commit(t.Context(), second.Epoch, put("k", "old")), authstore.ErrFenced)
	require.ErrorIs(t, a.State.Save(t.Context(), second.Epoch, reconnect.State{}), reconnect.ErrFenced)
	_, err = a.Lock.Renew(t.Context(), second)
	require.ErrorIs(t, err, lock.ErrLost)
	require.NoError(t, a.Lock.Release(t.Context(), second), "and releases nothing")
	require.NoError(t, b.Auth.Commit(t.Context(), other.Epoch, put("k", "new")))
	require.NoError(t, b.Lock.Release(t.Context(), other))
	third := hold(t, a, "a")
	require.Greater(t, third.Epoch, second.Epoch, "an instance takes no epoch that it has seen")
}

// The same where the other process has the same instance id: the term is another
// one all the same.
func TestForgottenTermOfTheSameIDIsAnotherTerm(t *testing.T) {
	db := opened(t)
	id := anyAccount()
	a, b := backend(t, db, id), backend(t, db, id)
	first := hold(t, a, "one")
	exec(t, db, `DELETE FROM wastability.locks WHERE account = $1`, id)
	exec(t, db, `DELETE FROM wastability.fences WHERE account = $1`, id)
	other := hold(t, b, "one")
	require.Equal(t, first.Epoch, other.Epoch)
	before, err := b.Lock.Load(t.Context())
	require.NoError(t, err)
	_, err = a.Lock.Renew(t.Context(), first)
	require.ErrorIs(t, err, lock.ErrLost)
	after, err := b.Lock.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, a.Lock.Release(t.Context(), first), "and releases nothing")
	require.NoError(t, b.Auth.Commit(t.Context(), other.Epoch, put("k", "mine")))
	_, err = b.Lock.Renew(t.Context(), other)
	require.NoError(t, err)
}

// An instance takes no epoch that it has seen, whatever the server has forgotten:
// granted, read, or refused.
func TestEpochThatWasSeenIsNeverTakenAgain(t *testing.T) {
	db := opened(t)
	for name, see := range map[string]func(t *testing.T, b stability.Backend, held lock.Record){
		"it was the holder": func(*testing.T, stability.Backend, lock.Record) {},
		"it looked at the lock": func(t *testing.T, b stability.Backend, _ lock.Record) {
			_, err := b.Lock.Load(t.Context())
			require.NoError(t, err)
		},
		"it was refused": func(t *testing.T, b stability.Backend, _ lock.Record) {
			_, granted, err := b.Lock.Acquire(t.Context(), "b", rand.Text(), time.Hour)
			require.NoError(t, err)
			require.False(t, granted)
		},
		"it was fenced off": func(t *testing.T, b stability.Backend, held lock.Record) {
			require.ErrorIs(t, b.Auth.Commit(t.Context(), held.Epoch-1, put("k", "late")), authstore.ErrFenced)
		},
	} {
		for _, gone := range []bool{false, true} { // the account was made after what the standby has
			id := anyAccount()
			a, b := backend(t, db, id), backend(t, db, id)
			if name == "it was the holder" {
				b = a
			}
			for range 3 {
				require.NoError(t, a.Lock.Release(t.Context(), hold(t, a, "a")))
			}
			held := hold(t, a, "a")
			see(t, b, held)
			if gone {
				exec(t, db, `DELETE FROM wastability.locks WHERE account = $1`, id)
				exec(t, db, `DELETE FROM wastability.fences WHERE account = $1`, id)
			} else {
				exec(t, db, `UPDATE wastability.locks SET lease_epoch = 1, holder_instance_id = '', nonce = 'x' WHERE account = $1`, id)
				exec(t, db, `UPDATE wastability.fences SET lease_epoch = 1, nonce = 'x', token = 'x', released = true WHERE account = $1`, id)
			}
			require.Greater(t, hold(t, b, "b").Epoch, held.Epoch, "%s, %t", name, gone)
		}
	}
}

// A term that gave its lock back, or lost it without knowing, writes no more and
// deletes nothing. Each write is the first that the instance makes behind the end:
// the statement itself must find the fence closed.
func TestTermThatIsOverWritesAndDeletesNothing(t *testing.T) {
	db := opened(t)
	k := put("k", "").Put[0].Key
	writes := map[string]func(a stability.Backend, epoch int64) error{
		"put": func(a stability.Backend, epoch int64) error {
			return a.Auth.Commit(t.Context(), epoch, put("k", "late"))
		},
		"delete": func(a stability.Backend, epoch int64) error {
			return a.Auth.Commit(t.Context(), epoch, authstore.Batch{Delete: []authstore.Key{k}})
		},
		"both": func(a stability.Backend, epoch int64) error {
			b := put("new", "late")
			b.Delete = []authstore.Key{k}
			return a.Auth.Commit(t.Context(), epoch, b)
		},
		"save": func(a stability.Backend, epoch int64) error {
			return a.State.Save(t.Context(), epoch, reconnect.State{RetryCount: 9})
		},
	}
	for name, write := range writes {
		for _, released := range []bool{true, false} {
			id := anyAccount()
			a, b := backend(t, db, id), backend(t, db, id)
			rec, granted, err := a.Lock.Acquire(t.Context(), "a", rand.Text(), time.Second)
			require.NoError(t, err)
			require.True(t, granted)
			require.NoError(t, a.Auth.Commit(t.Context(), rec.Epoch, put("k", "1")))
			require.NoError(t, a.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 1}))
			if released {
				require.NoError(t, a.Lock.Release(t.Context(), rec))
			} else {
				exec(t, db, `UPDATE wastability.locks SET renewed_at = renewed_at - interval '1 hour' WHERE account = $1`, id)
				hold(t, b, "b")
			}
			err = write(a, rec.Epoch)
			require.True(t, errors.Is(err, authstore.ErrFenced) || errors.Is(err, reconnect.ErrFenced), "%s: %v", name, err)
			require.Equal(t, map[string]string{"k": "1"}, values(t, b), name)
			state, err := b.State.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, state.RetryCount, name)
		}
	}
}

// Contenders on a network that loses requests and replies: the history is that
// of one lock.
func TestContendersOnABadNetworkAreLinearizable(t *testing.T) {
	t.Parallel()
	const lease = 400 * time.Millisecond
	s := postgrestest.Need(t)
	opened(t) // migrates
	id := anyAccount()
	rec := locktest.NewRecorder()
	rec.Slack = 5 * time.Millisecond
	contenders := stabilitytest.Pick(6, 20)
	end := time.Now().Add(stabilitytest.Pick(2*time.Second, time.Minute))
	var (
		wg          sync.WaitGroup
		terms, cuts atomic.Int64
	)
	for i := range contenders {
		p := newProxy(t, s.Addr())
		p.chance = 0.05
		p.cuts = &cuts
		db, err := Open(t.Context(), "postgres://postgres@"+p.addr()+"/postgres?sslmode=disable&pool_max_conns=2", WithTimeout(time.Second))
		require.NoError(t, err)
		t.Cleanup(db.Close)
		store := rec.Wrap(backend(t, db, id).Lock)
		wg.Go(func() {
			holder := fmt.Sprint("h", i)
			for time.Now().Before(end) {
				nonce := rand.Text()
				var got lock.Record
				granted, err := false, errors.New("not tried")
				for n := 0; n < 4 && err != nil; n++ { // settle it, as a Lease does
					got, granted, err = store.Acquire(t.Context(), holder, nonce, lease)
				}
				if err != nil || !granted {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				terms.Add(1)
				for range 3 {
					time.Sleep(10 * time.Millisecond)
					if next, err := store.Renew(t.Context(), got); err == nil {
						got = next
					} else if errors.Is(err, lock.ErrLost) {
						break
					}
				}
				_ = store.Release(t.Context(), got)
			}
		})
	}
	wg.Wait()
	rec.Check(t, time.Minute)
	require.Positive(t, terms.Load())
	require.Positive(t, cuts.Load())
	t.Logf("%d terms, %d connections cut", terms.Load(), cuts.Load())
}
