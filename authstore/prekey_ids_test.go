package authstore

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPreKeyIDIsNeverUsedTwice(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	seen := make(map[uint32]bool)
	for round := range 5 {
		keys, err := d.PreKeys.GetOrGenPreKeys(bg, 10)
		require.NoError(t, err)
		one, err := d.PreKeys.GenOnePreKey(bg)
		require.NoError(t, err)
		require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, keys[9].KeyID))
		for _, k := range append(keys, one) {
			require.False(t, seen[k.KeyID])
			seen[k.KeyID] = true
			require.NoError(t, d.PreKeys.RemovePreKey(bg, k.KeyID)) // the highest too
		}
		if round%2 == 0 {
			c, d, _ = reopen(t, kv, c)
		}
	}
	// From many goroutines.
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			k, err := d.PreKeys.GenOnePreKey(bg)
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			require.False(t, seen[k.KeyID])
			seen[k.KeyID] = true
		})
	}
	wg.Wait()
	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, 20, n)
}

func TestPreKeyIDsWrapWhereTheWireEnds(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	first, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
	require.NoError(t, err)
	require.EqualValues(t, 1, first[0].KeyID)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, 3))
	s := storeOf(d)
	require.NoError(t, s.write(bg, "test", put(tMisc, nextPreKey, []byte{0xfd, 0xff, 0xff, 0})))
	require.NoError(t, d.PreKeys.RemovePreKey(bg, 2))
	keys, err := d.PreKeys.GetOrGenPreKeys(bg, 5)
	require.NoError(t, err)
	var ids []uint32
	for _, k := range keys {
		ids = append(ids, k.KeyID)
	}
	require.Equal(t, []uint32{1<<24 - 3, 1<<24 - 2, 2, 4, 5}, ids, "existing ones are stepped over")
	again, err := d.PreKeys.GetOrGenPreKeys(bg, 5)
	require.NoError(t, err)
	require.Equal(t, keys, again)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, 5))
	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, 7, n, "those before the wrap are older than those after it")
}
