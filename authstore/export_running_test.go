package authstore

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A version beside the MACs of a later one makes whatsmeow fail on every later patch
// of the collection. A patch may come while an archive of the account is written.
func TestArchiveOfARunningAccountHasAVersionWithItsMACs(t *testing.T) {
	const name = "regular"
	for form, again := range map[string]bool{"the MACs are in memory": false, "the MACs were not read yet": true} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				patch := func(version byte) {
					require.NoError(t, d.AppState.PutAppStateVersion(bg, name, uint64(version), [128]byte{version}))
					require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, uint64(version), macs(version, 1)))
					require.NoError(t, storeOf(d).flush("test"))
				}
				patch(7)
				if again {
					c, d, _ = reopen(t, kv, c)
				}
				var b bytes.Buffer
				_, err := Export(bg, FromContainer(c), &b, archiveKey, OnProgress(func(p Progress) {
					if p.Kind == "session" {
						patch(8)
					}
				}))
				require.NoError(t, err)
				to := newMapKV()
				_, err = Restore(bg, &b, archiveKey, New(to), newFence(1))
				require.NoError(t, err)
				_, d, _ = open(t, to)
				version, _, err := d.AppState.GetAppStateVersion(bg, name)
				require.NoError(t, err)
				require.EqualValues(t, 7, version)
				mac, err := d.AppState.GetAppStateMutationMAC(bg, name, []byte{1})
				require.NoError(t, err)
				require.Equal(t, []byte{7}, mac)
			})
		})
	}
}
