package authstore

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// furnish puts something into every table.
func furnish(t testing.TB, d *store.Device) {
	t.Helper()
	for i := range 30 {
		addr := fmt.Sprintf("%d:0", 15550100+i)
		require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, uint32(i+1))))
		require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{byte(i)}))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "120363@g.us", addr, validSenderKey([]byte{1, byte(i)})))
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(i), testJID(2), types.MessageID(fmt.Sprint("M", i)), []byte{2, byte(i)}))
		_, _, err := d.Contacts.PutPushName(bg, testJID(i), fmt.Sprint("name ", i))
		require.NoError(t, err)
		require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID(fmt.Sprint(900+i), types.HiddenUserServer), types.NewJID(fmt.Sprint(15550100+i), types.DefaultUserServer)))
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{byte(i)}, []byte("plain"), time.Unix(1000, 0)))
		if i%2 == 0 {
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{byte(i)}))
		}
	}
	own := d.GetLID().SignalAddress().String()
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "120363@g.us", own, validSenderKey([]byte("own"))))
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 20)
	require.NoError(t, err)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[14].KeyID))
	require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{0, 1}, store.AppStateSyncKey{Data: []byte{3}, Fingerprint: []byte{4}, Timestamp: 5}))
	require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{8}))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 7, []store.AppStateMutationMAC{{IndexMAC: make([]byte, 32), ValueMAC: []byte{9}}}))
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, testJID(3), store.MutedForever))
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(4), Token: []byte("t"), Timestamp: time.Unix(6, 0)}))
	require.NoError(t, storeOf(d).AddOutgoingEvent(bg, testJID(5), "OUT", "wa", []byte("sent")))
	require.NoError(t, storeOf(d).c.PutMessageEntry(bg, "M", []byte("an entry"), true))
	require.NoError(t, storeOf(d).PutNCTSalt(bg, []byte("salt")))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(9), testJID(9), types.MessageID(strings.Repeat("é/", 700)), make([]byte, 5000)))
}

// source is a furnished account whose term goes on.
func source(t testing.TB, opts ...Option) (*mapKV, *testFence) {
	t.Helper()
	kv := newMapKV()
	kv.setEpoch(77)
	c, d, f := open(t, kv, opts...)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	return kv, f
}

// tables is everything that src gives.
func tables(t testing.TB, src Source) map[Kind]map[string][]byte {
	t.Helper()
	v, err := src.open(bg)
	require.NoError(t, err)
	defer v.close()
	out := make(map[Kind]map[string][]byte)
	for _, id := range importOrder() {
		im, err := v.table(bg, id)
		require.NoError(t, err)
		rows := maps.Clone(im.rowsIn(id))
		for k, v := range rows {
			if v == nil {
				rows[k] = []byte{}
			}
		}
		if len(rows) > 0 {
			out[specOf(id).kind] = rows
		}
	}
	return out
}

func TestASourceThatMayBeInUseIsRefused(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	_, err := Import(bg, FromKV("old", kv, nil), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	_, err = Import(bg, FromSQL(nil, types.JID{}), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	live, _, _ := open(t, newMapKV())
	_, err = Import(bg, FromContainer(live), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	require.Zero(t, to.commits.Load())

	_, err = Import(bg, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Phase == "verify" && p.Kind == "session" {
			f.lost.Store(true)
		}
	}))
	require.ErrorIs(t, err, ErrSourceInUse)
	d, err := New(to).Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
}

func TestASourceThatChangesIsNoticed(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	c, d, _ := open(t, kv)
	src := FromKV("old", kv, f)
	_, err := Import(bg, src, New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Phase == "verify" && p.Kind == "device" {
			require.NoError(t, d.Sessions.PutSession(bg, "15550100:0", validSession(t, 500)))
		}
	}))
	require.ErrorIs(t, err, ErrSourceChanged)
	fresh, err := New(to).Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, fresh.ID)
	require.NoError(t, c.Close(bg))

	r, err := Import(bg, src, New(to), newFence(1))
	require.NoError(t, err)
	require.True(t, r.Resumed)
	require.Less(t, r.Written, 5)
	require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1))))
}

func TestARetiredSourceLogsInNoMoreAndCanBeRestored(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	want := tables(t, src)
	_, err := Import(bg, src, New(newMapKV()), newFence(1), RetireSource())
	require.NoError(t, err)
	c := New(kv)
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.True(t, info.Deleted)
	require.Equal(t, "moved to another store", info.Reason)
	_, err = Import(bg, src, New(newMapKV()), newFence(1))
	require.ErrorIs(t, err, ErrNoDevice)
	require.NoError(t, c.Restore(bg, f))
	require.Equal(t, want, tables(t, src))
}

// furnishSome puts something into some tables.
func furnishSome(t *testing.T, d *store.Device) {
	t.Helper()
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte{1})))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("secret")))
	require.NoError(t, storeOf(d).flush("test"))
}
