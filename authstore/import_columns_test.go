package authstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Two columns of one type are easily mistaken for each other, and the comparison
// with the source, which reads them in the same way, does not notice.
func TestEachColumnOfSQLStoreComesToItsPlace(t *testing.T) {
	filled := func(n int, b byte) []byte {
		out := make([]byte, n)
		for i := range out {
			out[i] = b
		}
		return out
	}
	const chat, sender = "15550009@s.whatsapp.net", "15550008@s.whatsapp.net"
	inserted, server := time.Now().Add(-time.Hour).Truncate(time.Millisecond), time.Now().Add(-2*time.Hour).Truncate(time.Second)
	muted := time.Now().Add(time.Hour).Truncate(time.Second)
	open, finished := [32]byte{1}, [32]byte{2}
	db := sqlAt(sqlSchema)
	db.rows["device"] = []map[string]any{{
		"jid": sqlJID, "lid": "9000:1@lid", "facebook_uuid": nil, "registration_id": int64(7),
		"noise_key": filled(32, 1), "identity_key": filled(32, 2), "signed_pre_key": filled(32, 3),
		"signed_pre_key_id": int64(9), "signed_pre_key_sig": filled(64, 4),
		"adv_key": filled(32, 5), "adv_details": filled(8, 6), "adv_account_sig": filled(64, 7),
		"adv_account_sig_key": filled(32, 8), "adv_device_sig": filled(64, 9),
		"platform": "platform", "business_name": "business", "push_name": "push", "lid_migration_ts": int64(11), "companion_meta_nonce": "",
	}}
	db.rows["identity_keys"] = []map[string]any{{"their_id": "15550009:0", "identity": filled(32, 12)}}
	db.rows["app_state_sync_keys"] = []map[string]any{
		{"key_id": []byte("key"), "key_data": []byte("data"), "timestamp": int64(13), "fingerprint": []byte("print")}}
	db.rows["app_state_version"] = []map[string]any{{"name": "regular", "version": int64(14), "hash": filled(128, 15)}}
	db.rows["app_state_mutation_macs"] = []map[string]any{
		{"name": "regular", "version": int64(14), "index_mac": []byte("index"), "value_mac": []byte("value")}}
	db.rows["chat_settings"] = []map[string]any{
		{"chat_jid": chat, "muted_until": muted.Unix(), "pinned": true, "archived": false},
		{"chat_jid": sender, "muted_until": int64(-1), "pinned": false, "archived": true}}
	db.rows["message_secrets"] = []map[string]any{{"chat_jid": chat, "sender_jid": sender, "message_id": "ID", "key": filled(32, 16)}}
	db.rows["event_buffer"] = []map[string]any{
		{"ciphertext_hash": open[:], "plaintext": []byte("text"), "server_timestamp": server.Unix(), "insert_timestamp": inserted.UnixMilli()},
		{"ciphertext_hash": finished[:], "plaintext": nil, "server_timestamp": server.Unix(), "insert_timestamp": inserted.UnixMilli()}}

	c := New(newMapKV())
	f := newFence(1)
	_, err := Import(bg, db.source(t, ""), c, f, SourceStopped())
	require.NoError(t, err)
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(bg) })

	require.Equal(t, filled(32, 1), d.NoiseKey.Priv[:])
	require.Equal(t, filled(32, 2), d.IdentityKey.Priv[:])
	require.Equal(t, filled(32, 3), d.SignedPreKey.Priv[:])
	require.EqualValues(t, 9, d.SignedPreKey.KeyID)
	require.Equal(t, filled(64, 4), d.SignedPreKey.Signature[:])
	require.Equal(t, filled(32, 5), d.AdvSecretKey)
	require.Equal(t, filled(8, 6), d.Account.Details)
	require.Equal(t, filled(64, 7), d.Account.AccountSignature)
	require.Equal(t, filled(32, 8), d.Account.AccountSignatureKey)
	require.Equal(t, filled(64, 9), d.Account.DeviceSignature)
	require.EqualValues(t, 7, d.RegistrationID)
	require.EqualValues(t, 11, d.LIDMigrationTimestamp)
	require.Equal(t, []string{"platform", "business", "push"}, []string{d.Platform, d.BusinessName, d.PushName})

	ok, err := d.Identities.IsTrustedIdentity(bg, "15550009:0", [32]byte(filled(32, 13)))
	require.NoError(t, err)
	require.False(t, ok)
	key, err := d.AppStateKeys.GetAppStateSyncKey(bg, []byte("key"))
	require.NoError(t, err)
	require.Equal(t, &store.AppStateSyncKey{Data: []byte("data"), Fingerprint: []byte("print"), Timestamp: 13}, key)
	version, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
	require.NoError(t, err)
	require.EqualValues(t, 14, version)
	require.Equal(t, filled(128, 15), hash[:])
	mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte("index"))
	require.NoError(t, err)
	require.Equal(t, "value", string(mac))

	jid := func(s string) types.JID {
		j, err := types.ParseJID(s)
		require.NoError(t, err)
		return j
	}
	contact, err := d.Contacts.GetContact(bg, jid(chat))
	require.NoError(t, err)
	require.Equal(t, types.ContactInfo{Found: true, FirstName: "first", FullName: "full", PushName: "push",
		BusinessName: "business", RedactedPhone: "+1∙∙∙∙9"}, contact)
	settings, err := d.ChatSettings.GetChatSettings(bg, jid(chat))
	require.NoError(t, err)
	require.Equal(t, types.LocalChatSettings{Found: true, MutedUntil: muted, Pinned: true}, settings)
	settings, err = d.ChatSettings.GetChatSettings(bg, jid(sender))
	require.NoError(t, err)
	require.Equal(t, types.LocalChatSettings{Found: true, MutedUntil: store.MutedForever, Archived: true}, settings)
	secret, _, err := d.MsgSecrets.GetMessageSecret(bg, jid(chat), jid(sender), "ID")
	require.NoError(t, err)
	require.Equal(t, filled(32, 16), secret)

	for hash, plaintext := range map[[32]byte][]byte{open: []byte("text"), finished: nil} {
		e, err := d.EventBuffer.GetBufferedEvent(bg, hash)
		require.NoError(t, err)
		require.Equal(t, &store.BufferedEvent{Plaintext: plaintext, InsertTime: inserted, ServerTime: server}, e)
	}
	require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
	e, err := d.EventBuffer.GetBufferedEvent(bg, finished)
	require.NoError(t, err)
	require.NotNil(t, e, "handled an hour ago: the service may deliver it again")
}
