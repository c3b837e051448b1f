package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// A collection whose version goes back, as before a full sync, has that version.
func TestAppStateVersionMayGoBack(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	for _, version := range []uint64{7, 3} {
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", version, [128]byte{byte(version)}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", version, macs(byte(version), byte(version))))
	}
	for range 2 {
		v, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 3, v)
		require.Equal(t, [128]byte{3}, hash)
		c, d, _ = reopen(t, kv, c)
	}
}

// A version that comes without its MACs is written all the same, a moment later.
func TestVersionAloneIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		time.Sleep(5 * lazily)
		v, _, err := killed(t, kv).AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 7, v)
	})
}

// MACs whose version is gone go too: under a later one they would make whatsmeow
// fail on its next patch. Those of a version that stands stay.
func TestMACsWithoutAVersionGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		for _, name := range []string{"regular", "critical_block"} {
			require.NoError(t, d.AppState.PutAppStateVersion(bg, name, 1, [128]byte{1}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, 1, macs(1, 1)))
		}
		gone := rowKey(d, tAppState, "regular")
		require.NoError(t, c.Close(bg))
		require.Equal(t, 2, kv.count("appmac"))
		delete(kv.data, gone)
		kv.setEpoch(2)
		_, d, _ = open(t, kv)
		mac := func(d *store.Device, name string) []byte {
			v, err := d.AppState.GetAppStateMutationMAC(bg, name, []byte{1})
			require.NoError(t, err)
			return v
		}
		require.Nil(t, mac(d, "regular"))
		require.Equal(t, []byte{1}, mac(d, "critical_block"))
		time.Sleep(5 * lazily)
		require.Equal(t, 1, kv.count("appmac"), "without another write")
		d = killed(t, kv)
		require.Equal(t, []byte{1}, mac(d, "critical_block"))
	})
}

// The version of a collection of which a MAC was refused does not stay on the disk
// until the next patch comes.
func TestVersionOfATornCollectionIsTakenOffAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		var told []Incident
		_, d, _ := open(t, kv, WithOnIncident(func(i Incident) { told = append(told, i) }))
		for _, name := range []string{"regular", "critical_block"} {
			require.NoError(t, d.AppState.PutAppStateVersion(bg, name, 1, [128]byte{1}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, 1, macs(1, 1)))
		}
		require.NoError(t, storeOf(d).flush("test"))
		kv.refuse("appmac")
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 2, macs(2, 2)))
		time.Sleep(5 * lazily)
		synctest.Wait()
		kv.before.set(nil)
		require.Len(t, told, 1)
		require.Equal(t, IncidentRefused, told[0].Kind)
		require.Equal(t, Kind("appmac"), told[0].Row)
		require.ErrorIs(t, told[0].Err, ErrTooLarge)
		d = killed(t, kv)
		for name, want := range map[string]uint64{"regular": 0, "critical_block": 1} {
			v, _, err := d.AppState.GetAppStateVersion(bg, name)
			require.NoError(t, err)
			require.Equal(t, want, v, name)
		}
	})
}
