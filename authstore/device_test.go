package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A device whose first save failed is none: rows that it left would be those of
// a device that no record names, and the account would not start.
func TestFailedPairingLeavesNothing(t *testing.T) {
	kv := newMapKV()
	c := New(kv)
	f := newFence(kv.epoch)
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	kv.refuse("device")
	jid := testJID(1)
	d.ID = &jid
	require.ErrorIs(t, d.Save(bg), ErrTooLarge)
	require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrNotSaved)
	require.ErrorIs(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}), ErrNotSaved)
	kv.before.set(nil)
	require.Empty(t, kv.data)
	again, err := New(kv).Device(bg, newFence(kv.epoch))
	require.NoError(t, err)
	require.Nil(t, again.ID)

	pair(t, d, jid) // the phone tries again
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, c.Close(bg))
}

// The reason of a deletion is that of its own.
func TestReasonBelongsToOneDeletion(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	reason := func() string {
		t.Helper()
		info, err := New(kv).Info(bg)
		require.NoError(t, err)
		require.True(t, info.Deleted)
		return info.Reason
	}
	c.SetDeleteReason("logged out")
	require.NoError(t, d.Delete(bg))
	require.Equal(t, "logged out", reason())
	require.NoError(t, c.Restore(bg, f))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	require.NoError(t, d.Delete(bg))
	require.Empty(t, reason())
}

// After Close nobody would save what a device defers, so there is none, whether
// one was given out before or not.
func TestClosedContainerGivesOutNoDevice(t *testing.T) {
	for _, used := range []bool{false, true} {
		kv := newMapKV()
		c := New(kv)
		if used {
			require.NoError(t, second(c.Device(bg, newFence(kv.epoch))))
		}
		require.NoError(t, c.Close(bg))
		_, err := c.Device(bg, newFence(kv.epoch))
		require.ErrorIs(t, err, ErrSuperseded)
	}
}
