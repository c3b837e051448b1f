package authstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The purge of a large device takes minutes. Somebody may link a phone meanwhile, and
// that one is the account's device; the purge is finished all the same.
func TestDeviceIsPairedWhileAnotherIsPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &largeKV{mapKV: newMapKV()}
		c, f := New(kv), newFence(1)
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(1))
		for i := range 5 {
			require.NoError(t, d.Sessions.PutSession(bg, fmt.Sprintf("%d:0", i), validSession(t, 1)))
		}
		require.NoError(t, d.Delete(bg))
		fresh, err := c.Device(bg, f)
		require.NoError(t, err)
		kv.takes.Store(int64(15 * time.Second))
		purged := make(chan error, 1)
		go func() { purged <- c.PurgeDevice(bg, f) }()
		time.Sleep(time.Second)
		began := time.Now()
		pair(t, fresh, testJID(2))
		require.Zero(t, time.Since(began))
		require.NoError(t, <-purged)
		time.Sleep(time.Hour)
		require.Zero(t, kv.count("session"))
		kv.takes.Store(0)
		again, err := c.Device(bg, f)
		require.NoError(t, err)
		require.Equal(t, testJID(2), again.GetJID())
		require.Empty(t, storeOf(again).head.Purge)
		require.NoError(t, c.Close(bg))
	})
}
