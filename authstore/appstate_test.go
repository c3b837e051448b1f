package authstore

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

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

// A row that is refused beside a patch of the app state does not cost the
// collection's version, without which all of it is fetched again.
func TestRefusedRowDoesNotCostAnAppStateVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxKeys: 1}
		c, d, _ := open(t, kv)
		kv.refuse("contact")
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "too long")
		require.NoError(t, err)
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 7, macs(7, 1)))
		require.NoError(t, storeOf(d).flush("test"))
		_, d, _ = reopen(t, kv, c)
		version, _, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 7, version)
		mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
		require.NoError(t, err)
		require.Equal(t, []byte{7}, mac)
	})
}

// A collection of the app state goes alone, also where its name is the front of
// another's: "regular" and "regular_low".
func TestDeletedCollectionLeavesTheOthersAlone(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	names := []string{"regular", "regular_low", "regular_high"}
	for _, name := range names {
		require.NoError(t, d.AppState.PutAppStateVersion(bg, name, 5, [128]byte{5}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, 5, macs(5, 1)))
	}
	require.NoError(t, d.AppState.DeleteAppStateVersion(bg, "regular"))
	for range 2 {
		for _, name := range names {
			version, _, err := d.AppState.GetAppStateVersion(bg, name)
			require.NoError(t, err)
			mac, err := d.AppState.GetAppStateMutationMAC(bg, name, []byte{1})
			require.NoError(t, err)
			if name == "regular" {
				require.Zero(t, version)
				require.Nil(t, mac)
			} else {
				require.EqualValues(t, 5, version, name)
				require.Equal(t, []byte{5}, mac, name)
			}
		}
		c, d, _ = reopen(t, kv, c)
	}
}

// A commit that takes several batches, of which one holds the whole patch: the
// version's removal and its new value never stand in one batch.
func TestPatchBesideAValueInPartsKeepsItsVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxValue: 1000, MaxBatch: 2500}
		_, d, _ := open(t, kv)
		for version := range uint64(3) {
			_, _, err := d.Contacts.PutPushName(bg, testJID(2), strings.Repeat(fmt.Sprint(version), 3000))
			require.NoError(t, err)
			require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", version, [128]byte{byte(version)}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", version, macs(byte(version), 1)))
			require.NoError(t, storeOf(d).flush("test"))
			require.NotZero(t, kv.count(kindPart))
			d = killed(t, kv)
			got, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
			require.NoError(t, err)
			require.Equal(t, version, got)
			require.Equal(t, [128]byte{byte(version)}, hash)
		}
	})
}

// A patch of the app state of which not all has come is not complete before a
// second has passed. Who reads the collection meanwhile sees it all the same: else
// the same patch would be fetched again. A backup has none of it.
func TestPatchOnItsWayIsSeenByEveryReader(t *testing.T) {
	for name, read := range map[string]func(t *testing.T, c *Container, d *store.Device){
		"its version": func(t *testing.T, _ *Container, d *store.Device) {
			version, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
			require.NoError(t, err)
			require.EqualValues(t, 7, version)
			require.Equal(t, [128]byte{7}, hash)
		},
		"what it removes": func(t *testing.T, _ *Container, d *store.Device) {
			mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
			require.NoError(t, err)
			require.Nil(t, mac)
		},
		"what it leaves": func(t *testing.T, _ *Container, d *store.Device) {
			mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{2})
			require.NoError(t, err)
			require.Equal(t, []byte{5}, mac)
		},
		"an export": func(t *testing.T, c *Container, _ *store.Device) {
			to := newMapKV()
			_, err := Restore(bg, bytes.NewReader(exported(t, FromContainer(c))), archiveKey, New(to), newFence(1))
			require.NoError(t, err)
			_, d, _ := open(t, to)
			version, _, err := d.AppState.GetAppStateVersion(bg, "regular")
			require.NoError(t, err)
			require.EqualValues(t, 5, version)
			mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
			require.NoError(t, err)
			require.Equal(t, []byte{5}, mac)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, d, _ := open(t, newMapKV())
				require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 5, [128]byte{5}))
				require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 5, macs(5, 1, 2)))
				require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
				require.NoError(t, d.AppState.DeleteAppStateMutationMACs(bg, "regular", [][]byte{{1}}))
				read(t, c, d)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}
