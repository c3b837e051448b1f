package authstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

func fresh(t testing.TB, c *Container, epoch int64) *store.Device {
	t.Helper()
	d, err := c.Device(bg, newFence(epoch))
	require.NoError(t, err)
	return d
}

func TestANewDeviceIsWrittenOnlyWhenItIsSaved(t *testing.T) {
	kv := newMapKV()
	c := New(kv)
	d := fresh(t, c, 1)
	require.Nil(t, d.ID)
	require.NotNil(t, d.NoiseKey)
	require.False(t, d.Initialized)
	require.Len(t, d.AdvSecretKey, 32)
	require.NoError(t, c.Close(bg))
	require.Zero(t, kv.commits.Load())
	require.ErrorIs(t, d.Save(bg), ErrDeviceIDMustBeSet)
}

func TestADeletedDeviceCanBeRestoredUntilAnotherIsPaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv)
		noise := *d.NoiseKey.Priv
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
		_, _, err := d.Contacts.PutPushName(bg, testJID(5), "rides")
		require.NoError(t, err)
		c.SetDeleteReason("logged out: 401")
		sessions := d.Sessions
		require.NoError(t, d.Delete(bg))
		require.Zero(t, f.cuts.Load(), "whatsmeow ends the connection itself")
		require.Nil(t, d.ID)
		require.ErrorIs(t, sessions.PutSession(bg, "1:0", nil), ErrDeviceDeleted)
		require.ErrorIs(t, sessions.PutSession(bg, "1:0", nil), context.Canceled)

		info, err := c.Info(bg)
		require.NoError(t, err)
		require.False(t, info.Exists)
		require.True(t, info.Deleted)
		require.Equal(t, "logged out: 401", info.Reason)
		require.Equal(t, testJID(1), info.JID)
		require.WithinDuration(t, time.Now(), info.DeletedAt, time.Minute)

		unpaired := fresh(t, c, 1)
		require.Nil(t, unpaired.ID)
		require.NotEqual(t, noise, *unpaired.NoiseKey.Priv)

		require.NoError(t, c.Restore(bg, newFence(1)))
		require.ErrorIs(t, c.Restore(bg, newFence(1)), ErrNothingDeleted)
		back := fresh(t, c, 1)
		require.Equal(t, testJID(1), *back.ID)
		require.Equal(t, noise, *back.NoiseKey.Priv)
		v, err := back.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 7, sessionCounter(t, v))
		name, err := back.Contacts.GetContact(bg, testJID(5))
		require.NoError(t, err)
		require.Equal(t, "rides", name.PushName)

		// Paired anew, even as the same number: the old rows are gone.
		require.NoError(t, back.LIDs.PutLIDMapping(bg, types.NewJID("9", types.HiddenUserServer), types.NewJID("8", types.DefaultUserServer)))
		require.NoError(t, back.Delete(bg))
		next := fresh(t, c, 1)
		pair(t, next, testJID(1))
		login(t, next)
		v, err = next.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.Nil(t, v)
		lid, err := next.LIDs.GetLIDForPN(bg, types.NewJID("8", types.DefaultUserServer))
		require.NoError(t, err)
		require.Equal(t, "9", lid.User, "the LID map is the account's")
		synctest.Wait() // the purge
		require.NoError(t, c.Close(bg))
		require.Zero(t, kv.count("session"))
		require.Equal(t, 1, kv.count("device"))
		c2 := New(kv)
		require.ErrorIs(t, c2.Restore(bg, newFence(1)), ErrNothingDeleted)
	})
}

// whatsmeow saves the device before the service has the last word of a pairing,
// and deletes it if that does not get through. Until the new device has logged
// in, in this term or a later one, the earlier one comes back.
func TestAPairingThatComesToNothingLeavesTheEarlierDeviceRestorable(t *testing.T) {
	for name, c := range map[string]struct {
		reload, logsIn, late bool
		want                 int
	}{
		"deleted at once":           {want: 1},
		"deleted in the next term":  {reload: true, want: 1},
		"it has logged in":          {logsIn: true, want: 2},
		"and was loaded again":      {logsIn: true, reload: true, want: 2},
		"it logs in after a reload": {reload: true, late: true, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				a, d, _ := open(t, kv)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
				a.SetDeleteReason("logged out: 401")
				require.NoError(t, d.Delete(bg))
				before, err := a.Info(bg)
				require.NoError(t, err)

				next := fresh(t, a, 1)
				pair(t, next, testJID(2))
				require.ErrorIs(t, a.Restore(bg, newFence(1)), ErrNothingDeleted, "it is paired now")
				next = fresh(t, a, 1)
				require.Equal(t, testJID(2), *next.ID)
				require.NoError(t, next.Sessions.PutSession(bg, "2:0", validSession(t, 3)))
				if c.logsIn {
					login(t, next)
				}
				synctest.Wait()
				if c.reload {
					next = fresh(t, a, 1)
				}
				if c.late {
					login(t, next)
				}
				synctest.Wait()
				require.Equal(t, 3-c.want, kv.count("session"), "of what can come back")
				require.NoError(t, next.Delete(bg))
				after, err := a.Info(bg)
				require.NoError(t, err)
				require.True(t, after.Deleted)
				require.Equal(t, testJID(c.want), after.JID)
				if c.want == 1 {
					require.Equal(t, before.DeletedAt, after.DeletedAt)
					require.Equal(t, "logged out: 401", after.Reason)
				}
				require.NoError(t, a.Restore(bg, newFence(1)))
				back := fresh(t, a, 1)
				require.Equal(t, after.JID, *back.ID)
				has, err := back.Sessions.HasSession(bg, fmt.Sprintf("%d:0", c.want))
				require.NoError(t, err)
				require.True(t, has)
				synctest.Wait()
				require.NoError(t, a.Close(bg))
				require.Equal(t, 1, kv.count("session"), "the other one's are gone")
				require.Equal(t, 1, kv.count("device"))
			})
		})
	}
}

func TestAFailedDeleteIsAVeto(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	kv.before.set(func(op string, b Batch) error { return ErrTooLarge })
	require.ErrorIs(t, d.Delete(bg), ErrTooLarge)
	require.NotNil(t, d.ID)
	kv.before.set(nil)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", nil), "it lives on")
}

// A host may put its own DeviceContainer in front.
func TestAContainerInFrontIsSupported(t *testing.T) {
	kv := newMapKV()
	c := New(kv)
	t.Cleanup(func() { _ = c.Close(bg) })
	d := fresh(t, c, 1)
	d.Container = struct{ *Container }{c}
	jid := testJID(1)
	d.ID = &jid
	require.NoError(t, d.Save(bg))
	require.NoError(t, c.DeleteDevice(bg, d))
	require.ErrorIs(t, c.PutDevice(bg, &store.Device{}), ErrUnknownDevice)
}

// A purge that a crash broke off is taken up by the next load.
func TestAPurgeIsTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		for _, a := range []string{"1:0", "2:0"} {
			require.NoError(t, d.Sessions.PutSession(bg, a, validSession(t, 1)))
		}
		require.NoError(t, d.Delete(bg))
		next := fresh(t, c, 1)
		var block atomic.Bool
		block.Store(true)
		kv.before.set(func(op string, b Batch) error {
			if op == "scan" && block.Load() {
				return ErrCorrupt // the purge ends at once
			}
			return nil
		})
		pair(t, next, testJID(2))
		login(t, next)
		synctest.Wait()
		require.NoError(t, c.Close(bg))
		require.Equal(t, 2, kv.count("session"))
		block.Store(false)
		kv.setEpoch(2)
		c2, again, _ := open(t, kv)
		require.Equal(t, testJID(2), *again.ID)
		synctest.Wait()
		require.NoError(t, c2.Close(bg))
		require.Zero(t, kv.count("session"))
	})
}

func TestSavingAnUnchangedDeviceCostsNothing(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	before := kv.commits.Load()
	require.NoError(t, d.Save(bg))
	require.Equal(t, before, kv.commits.Load())
}

func TestInfoDoesNoIOOnTheSteadyPath(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	gets, scans := kv.gets.Load(), kv.scans.Load()
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.Equal(t, gets+scans, kv.gets.Load()+kv.scans.Load())
	require.True(t, info.Exists)
	require.Positive(t, info.KeyCount)
	require.WithinDuration(t, time.Now(), info.LastWriteAt, time.Minute)

	cold := New(kv)
	info, err = cold.Info(bg)
	require.NoError(t, err)
	require.True(t, info.Exists)
	require.Equal(t, testJID(1), info.JID)
	require.Equal(t, -1, info.KeyCount)
}

func TestWhatRidesIsFlushedInTimeAndOnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		lid, pn := types.NewJID("9", types.HiddenUserServer), types.NewJID("8", types.DefaultUserServer)
		before := kv.commits.Load()
		require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
		_, _, err := d.Contacts.PutPushName(bg, pn, "Bob")
		require.NoError(t, err)
		require.Equal(t, before, kv.commits.Load())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, before+1, kv.commits.Load(), "one commit for both")
		for i := range 500 {
			_, _, err := d.Contacts.PutPushName(bg, testJID(i), "name")
			require.NoError(t, err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.LessOrEqual(t, kv.commits.Load(), before+2, "five hundred names are one commit")
		_, _, err = d.Contacts.PutPushName(bg, pn, "Bert")
		require.NoError(t, err)
		_, again, _ := reopen(t, kv, c)
		got, err := again.Contacts.GetContact(bg, pn)
		require.NoError(t, err)
		require.Equal(t, "Bert", got.PushName)
	})
}

func TestATransactionIsRolledBackByAnError(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	oops := errors.New("oops")
	before := kv.commits.Load()
	err := d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		require.NoError(t, d.Sessions.DeleteSession(ctx, "1:0"))
		v, err := d.Sessions.GetSession(ctx, "1:0")
		require.NoError(t, err)
		require.Nil(t, v, "it reads its own writes")
		return d.EventBuffer.DoDecryptionTxn(ctx, func(ctx context.Context) error {
			require.NoError(t, d.Identities.PutIdentity(ctx, "1:0", [32]byte{1}))
			ok, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
			require.NoError(t, err)
			require.True(t, ok, "nobody else sees them")
			return oops
		})
	})
	require.ErrorIs(t, err, oops)
	require.Equal(t, before, kv.commits.Load())
	v, err := d.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.EqualValues(t, 1, sessionCounter(t, v))
}

func TestFieldsOfANewerDeviceAreCarried(t *testing.T) {
	kv := newMapKV()
	c, _, _ := open(t, kv)
	require.NoError(t, c.Close(bg))
	// A newer whatsmeow saved a field that this one does not have.
	saved := storedDevice(t, kv)
	saved = strings.Replace(saved, `"jid"`, `"futureTop":{"a":1},"more":{"CompanionMetaNonce":"bm9uY2U="},"jid"`, 1)
	putDevice(t, kv, saved)
	_, d, _ := open(t, kv)
	d.PushName = "changed"
	require.NoError(t, d.Save(bg))
	after := storedDevice(t, kv)
	require.Contains(t, after, `"CompanionMetaNonce":"bm9uY2U="`)
	require.Contains(t, after, `"futureTop":{"a":1}`)
	require.Contains(t, after, "changed")
}

func deviceKey() Key { return Key{"device", "d0/device"} }

func storedDevice(t testing.TB, kv *mapKV) string {
	rec, err := codec{}.decode(deviceKey(), "device", []byte(kv.data[deviceKey()]))
	require.NoError(t, err)
	return string(rec.data)
}

func putDevice(t testing.TB, kv *mapKV, json string) {
	raw, err := codec{}.encode(deviceKey(), "device", false, []byte(json))
	require.NoError(t, err)
	kv.data[deviceKey()] = string(raw)
}

// Two devices never share a name for their rows, also if the record that counts
// them is taken away.
func TestNoGenerationComesTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		gen := randomGeneration(0)
		require.False(t, seen[gen])
		require.Regexp(t, `^d0-[a-z2-7]{10}$`, gen)
		seen[gen] = true
	}
}

// Rows without the record that says whose they are make no fresh device. What is
// put back works again.
func TestRowsWithoutTheirRecordAreNoFreshDevice(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, c.Close(bg))
	kv.mu.Lock()
	head := kv.data[headKey()]
	delete(kv.data, headKey())
	kv.mu.Unlock()
	_, err := New(kv).Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "restore that record")
	kv.mu.Lock()
	kv.data[headKey()] = head
	kv.mu.Unlock()
	next := New(kv)
	d, err = next.Device(bg, newFence(1))
	require.NoError(t, err)
	require.NotNil(t, d.ID)
	require.NoError(t, next.Close(bg))
}
