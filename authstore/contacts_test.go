package authstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Each name and each setting comes by itself and leaves the others alone.
func TestNamesAndSettingsDoNotEraseEachOther(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	jid := testJID(2)
	want := types.ContactInfo{Found: true, FirstName: "Ann", FullName: "Ann Lee", PushName: "annie", BusinessName: "Ann's", RedactedPhone: "+1 5"}
	changed := func(changed bool, previous string, err error) string {
		t.Helper()
		require.NoError(t, err)
		require.True(t, changed)
		return previous
	}
	require.NoError(t, d.Contacts.PutContactName(bg, jid, "Ann", "Ann Lee"))
	require.Empty(t, changed(d.Contacts.PutPushName(bg, jid, "old")))
	require.Empty(t, changed(d.Contacts.PutBusinessName(bg, jid, "Ann's")))
	require.NoError(t, d.Contacts.PutManyRedactedPhones(bg, []store.RedactedPhoneEntry{{JID: jid, RedactedPhone: "+1 5"}}))
	require.Equal(t, "old", changed(d.Contacts.PutPushName(bg, jid, "annie")))
	require.NoError(t, d.Contacts.PutAllContactNames(bg, []store.ContactEntry{{JID: jid, FirstName: "Ann", FullName: "Ann Lee"}}))

	chat := testJID(3)
	until := time.Unix(2_000_000_000, 0)
	require.NoError(t, d.ChatSettings.PutPinned(bg, chat, true))
	require.NoError(t, d.ChatSettings.PutArchived(bg, chat, true))
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, until))
	require.NoError(t, d.ChatSettings.PutArchived(bg, chat, false))
	settings := func(muted time.Time) {
		t.Helper()
		s, err := d.ChatSettings.GetChatSettings(bg, chat)
		require.NoError(t, err)
		require.Equal(t, types.LocalChatSettings{Found: true, Pinned: true, MutedUntil: muted}, s)
	}
	settings(until)
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, store.MutedForever))
	settings(store.MutedForever)
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, time.Time{}))
	settings(time.Time{})

	_, d, _ = reopen(t, kv, c)
	settings(time.Time{})
	got, err := d.Contacts.GetContact(bg, jid)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
