package authstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// The phone may send an old key again.
func TestOlderAppStateKeyDoesNotReplaceANewer(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	put := func(at int64) {
		require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{1}, store.AppStateSyncKey{Data: []byte{byte(at)}, Timestamp: at}))
	}
	for _, c := range []struct{ put, want int64 }{{5, 5}, {3, 5}, {5, 5}, {6, 6}} {
		put(c.put)
		k, err := d.AppStateKeys.GetAppStateSyncKey(bg, []byte{1})
		require.NoError(t, err)
		require.Equal(t, c.want, k.Timestamp)
		require.Equal(t, []byte{byte(c.want)}, k.Data)
	}
}

func TestAppStateKeysAreListedNewestFirst(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for _, at := range []int64{30, 10, 50, 20, 40, 50} {
		id := []byte{byte(at), byte(len(fmt.Sprint(at)))}
		require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, id, store.AppStateSyncKey{Data: id, Fingerprint: []byte{1}, Timestamp: at}))
	}
	all, err := storeOf(d).GetAllAppStateSyncKeys(bg)
	require.NoError(t, err)
	var times []int64
	for _, k := range all {
		times = append(times, k.Timestamp)
	}
	require.Equal(t, []int64{50, 40, 30, 20, 10}, times)
	latest, err := d.AppStateKeys.GetLatestAppStateSyncKeyID(bg)
	require.NoError(t, err)
	require.Equal(t, all[0].Data, latest)
}
