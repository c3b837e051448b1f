package memorybackend

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/guard/guardtest"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func backend(t *testing.T, m *Memory) stability.Backend {
	b := m.Backend()
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func authAccount(t *testing.T, m *Memory) authstoretest.Account {
	b := backend(t, m)
	return authstoretest.Account{
		KV: b.Auth, Lock: b.Lock,
		Reopen: func(t *testing.T) authstoretest.Account {
			require.NoError(t, b.Close())
			return authAccount(t, m)
		},
		Other: func(t *testing.T) authstoretest.Account { return authAccount(t, m) },
	}
}

func TestAuthConforms(t *testing.T) {
	// Reopen before the first term: the suite demands ErrFenced of the epoch
	// after the newest, and the lock is still held by the dead instance.
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account { return authAccount(t, New()) })
}

func TestAuthConformsWithLimits(t *testing.T) {
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account {
		return authAccount(t, New(WithLimits(authstore.Limits{MaxValue: 900_000, MaxBatch: 8_000_000, MaxKeys: 5000})))
	})
}

func stateAccount(t *testing.T, m *Memory) reconnecttest.Account {
	b := backend(t, m)
	return reconnecttest.Account{
		State: b.State, Lock: b.Lock,
		Reopen: func(t *testing.T) reconnecttest.Account {
			require.NoError(t, b.Close())
			return stateAccount(t, m)
		},
		PlantNewer: func(t *testing.T) {
			m.state = fmt.Appendf(nil, `{"version":%d,"waStatus":{"changed":"type"}}`, reconnect.StateVersion+1)
		},
	}
}

func TestStateConforms(t *testing.T) {
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, New()) })
}

func incidentAccount(t *testing.T, m *Memory) guardtest.Account {
	b := backend(t, m)
	return guardtest.Account{
		Store: b.Incidents,
		Reopen: func(t *testing.T) guardtest.Account {
			require.NoError(t, b.Close())
			return incidentAccount(t, m)
		},
		PlantNewer: func(t *testing.T, id string) {
			m.incidents[id] = stored[guard.Incident]{guard.RecordVersion + 1, m.incidents[id].value}
		},
	}
}

func TestIncidentsConform(t *testing.T) {
	guardtest.Run(t, func(t *testing.T) guardtest.Account { return incidentAccount(t, New()) })
}

func TestLockConforms(t *testing.T) {
	locktest.Run(t, locktest.Config{Bubble: true, New: func(t *testing.T) func() lock.Store {
		m := New()
		return func() lock.Store { return backend(t, m).Lock }
	}})
}

func TestALeaseExpiresByTheStoresClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New()
		a, b := backend(t, m), backend(t, m)
		rec, granted, err := a.Lock.Acquire(t.Context(), "a", "1", time.Minute)
		require.NoError(t, err)
		require.True(t, granted)
		time.Sleep(time.Minute - 1)
		_, granted, err = b.Lock.Acquire(t.Context(), "b", "2", time.Minute)
		require.NoError(t, err)
		require.False(t, granted)
		rec, err = a.Lock.Renew(t.Context(), rec)
		require.NoError(t, err)
		time.Sleep(time.Minute - 1)
		_, granted, _ = b.Lock.Acquire(t.Context(), "b", "2", time.Minute)
		require.False(t, granted)
		time.Sleep(time.Nanosecond)
		require.NoError(t, a.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{}), "nobody else has a term yet")
		second, granted, _ := b.Lock.Acquire(t.Context(), "b", "2", time.Minute)
		require.True(t, granted)
		require.Equal(t, rec.Epoch+1, second.Epoch)
		_, err = a.Lock.Renew(t.Context(), rec)
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, a.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{}), authstore.ErrFenced)
	})
}

func TestASettledAttemptGrantsNoSecondEpoch(t *testing.T) {
	b := backend(t, New())
	rec, _, err := b.Lock.Acquire(t.Context(), "a", "n", time.Minute)
	require.NoError(t, err)
	again, granted, err := b.Lock.Acquire(t.Context(), "a", "n", time.Minute)
	require.NoError(t, err)
	require.True(t, granted)
	require.Equal(t, rec.Epoch, again.Epoch)
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	_, granted, err = b.Lock.Acquire(t.Context(), "a", "n", time.Minute)
	require.NoError(t, err)
	require.False(t, granted, "a request that comes late begins no term")
}

func TestAReleasedTermWritesNoMore(t *testing.T) {
	b := backend(t, New())
	rec, _, _ := b.Lock.Acquire(t.Context(), "a", "n", time.Minute)
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{}), authstore.ErrFenced)
	require.ErrorIs(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{}), reconnect.ErrFenced)
}

func TestChangesWakeOnReleaseAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New()
		a, b := backend(t, m), backend(t, m)
		var (
			mu   sync.Mutex
			seen []lock.Record
		)
		last := func() (n int, holder string) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return len(seen), seen[len(seen)-1].Holder
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for rec, err := range b.Lock.(lock.Watcher).Changes(ctx) {
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen = append(seen, rec)
				mu.Unlock()
			}
		}()
		n, _ := last()
		require.Equal(t, 1, n, "the record of now comes first")
		rec, _, _ := a.Lock.Acquire(ctx, "a", "1", time.Minute)
		_, holder := last()
		require.Equal(t, "a", holder)
		require.NoError(t, a.Lock.Release(ctx, rec))
		_, holder = last()
		require.Equal(t, "", holder)
		_, _, _ = a.Lock.Acquire(ctx, "a", "2", time.Minute)
		before, _ := last()
		time.Sleep(time.Minute)
		n, _ = last()
		require.Equal(t, before+1, n, "an expired lease may be taken: that is a change")
		time.Sleep(time.Hour)
		n, _ = last()
		require.Equal(t, before+1, n)
		stop()
		<-done
	})
}

func TestClosingOneInstanceLeavesTheOthers(t *testing.T) {
	m := New()
	a, b := backend(t, m), backend(t, m)
	rec, _, err := a.Lock.Acquire(t.Context(), "a", "1", time.Minute)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	require.ErrorIs(t, a.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{}), ErrClosed)
	_, err = a.State.Load(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	got, err := b.Lock.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, "a", got.Holder, "closing gives no lock up")
	for _, err := range a.Lock.(lock.Watcher).Changes(t.Context()) {
		require.ErrorIs(t, err, ErrClosed)
	}
}
