package authstore

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"google.golang.org/protobuf/proto"
)

// Without one of its fields a device logs in no more, or no message to it can be
// decrypted.
func TestEveryFieldOfADeviceIsSaved(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	pair(t, d, testJID(1))
	require.True(t, d.Initialized)
	d.Account.AccountSignature[1], d.Account.AccountSignatureKey[1], d.Account.DeviceSignature[1] = 1, 2, 3
	d.SignedPreKey = d.IdentityKey.CreateSignedPreKey(7)
	d.Platform, d.BusinessName, d.PushName, d.LIDMigrationTimestamp, d.FacebookUUID = "android", "Shop", "Ann", 5, uuid.New()
	require.NoError(t, d.Save(bg))
	saved := d
	_, d, _ = reopen(t, kv, c)
	require.True(t, d.Initialized)
	require.Equal(t, saved.NoiseKey, d.NoiseKey)
	require.Equal(t, saved.IdentityKey, d.IdentityKey)
	require.Equal(t, saved.SignedPreKey, d.SignedPreKey)
	require.Equal(t, saved.RegistrationID, d.RegistrationID)
	require.Equal(t, saved.AdvSecretKey, d.AdvSecretKey)
	require.Equal(t, saved.ID, d.ID)
	require.Equal(t, saved.LID, d.LID)
	require.True(t, proto.Equal(saved.Account, d.Account))
	require.Equal(t, []any{saved.Platform, saved.BusinessName, saved.PushName, saved.LIDMigrationTimestamp, saved.FacebookUUID},
		[]any{d.Platform, d.BusinessName, d.PushName, d.LIDMigrationTimestamp, d.FacebookUUID})
	for _, s := range []any{d.Identities, d.Sessions, d.PreKeys, d.SenderKeys, d.AppStateKeys, d.AppState, d.Contacts,
		d.ChatSettings, d.MsgSecrets, d.PrivacyTokens, d.EventBuffer, d.LIDs, d.Container} {
		require.Same(t, d.Sessions, s)
	}
}

// Two devices that share a secret could read each other's messages.
func TestNewDevicesShareNothing(t *testing.T) {
	fresh := func() *store.Device {
		c := New(newMapKV())
		t.Cleanup(func() { _ = c.Close(bg) })
		d, err := c.Device(bg, newFence(1))
		require.NoError(t, err)
		return d
	}
	a, b := fresh(), fresh()
	require.NotZero(t, a.RegistrationID)
	require.NotEqual(t, a.RegistrationID, b.RegistrationID)
	require.NotEqual(t, a.AdvSecretKey, b.AdvSecretKey)
	require.Len(t, a.AdvSecretKey, 32)
	require.NotEqual(t, a.NoiseKey.Priv, b.NoiseKey.Priv)
	require.NotEqual(t, a.IdentityKey.Priv, b.IdentityKey.Priv)
}

// A record that names the device and is damaged is no reason for a new device,
// and nothing is written over it.
func TestDamagedRecordOfTheAccountIsNoFreshDevice(t *testing.T) {
	whole := filled(t)
	c := New(whole)
	raw, err := c.cfg.codec.decode(headKey(), headID, []byte(whole.data[headKey()]))
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(raw.data, &fields))
	with := func(name string, value any) string {
		changed := make(map[string]any)
		for k, v := range fields {
			changed[k] = v
		}
		changed[name] = value
		b, err := json.Marshal(changed)
		require.NoError(t, err)
		return string(b)
	}
	for name, text := range map[string]string{
		"no record": "{", "no generation": with("gen", ""), "no state": with("state", ""), "unknown state": with("state", "half"),
		"short key of names": with("names", map[string]any{"key": []byte("short")}),
	} {
		kv := newMapKV()
		for k, v := range whole.data {
			kv.data[k] = v
		}
		value, err := c.cfg.codec.wrap(headKey(), 0, []byte(text))
		require.NoError(t, err)
		kv.data[headKey()] = string(value)
		before := len(kv.data)
		for range 2 {
			c := New(kv)
			_, err = c.Device(bg, newFence(kv.epoch))
			require.ErrorIs(t, err, ErrCorrupt, name)
			require.ErrorContains(t, err, "restore a backup", name)
			_, err = c.Info(bg)
			require.ErrorIs(t, err, ErrCorrupt, name)
			require.NoError(t, c.Close(bg))
			require.Zero(t, kv.commits.Load(), name)
		}
		require.Len(t, kv.data, before)
	}

	// A note of a newer library beside it outlives whatever this one does.
	value, err := c.cfg.codec.wrap(headKey(), 0, []byte(with("newer", "kept")))
	require.NoError(t, err)
	whole.data[headKey()] = string(value)
	c, d, f := open(t, whole)
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.Restore(bg, f))
	rec, err := c.cfg.codec.decode(headKey(), headID, []byte(whole.data[headKey()]))
	require.NoError(t, err)
	require.Contains(t, string(rec.data), `"newer":"kept"`)
}

// A device that was purged, or that another number replaced, leaves no rows.
func TestReplacedDeviceLeavesNoRows(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	fill(t, d)
	first := storeOf(d).gen
	pair(t, d, testJID(2))
	second := storeOf(d).gen
	require.NotEqual(t, first, second)
	c.cfg.background.Wait()
	for k := range kv.data {
		require.False(t, strings.HasPrefix(k.ID, first+"/"), "%s %s", k.Kind, k.ID)
	}
	login(t, d)
	_, d, _ = reopen(t, kv, c)
	require.Equal(t, second, storeOf(d).gen)
	h, err := New(kv).readHead(bg)
	require.NoError(t, err)
	require.Empty(t, h.Purge)
}

// The names of rows are those of the account's record: after a pairing that
// failed, what is written for the account is found again.
func TestFailedPairingLeavesTheNamesOfRows(t *testing.T) {
	kv := newMapKV()
	c := New(kv, nameSeal)
	d, err := c.Device(bg, newFence(kv.epoch))
	require.NoError(t, err)
	kv.refuse("device")
	jid := testJID(1)
	d.ID = &jid
	require.ErrorIs(t, d.Save(bg), ErrTooLarge)
	require.Nil(t, d.Container.(*deviceStore).names.Load())
	kv.before.set(nil)
	require.NoError(t, c.PutMessageEntry(bg, "a", []byte("kept"), true))
	require.NoError(t, c.Close(bg))
	kv.setEpoch(2)
	c = New(kv, nameSeal)
	_, err = c.Device(bg, newFence(2))
	require.NoError(t, err)
	got, err := c.MessageEntries(bg)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a": []byte("kept")}, got)
	require.NoError(t, c.Close(bg))
}
