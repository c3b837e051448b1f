package authstore

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

const garbage = "\x01\x00garbage"

// Whether the service still knows the device of a backup shows at the login. Until
// then the device that it replaced is kept.
func TestDeviceThatABackupReplacedComesBackIfThatOneIsGone(t *testing.T) {
	for name, deleted := range map[string]bool{"it was paired": false, "it was deleted": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, held := source(t)
				archive := exported(t, FromKV("old", from, held))
				kv, f := newMapKV(), newFence(1)
				c := New(kv)
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				pair(t, d, testJID(2))
				login(t, d)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 4)))
				if deleted {
					require.NoError(t, d.Delete(bg))
				}
				replace := func() *deviceStore {
					_, err := Restore(bg, bytes.NewReader(archive), archiveKey, c, f, ReplaceDevice())
					require.NoError(t, err)
					d, err = c.Device(bg, f)
					require.NoError(t, err)
					require.Equal(t, testJID(1), *d.ID)
					synctest.Wait()
					return storeOf(d)
				}
				replace()
				c.SetDeleteReason("removed from the phone")
				require.NoError(t, d.Delete(bg))
				info, err := c.Info(bg)
				require.NoError(t, err)
				require.Equal(t, testJID(2), info.JID)
				require.True(t, info.Deleted)
				require.NoError(t, c.Restore(bg, f))
				d, err = c.Device(bg, f)
				require.NoError(t, err)
				require.Equal(t, testJID(2), *d.ID)
				session, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.EqualValues(t, 4, sessionCounter(t, session))

				// Once the restored one has logged in, nothing is left of the other.
				s := replace()
				login(t, d)
				c.cfg.background.Wait()
				require.NoError(t, c.Close(bg))
				for k := range kv.data {
					gen, _ := genAndID(k)
					require.True(t, gen == "" || gen == globalGen || gen == s.gen, k.ID)
				}
			})
		})
	}
}

// An imported device has uploaded prekeys, but elsewhere. The service may have removed it
// since.
func TestPreKeysUploadedElsewhereAreNoLogin(t *testing.T) {
	received := func(t *testing.T, d *store.Device) {
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{77}, []byte("text"), time.Now()))
	}
	for name, logIn := range map[string]func(*testing.T, *store.Device){
		"the service takes prekeys": func(t *testing.T, d *store.Device) { login(t, d) },
		"a message is received":     received,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, held := source(t)
				kv := newMapKV()
				c, d, f := open(t, kv)
				login(t, d)
				was := storeOf(d).gen
				replace := func() *store.Device {
					_, err := Import(bg, FromKV("old", from, held), c, f, ReplaceDevice())
					require.NoError(t, err)
					d, err = c.Device(bg, f)
					require.NoError(t, err)
					n, err := d.PreKeys.UploadedPreKeyCount(bg)
					require.NoError(t, err)
					require.Positive(t, n)
					synctest.Wait()
					d, err = c.Device(bg, f) // also after a restart
					require.NoError(t, err)
					synctest.Wait()
					return d
				}
				wrong := storeOf(replace()).gen // so it is done once more
				again := replace()
				require.Zero(t, rowsUnder(kv, wrong))
				require.NoError(t, again.Delete(bg))
				require.NoError(t, c.Restore(bg, f))
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				require.Equal(t, was, storeOf(d).gen)

				d = replace()
				logIn(t, d)
				synctest.Wait()
				require.Zero(t, rowsUnder(kv, was))
				require.NoError(t, d.Delete(bg))
				require.Equal(t, stateDeleted, storeOf(d).head.State)
				require.NotEqual(t, was, storeOf(d).head.Gen)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// An unfinished import whose record is damaged would keep an account without a device
// from being paired, for ever.
func TestImportWithADamagedRecordCanBeDropped(t *testing.T) {
	from, held := source(t)
	to := newMapKV()
	stop := errors.New("stopped")
	to.after.set(func(op string, _ Batch) error {
		if to.count("contact") > 0 {
			return errors.Join(ErrFenced, stop)
		}
		return nil
	})
	_, err := Import(bg, FromKV("old", from, held), New(to), newFence(1))
	require.ErrorIs(t, err, stop)
	to.after.set(nil)
	to.mu.Lock()
	require.Contains(t, to.data, importKey())
	to.data[importKey()] = garbage
	to.mu.Unlock()
	_, err = New(to).Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "DropImport")

	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	require.Empty(t, to.data)
	d, err := New(to).Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
}

// The device itself may have come by an import.
func TestDropOfADamagedImportLeavesTheDeviceAlone(t *testing.T) {
	from, held := source(t)
	src := FromKV("old", from, held)
	to := newMapKV()
	_, err := Import(bg, src, New(to), newFence(1))
	require.NoError(t, err)
	want := tables(t, FromKV("new", to, newFence(1)))
	to.data[importKey()] = garbage
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	require.Equal(t, want, tables(t, FromKV("new", to, newFence(1))))
	require.Zero(t, to.count(kindImport))
}

// A backup is older than its target.
func TestBackupDoesNotUndoANewLID(t *testing.T) {
	jid := func(user, server string) types.JID { return types.NewJID(user, server) }
	lidOf := func(c *Container, f Fence, pn string) string {
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		lid, err := d.LIDs.GetLIDForPN(bg, jid(pn, types.DefaultUserServer))
		require.NoError(t, err)
		return lid.User
	}
	from, held := source(t)
	kv, f := newMapKV(), newFence(1)
	c := New(kv)
	d := paired(t, c, f)
	changed := jid("15550103", types.DefaultUserServer) // 903 in the source
	require.NoError(t, d.LIDs.PutLIDMapping(bg, jid("777", types.HiddenUserServer), changed))
	other := jid("66", types.DefaultUserServer) // 904 is of 15550104 in the source
	require.NoError(t, d.LIDs.PutLIDMapping(bg, jid("904", types.HiddenUserServer), other))
	_, err := Restore(bg, bytes.NewReader(exported(t, FromKV("old", from, held))), archiveKey, c, f, ReplaceDevice())
	require.NoError(t, err)
	require.Equal(t, "777", lidOf(c, f, "15550103"))
	require.Equal(t, "904", lidOf(c, f, "66"))
	require.Empty(t, lidOf(c, f, "15550104"), "a LID stands for one number")
	require.Equal(t, "905", lidOf(c, f, "15550105"), "what the target does not know comes from the backup")
	require.NoError(t, c.Close(bg))
}

// A damaged row of an unfinished import is written anew by the next one, or goes, if
// the source has it no more.
func TestDamagedRowOfAnUnfinishedImportHoldsUpNoNextOne(t *testing.T) {
	long := strings.Repeat("5", 2000) + ":0" // stands under a hash
	for name, opts := range map[string][]Option{"plain names": nil, "sealed names": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			from := newMapKV()
			c, d, held := open(t, from)
			furnish(t, d)
			require.NoError(t, d.Sessions.PutSession(bg, long, validSession(t, 9)))
			require.NoError(t, c.Close(bg))
			src := FromKV("old", from, held)
			to := newMapKV()
			stop := errors.New("stopped")
			to.after.set(func(string, Batch) error {
				if to.count("contact") > 0 {
					return errors.Join(ErrFenced, stop)
				}
				return nil
			})
			_, err := Import(bg, src, New(to, opts...), newFence(1))
			require.ErrorIs(t, err, stop)
			to.after.set(nil)
			to.mu.Lock()
			hurt := 0
			for k := range to.data {
				if k.Kind == "session" {
					to.data[k] = garbage
					hurt++
				}
			}
			to.mu.Unlock()
			require.Positive(t, hurt)
			_, d, _ = open(t, from)
			require.NoError(t, d.Sessions.DeleteSession(bg, long))
			r, err := Import(bg, src, New(to, opts...), newFence(1))
			require.NoError(t, err)
			require.True(t, r.Resumed)
			require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1), opts...)))
		})
	}
}

// An entry that this library cannot read is not damaged.
func TestImportDoesNotWriteOverAnEntryOfANewerFormat(t *testing.T) {
	from, held := source(t) // has an entry M
	to, f := newMapKV(), newFence(1)
	c := New(to)
	paired(t, c, f)
	require.NoError(t, c.PutMessageEntry(bg, "M", []byte("ours"), true))
	require.NoError(t, c.Close(bg))
	key := Key{"message", globalGen + "/M"}
	newer := "\x63" + to.data[key][1:]
	to.data[key] = newer
	_, err := Import(bg, FromKV("old", from, held), New(to), f, ReplaceDevice())
	require.ErrorIs(t, err, ErrNewerFormat)
	require.Equal(t, newer, to.data[key])
}

// The device that a source keeps beside the one that moves away goes with the next
// pairing there.
func TestRetiredSourceForgetsNoDeviceThatItKept(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	require.NoError(t, d.Delete(bg))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(2)) // and has not logged in
	require.NoError(t, c.Close(bg))
	_, err = Import(bg, FromKV("old", kv, f), New(newMapKV()), newFence(1), RetireSource())
	require.NoError(t, err)
	c = New(kv)
	d, err = c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(3))
	login(t, d)
	c.cfg.background.Wait()
	gen := storeOf(d).gen
	require.NoError(t, c.Close(bg))
	gens := make(map[string]bool)
	for k := range kv.data {
		if k.Kind == "device" {
			g, _ := genAndID(k)
			gens[g] = true
		}
	}
	require.Equal(t, []string{gen}, slices.Collect(maps.Keys(gens)))
}

// The device that an import replaces may be of a term that was lost, with something
// that can be written no more.
func TestImportReplacesADeviceOfALostTerm(t *testing.T) {
	from, held := source(t)
	kv := newMapKV()
	c, d, _ := open(t, kv)
	_, _, err := d.Contacts.PutPushName(bg, testJID(5), "a name that waits")
	require.NoError(t, err)
	kv.setEpoch(2)
	_, err = Import(bg, FromKV("old", from, held), c, newFence(2), ReplaceDevice())
	require.NoError(t, err)
}

// Info tells of the device that was given out, and of no earlier one.
func TestInfoIsNotOfADeviceThatIsOver(t *testing.T) {
	kv := newMapKV()
	c, _, f := open(t, kv)
	kv.mu.Lock()
	kv.data[headKey()] = garbage
	kv.mu.Unlock()
	_, err := c.Device(bg, f)
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = c.Info(bg)
	require.ErrorIs(t, err, ErrCorrupt)
}
