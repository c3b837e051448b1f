package authstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A handler may still run when its device is over. The device in its place must
// hear that the message was handled, or it is handed over again.
func TestHandlerOfAnEndedDeviceIsHeard(t *testing.T) {
	kv := newMapKV()
	c, old, f := open(t, kv)
	require.NoError(t, old.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("hello"), time.Unix(1, 0)))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	require.NoError(t, old.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}))
	finished := func() {
		t.Helper()
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{1})
		require.NoError(t, err)
		require.NotNil(t, e)
		require.Nil(t, e.Plaintext)
	}
	finished()
	_, d, _ = reopen(t, kv, c)
	finished()
	require.ErrorIs(t, old.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}), ErrSuperseded, "nobody to tell")
}

// A goroutine that begins a send has given its last one up.
func TestNextSendFreesWhatAFailedOneHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		for _, addr := range []string{"1:0", "2:0", "3:0"} {
			require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, 1)))
		}
		_, err := d.Sessions.GetManySessions(bg, []string{"1:0", "2:0"}) // and nothing comes of it
		require.NoError(t, err)
		_, err = d.Sessions.GetManySessions(bg, []string{"3:0"})
		require.NoError(t, err)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- receiveStep(t, d, "1:0", 0) }()
		require.NoError(t, <-done)
		require.Zero(t, time.Since(began))
	})
}

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

// Of more sent messages than are kept the oldest go: contacts ask again for what
// came last.
func TestOldestOutgoingEventsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		s := storeOf(d)
		const more = 3
		for i := range outgoingMost + more {
			require.NoError(t, s.AddOutgoingEvent(bg, testJID(2), types.MessageID(fmt.Sprint(i)), "wa", []byte("sent")))
			time.Sleep(time.Millisecond)
		}
		_, d, _ = reopen(t, kv, c)
		s = storeOf(d)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(2 * lazily)
		synctest.Wait()
		require.Equal(t, outgoingMost, kv.count("outgoing"))
		for _, i := range []int{0, more - 1, more, outgoingMost + more - 1} {
			_, text, err := s.GetOutgoingEvent(bg, testJID(2), types.EmptyJID, types.MessageID(fmt.Sprint(i)))
			require.NoError(t, err)
			require.Equal(t, i >= more, text != nil, "event %d", i)
		}
	})
}

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

// The phone may send an old key again.
func TestOlderAppStateKeyDoesNotReplaceANewer(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	put := func(at int64) {
		require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{1}, store.AppStateSyncKey{Data: []byte{byte(at)}, Timestamp: at}))
	}
	for _, c := range []struct{ put, want int64 }{{5, 5}, {3, 5}, {5, 5}, {6, 6}} {
		put(c.put)
		k, err := d.AppStateKeys.GetAppStateSyncKey(bg, []byte{1})
		require.NoError(t, err)
		require.Equal(t, c.want, k.Timestamp)
		require.Equal(t, []byte{byte(c.want)}, k.Data)
	}
}

// The first secret of a message counts, whatever the numbers of the terms are.
func TestFirstSecretCountsAcrossTerms(t *testing.T) {
	kv := newMapKV()
	kv.setEpoch(14)
	c, d, _ := open(t, kv)
	for i := range 4 { // 14 and 15 have one digit, 16 and 17 have two
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)), []byte{byte(i)}))
		c, d, _ = reopen(t, kv, c)
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)), []byte("later")))
		require.NoError(t, storeOf(d).flush("t"))
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)))
		require.NoError(t, err)
		require.Equal(t, []byte{byte(i)}, secret, "term %d", 14+i)
	}
}

// What stands under a number moves to its LID: sessions, identities and sender
// keys of every device, and nothing of anybody else.
func TestMigrationTakesEverythingOfEveryDevice(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	other := types.NewJID("155500020", types.DefaultUserServer)
	at := func(j types.JID, device uint16) string {
		j.Device = device
		return j.SignalAddress().String()
	}
	put := func(addr string, n byte) {
		require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, uint32(n))))
		require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{n}))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", addr, validSenderKey([]byte{n})))
	}
	has := func(addr string, n byte) {
		t.Helper()
		v, err := d.Sessions.GetSession(bg, addr)
		require.NoError(t, err)
		key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", addr)
		require.NoError(t, err)
		ours, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{n})
		require.NoError(t, err)
		require.True(t, ours)
		strange, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{200})
		require.NoError(t, err)
		if n == 0 {
			require.Nil(t, v)
			require.Nil(t, key)
			require.True(t, strange, "an identity that is not known")
			return
		}
		require.EqualValues(t, n, sessionCounter(t, v))
		require.Equal(t, validSenderKey([]byte{n}), key)
		require.False(t, strange, "a changed identity is noticed")
	}
	put(at(pn, 0), 1)
	put(at(pn, 3), 2)
	put(at(lid, 3), 3) // an older one, which the number's replaces
	put(at(other, 0), 4)
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	for range 2 {
		has(at(lid, 0), 1)
		has(at(lid, 3), 2)
		has(at(pn, 0), 0)
		has(at(pn, 3), 0)
		has(at(other, 0), 4)
		c, d, _ = reopen(t, kv, c)
	}
}
