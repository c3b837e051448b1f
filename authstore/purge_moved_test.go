package authstore

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A row of a replaced device may be on its way to its sealed name while the device
// is purged, and stand there behind the look that found it.
func TestRowThatMovesWhileItsDeviceIsPurgedGoesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv, WithAEAD(NewAESGCM([32]byte{1})))
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		gone := storeOf(d).gen + "/"
		require.NoError(t, d.Delete(bg))
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(2))
		var once sync.Once
		kv.before.set(func(op string, b Batch) error {
			for _, k := range b.Delete {
				if k.Kind == "session" && strings.HasPrefix(k.ID, gone) {
					once.Do(func() {
						kv.mu.Lock()
						defer kv.mu.Unlock()
						kv.data[Key{"session", k.ID + "0"}] = kv.data[k]
					})
				}
			}
			return nil
		})
		login(t, d)
		time.Sleep(time.Minute)
		once.Do(func() { t.Error("nothing was purged") })
		kv.mu.Lock()
		defer kv.mu.Unlock()
		for k := range kv.data {
			require.False(t, strings.HasPrefix(k.ID, gone), k)
		}
	})
}
