package localbackend_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability/localbackend"
)

// No lease runs out here, and a record of another holder never changes. An answer
// counts for as long as a lease, and so does the next one.
func TestAnswerOfTheLockIsOldAfterALease(t *testing.T) {
	path := t.TempDir() + "/wa.db"
	synctest.Test(t, func(t *testing.T) {
		lease := func(id string) *lock.Lease {
			b, err := localbackend.Open(path)
			require.NoError(t, err)
			t.Cleanup(func() { _ = b.Close() })
			l, err := lock.New(b.Lock, id)
			require.NoError(t, err)
			t.Cleanup(func() { _ = l.Close(t.Context()) })
			return l
		}
		a, b := lease("a"), lease("b")
		_, err := a.Acquire(t.Context())
		require.NoError(t, err)
		for range 10 {
			_, granted, err := b.TryAcquire(t.Context())
			require.NoError(t, err)
			require.False(t, granted)
			time.Sleep(80 * time.Second)
			require.False(t, b.Stats().SeenOver)
			require.WithinDuration(t, time.Now().Add(-80*time.Second), b.Stats().LookedAt, time.Second)
		}
		time.Sleep(20 * time.Second)
		require.True(t, b.Stats().SeenOver)
	})
}
