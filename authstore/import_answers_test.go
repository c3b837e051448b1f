package authstore

import (
	"bytes"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A device that moves from whatsmeow's own store says here what it said there, to
// each question that whatsmeow asks.
func TestDeviceFromSQLStoreGivesItsAnswersHere(t *testing.T) {
	db := sqlAt(sqlSchema)
	db.rows["sessions"][0]["session"] = validSession(t, 42)
	recently := time.Now().Unix()
	db.rows["privacy_tokens"][0]["timestamp"] = recently
	db.rows["retry_buffer"][0]["timestamp"] = time.Now().UnixMilli()
	for i, row := range db.rows["event_buffer"] {
		hash := [32]byte{byte(i + 1)}
		row["ciphertext_hash"] = hash[:]
		row["insert_timestamp"] = time.Now().UnixMilli()
	}
	kv := newMapKV()
	c := New(kv)
	source := db.source(t, "")
	r, err := Import(bg, source, c, newFence(1), SourceStopped())
	require.NoError(t, err)
	require.Equal(t, "whatsmeow's SQL store", r.From)
	require.Zero(t, source.db.Stats().InUse, "its transaction is over")
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	defer c.Close(bg)
	peer, lid := types.NewJID("15550009", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	group := types.NewJID("120363", types.GroupServer)

	require.Equal(t, sqlJID, d.ID.String())
	require.Equal(t, "9000:1@lid", d.LID.String())
	require.EqualValues(t, 7, d.RegistrationID)
	require.Equal(t, [3]string{"p", "b", "n"}, [3]string{d.Platform, d.BusinessName, d.PushName})
	require.Equal(t, []byte("d"), d.Account.Details)
	session, err := d.Sessions.GetSession(bg, "15550009:0")
	require.NoError(t, err)
	require.EqualValues(t, 42, sessionCounter(t, session))
	for key, want := range map[byte]bool{7: true, 8: false} {
		got, err := d.Identities.IsTrustedIdentity(bg, "15550009:0", [32]byte(bytes.Repeat([]byte{key}, 32)))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	key, err := d.PreKeys.GetPreKey(bg, 3)
	require.NoError(t, err)
	require.NotNil(t, key)
	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	next, err := d.PreKeys.GenOnePreKey(bg)
	require.NoError(t, err)
	require.Greater(t, next.KeyID, uint32(3+preKeyGap), "an id that may have been given out is not given out again")
	senderKey, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550009:0")
	require.NoError(t, err)
	require.Equal(t, validSenderKey([]byte("mark")), senderKey)
	appKey, err := d.AppStateKeys.GetAppStateSyncKey(bg, []byte{0, 1})
	require.NoError(t, err)
	require.Equal(t, &store.AppStateSyncKey{Data: []byte("data"), Fingerprint: []byte("print"), Timestamp: 9}, appKey)
	version, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
	require.NoError(t, err)
	require.EqualValues(t, 12, version)
	require.Equal(t, [128]byte(bytes.Repeat([]byte{5}, 128)), hash)
	mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", bytes.Repeat([]byte{6}, 32))
	require.NoError(t, err)
	require.Equal(t, "now", string(mac))
	contact, err := d.Contacts.GetContact(bg, peer)
	require.NoError(t, err)
	require.Equal(t, types.ContactInfo{Found: true, FirstName: "first", FullName: "full", PushName: "push", BusinessName: "business", RedactedPhone: "+1∙∙∙∙9"}, contact)
	chat, err := d.ChatSettings.GetChatSettings(bg, peer)
	require.NoError(t, err)
	require.Equal(t, types.LocalChatSettings{Found: true, MutedUntil: store.MutedForever, Pinned: true, Archived: true}, chat)
	token, err := d.PrivacyTokens.GetPrivacyToken(bg, peer)
	require.NoError(t, err)
	require.Equal(t, "token", string(token.Token))
	require.Equal(t, recently, token.Timestamp.Unix())
	got, err := d.LIDs.GetLIDForPN(bg, peer)
	require.NoError(t, err)
	require.Equal(t, lid, got)
	got, err = d.LIDs.GetPNForLID(bg, lid)
	require.NoError(t, err)
	require.Equal(t, peer, got)
	secret, sender, err := d.MsgSecrets.GetMessageSecret(bg, group, lid, "ID")
	require.NoError(t, err)
	require.Equal(t, "secret", string(secret))
	require.Equal(t, peer, sender)
	for hash, plaintext := range map[byte]string{1: "text", 2: "", 3: ""} {
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{hash})
		require.NoError(t, err)
		require.NotNil(t, e)
		require.Equal(t, plaintext, string(e.Plaintext))
		require.EqualValues(t, 1, e.ServerTime.Unix())
	}
	format, sent, err := storeOf(d).GetOutgoingEvent(bg, peer, types.EmptyJID, "ID")
	require.NoError(t, err)
	require.Equal(t, "fb", format)
	require.Equal(t, "sent", string(sent))
	salt, err := storeOf(d).GetNCTSalt(bg)
	require.NoError(t, err)
	require.Equal(t, "salt", string(salt))
	_, err = Export(bg, source, new(bytes.Buffer), archiveKey)
	require.NoError(t, err)
	require.Zero(t, source.db.Stats().InUse, "nor does a backup leave one behind")
}

// A dry run says truly what the move then does.
func TestDryRunSaysWhatTheImportWillDo(t *testing.T) {
	kv, f := source(t)
	for k, raw := range kv.data {
		if k.Kind == "session" && k.ID == "d0/15550103:0" {
			kv.data[k] = raw[:len(raw)-1] + "?"
		}
	}
	src := FromKV("the old store", kv, f)
	var steps []Progress
	dry, err := Import(bg, src, New(newMapKV()), newFence(1), DryRun(), OnProgress(func(p Progress) { steps = append(steps, p) }))
	require.NoError(t, err)
	var copied []Progress
	whole, err := Import(bg, src, New(newMapKV()), newFence(1), OnProgress(func(p Progress) {
		if p.Phase == "copy" && p.Done == p.Total && p.Kind != "message" {
			p.Bytes = 0
			copied = append(copied, p)
		}
	}))
	require.NoError(t, err)
	require.Equal(t, "the old store", dry.From)
	require.Equal(t, "the old store", whole.From)
	require.Equal(t, testJID(1), dry.JID)
	require.Equal(t, whole.Entries, dry.Entries)
	require.Equal(t, 29, dry.Entries["session"])
	require.NotContains(t, dry.Entries, Kind("part"))
	require.Equal(t, whole.Rows, dry.Rows)
	require.Equal(t, []string{"1 damaged rows of kind session were left out"}, dry.Warnings)
	require.Equal(t, dry.Warnings, whole.Warnings)
	require.Len(t, steps, importTables)
	for _, p := range steps {
		if p.Kind != "message" && p.Total > 0 {
			require.Contains(t, copied, p)
		}
	}

	var b bytes.Buffer
	hour := func() string { return time.Now().UTC().Format("2006-01-02T15") }
	began := hour()
	saved, err := Export(bg, src, &b, archiveKey)
	require.NoError(t, err)
	require.Equal(t, "the old store", saved.From)
	require.Equal(t, whole.Entries, saved.Entries)
	require.Equal(t, whole.Warnings, saved.Warnings)
	require.Equal(t, whole.Rows, saved.Rows)
	is := regexp.QuoteMeta(began) + "|" + regexp.QuoteMeta(hour())
	r, err := Restore(bg, &b, archiveKey, New(newMapKV()), newFence(1))
	require.NoError(t, err)
	require.Regexp(t, is, r.Warnings[0], "from when it is")
}
