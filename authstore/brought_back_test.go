package authstore

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What is true of a device that was brought back: by Restore, from a backup, or
// from where it had moved away.

// A host that shows Info must not go on offering what has happened.
func TestInfoKnowsAtOnceThatADeviceWasBroughtBack(t *testing.T) {
	c, d, f := open(t, newMapKV())
	c.SetDeleteReason("logged out")
	require.NoError(t, d.Delete(bg))
	fresh(t, c, 1) // waits to be paired
	require.NoError(t, c.Restore(bg, f))
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.Equal(t, Info{Exists: true, JID: testJID(1), KeyCount: -1}, info)
}

// A backup has sent messages of several ages beside its sessions. They come into
// one row, which stays as long as its youngest may be asked for.
func TestRowOfABackupIsAsOldAsItsYoungestMessage(t *testing.T) {
	for name, addrs := range map[string][2]string{
		"the older one comes first": {"1:0", "2:0"},
		"the older one comes last":  {"2:0", "1:0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				sendWith(t, d, 0, addrs[0])
				time.Sleep(6 * aDay)
				_, d, _ = reopen(t, kv, c)
				sendWith(t, d, 1, addrs[1])
				killed(t, kv)
				kv.setEpoch(kv.epoch + 1)
				to := newMapKV()
				archive := exported(t, FromKV("old", kv, newFence(kv.epoch)))
				_, err := Restore(bg, bytes.NewReader(archive), archiveKey, New(to), newFence(1))
				require.NoError(t, err)
				time.Sleep(2 * aDay)
				c, d, _ = open(t, to)
				require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
				synctest.Wait()
				_, d, _ = reopen(t, to, c)
				requireSent(t, d, 1)
			})
		})
	}
}

// A library that does not know sealed names would find no sessions in a source that
// is used again, and begin others beside them. The mark that keeps it away stays.
func TestRetiredSourceWithSealedNamesKeepsOlderLibrariesAway(t *testing.T) {
	kv := newMapKV()
	c, _, f := open(t, kv, nameSeal)
	require.NoError(t, c.Close(bg))
	require.NotZero(t, kv.data[headKey()][1]&flagNames)
	_, err := Import(bg, FromKV("old", kv, f, nameSeal), New(newMapKV(), nameSeal), newFence(1), RetireSource())
	require.NoError(t, err)
	require.NotZero(t, kv.data[headKey()][1]&flagNames, "retired")
	require.NoError(t, New(kv, nameSeal).Restore(bg, f))
	require.NotZero(t, kv.data[headKey()][1]&flagNames, "brought back")
}
