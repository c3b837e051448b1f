package authstore

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// fill puts something into every table.
func fill(t testing.TB, d *store.Device) {
	t.Helper()
	user := types.NewJID("1", types.DefaultUserServer)
	lid := types.NewJID("900", types.HiddenUserServer)
	for i := range 3 {
		a := fmt.Sprintf("%d:0", i)
		require.NoError(t, d.Sessions.PutSession(bg, a, validSession(t, uint32(i))))
		require.NoError(t, d.Identities.PutIdentity(bg, a, [32]byte{byte(i)}))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", a, validSenderKey([]byte{1})))
	}
	_, err := d.PreKeys.GetOrGenPreKeys(bg, 70)
	require.NoError(t, err)
	require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{0, 1}, store.AppStateSyncKey{Data: []byte("d"), Timestamp: 3}))
	require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 4, [128]byte{1}))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 4, []store.AppStateMutationMAC{{IndexMAC: make([]byte, 32), ValueMAC: make([]byte, 32)}}))
	_, _, err = d.Contacts.PutPushName(bg, user, "Bob")
	require.NoError(t, err)
	require.NoError(t, d.ChatSettings.PutPinned(bg, user, true))
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: user, Token: []byte("t"), Timestamp: time.Unix(9, 0)}))
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, user))
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("secret text"), time.Unix(1, 0)))
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{2}, []byte("secret text"), time.Unix(1, 0)))
	require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{2}))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, user, user, "ID", []byte("msg secret")))
	require.NoError(t, storeOf(d).AddOutgoingEvent(bg, user, "OUT", "fmt", []byte("outgoing")))
	require.NoError(t, storeOf(d).c.PutMessageEntry(bg, "M", []byte("an entry"), true))
	require.NoError(t, storeOf(d).PutNCTSalt(bg, []byte("salt")))
}

func storeOf(d *store.Device) *deviceStore { return d.Sessions.(*deviceStore) }

// rowKey is where a row of d's stands.
func rowKey(d *store.Device, t tableID, id string) Key {
	k, _, _ := storeOf(d).keyOf(row{t, id})
	return k
}

// useAll reads every table.
func useAll(t testing.TB, d *store.Device) {
	t.Helper()
	user := types.NewJID("1", types.DefaultUserServer)
	for i := range 3 {
		a := fmt.Sprintf("%d:0", i)
		_, err := d.Sessions.GetManySessions(bg, []string{a})
		require.NoError(t, err)
		_, err = d.Identities.IsTrustedIdentity(bg, a, [32]byte{byte(i)})
		require.NoError(t, err)
		_, err = d.SenderKeys.GetSenderKey(bg, "g@g.us", a)
		require.NoError(t, err)
	}
	for _, err := range []error{
		second(d.PreKeys.GetOrGenPreKeys(bg, 2)), second(d.PreKeys.GetPreKey(bg, 1)), second(d.PreKeys.UploadedPreKeyCount(bg)),
		second(d.AppStateKeys.GetAppStateSyncKey(bg, []byte{0, 1})), second(d.AppStateKeys.GetLatestAppStateSyncKeyID(bg)),
		second(d.AppState.GetAppStateMutationMAC(bg, "regular", make([]byte, 32))),
		second(d.Contacts.GetContact(bg, user)), second(d.Contacts.GetAllContacts(bg)), second(d.ChatSettings.GetChatSettings(bg, user)),
		second(d.PrivacyTokens.GetPrivacyToken(bg, user)), second(d.LIDs.GetLIDForPN(bg, user)),
		second(d.EventBuffer.GetBufferedEvent(bg, [32]byte{1})), second(d.EventBuffer.GetBufferedEvent(bg, [32]byte{2})),
		second(storeOf(d).GetNCTSalt(bg)),
	} {
		require.NoError(t, err)
	}
	_, _, err := d.AppState.GetAppStateVersion(bg, "regular")
	require.NoError(t, err)
	_, _, err = d.MsgSecrets.GetMessageSecret(bg, user, user, "ID")
	require.NoError(t, err)
	_, _, err = storeOf(d).GetOutgoingEvent(bg, user, types.EmptyJID, "OUT")
	require.NoError(t, err)
	require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
	require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
}

func second[T any](_ T, err error) error { return err }

func filled(t testing.TB, opts ...Option) *mapKV {
	t.Helper()
	kv := newMapKV()
	c, d, _ := open(t, kv, opts...)
	fill(t, d)
	require.NoError(t, c.Close(bg))
	return kv
}

// Each row in turn is damaged in each way. The account goes on; the row is
// reported and kept, the credentials are an error and left as they are.
func TestOneDamagedRowNeverStopsTheAccount(t *testing.T) {
	kv := filled(t)
	kinds := make(map[Kind]bool)
	for key, good := range kv.data {
		kinds[key.Kind] = true
		for how, bad := range map[string]string{
			"truncated": good[:len(good)/2], "empty": "", "flipped": good[:len(good)-1] + string(good[len(good)-1]^1), "garbage": "\x01\x00garbage",
		} {
			synctest.Test(t, func(t *testing.T) {
				hurt := newMapKV()
				for k, v := range kv.data {
					hurt.data[k] = v
				}
				hurt.data[key] = bad
				var mu sync.Mutex
				var seen []Incident
				c := New(hurt, WithOnIncident(func(i Incident) { mu.Lock(); defer mu.Unlock(); seen = append(seen, i) }))
				defer func() { _ = c.Close(bg) }()
				d, err := c.Device(bg, newFence(1))
				if key.Kind == "account" || key.Kind == "device" {
					require.ErrorIs(t, err, ErrCorrupt, "%s %s", key.Kind, how)
					require.NoError(t, c.Close(bg))
					require.Equal(t, bad, hurt.data[key], "left untouched")
					require.Zero(t, hurt.commits.Load())
					return
				}
				require.NoError(t, err, "%s %s", key.Kind, how)
				useAll(t, d)
				fill2 := validSession(t, 3)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", fill2))
				require.NoError(t, c.Close(bg))
				require.NotEmpty(t, seen, "%s %s", key.Kind, how)
				require.ErrorIs(t, seen[0].Err, ErrCorrupt)
				require.Equal(t, 1, hurt.count(kindQuarantine), "%s %s", key.Kind, how)
			})
		}
	}
	require.Len(t, kinds, int(numTables), "every table has a row")
}

func TestANewerFormatIsNeverOverwritten(t *testing.T) {
	kv := filled(t)
	for key, good := range kv.data {
		if specOfKind(key.Kind).lazy {
			continue // found when it is read
		}
		newer := newMapKV()
		for k, v := range kv.data {
			newer.data[k] = v
		}
		newer.data[key] = "\x02" + good[1:]
		c := New(newer)
		_, err := c.Device(bg, newFence(1))
		require.ErrorIs(t, err, ErrNewerFormat, key.Kind)
		require.NoError(t, c.Close(bg))
		require.Zero(t, newer.commits.Load())
	}
}

func specOfKind(k Kind) spec {
	for t := range numTables {
		if sp := specOf(t); sp.kind == k {
			return sp
		}
	}
	panic(k)
}

// A session whose envelope is fine and whose content libsignal refuses would
// keep that peer from every message.
func TestASessionThatDoesNotParseIsSetAside(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", []byte("no session")))
	_, d, _ = reopen(t, kv, c)
	has, err := d.Sessions.HasSession(bg, "1:0")
	require.NoError(t, err)
	require.False(t, has)
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.Zero(t, kv.count("session"))
	require.NoError(t, sendStep(t, d, []string{"1:0"}, 0), "and is built again")
}

func TestSealedDataShowsNothingAndCannotBeMoved(t *testing.T) {
	key := NewAESGCM([32]byte{1})
	kv := filled(t, WithAEAD(key))
	for k, v := range kv.data {
		for _, secret := range []string{"secret text", "msg secret", "outgoing", "noiseKey", "Bob", "salt"} {
			require.NotContains(t, v, secret, k.Kind)
		}
	}
	kv.setEpoch(2)
	c, d, _ := open(t, kv, WithAEAD(key))
	useAll(t, d)
	require.NoError(t, c.Close(bg))

	_, err := New(kv).Device(bg, newFence(2))
	require.ErrorIs(t, err, ErrSealed)
	_, err = New(kv, WithAEAD(NewAESGCM([32]byte{2}))).Device(bg, newFence(2))
	require.ErrorIs(t, err, ErrWrongKey)

	a, b := rowKey(d, tSession, "1:0"), rowKey(d, tSession, "2:0")
	require.Contains(t, kv.data, a)
	kv.data[a] = kv.data[b]
	_, d, _ = open(t, kv, WithAEAD(key))
	v, err := d.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.Nil(t, v, "another's session is damage")
}

func TestPlainDataIsRefusedWhereSealingIsRequired(t *testing.T) {
	kv := filled(t)
	key := NewAESGCM([32]byte{1})
	_, err := New(kv, WithAEAD(key)).Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrNotSealed)
	c, d, _ := open(t, kv, WithAEAD(key), WithPlaintextAllowed())
	useAll(t, d)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 5)))
	require.NoError(t, c.Close(bg))
	raw := kv.data[Key{"session", "d0/1:0"}]
	require.EqualValues(t, flagSealed, raw[1]&flagSealed, "what is written is sealed")
}

// A value whose envelope is fine and whose content does not parse is set aside
// when somebody asks for it, from the table in which it stands, and only once.
func TestContentThatDoesNotParseIsSetAsideOnce(t *testing.T) {
	long := strings.Repeat("\xff", 12) // a number that does not end
	hash := [32]byte{7}
	event := func(d *store.Device) error { return second(d.EventBuffer.GetBufferedEvent(bg, hash)) }
	renamed := func(d *store.Device) error { // the version of whatsmeow before named it so
		ctx := WithDelivery(bg, &follower{others: [][32]byte{hash}})
		return second(d.EventBuffer.GetBufferedEvent(ctx, [32]byte{8}))
	}
	for name, c := range map[string]struct {
		bad change
		ask func(d *store.Device) error
	}{
		"an event":                           {put(tEvent, eventID(hash), []byte(long)), event},
		"a finished event":                   {change{table: tSeen, id: eventID(hash), bucket: "1-1", value: []byte(long)}, event},
		"an event with another name":         {put(tEvent, eventID(hash), []byte(long)), renamed},
		"a finished event with another name": {change{table: tSeen, id: eventID(hash), bucket: "1-1", value: []byte(long)}, renamed},
		"a session":                          {put(tSession, "1:0", []byte("no session")), func(d *store.Device) error { return second(d.Sessions.GetSession(bg, "1:0")) }},
		"sessions":                           {put(tSession, "1:0", []byte("no session")), func(d *store.Device) error { return second(d.Sessions.GetManySessions(bg, []string{"1:0"})) }},
		"a sender key":                       {put(tSenderKey, senderKeyID("1@g.us", "1:0"), []byte("no key")), func(d *store.Device) error { return second(d.SenderKeys.GetSenderKey(bg, "1@g.us", "1:0")) }},
		"an app state key":                   {put(tAppKey, "ID", []byte(long)), func(d *store.Device) error { return second(d.AppStateKeys.GetAppStateSyncKey(bg, []byte("ID"))) }},
		"an app state":                       {put(tAppState, "regular", []byte("short")), func(d *store.Device) error { _, _, err := d.AppState.GetAppStateVersion(bg, "regular"); return err }},
		"an outgoing event": {put(tOutgoing, outgoingID(testJID(2), "ID"), []byte(long)), func(d *store.Device) error {
			_, _, err := storeOf(d).GetOutgoingEvent(bg, testJID(2), types.EmptyJID, "ID")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				var rows []Kind
				told := WithOnIncident(func(i Incident) { rows = append(rows, i.Row) })
				c1, d, _ := open(t, kv, told)
				require.NoError(t, storeOf(d).submit("test", []change{c.bad}, Batch{}))
				kind := specOf(c.bad.table).kind
				require.Equal(t, 1, kv.count(kind))
				c1, d, _ = reopen(t, kv, c1, told)
				for range 3 {
					require.NoError(t, c.ask(d))
				}
				require.Equal(t, []Kind{kind}, rows, "told once")
				require.Zero(t, kv.count(kind))
				c1, d, _ = reopen(t, kv, c1, told)
				require.NoError(t, c.ask(d))
				require.Equal(t, []Kind{kind}, rows)
				q, err := c1.Quarantined(bg)
				require.NoError(t, err)
				require.Len(t, q.Rows, 1)
				require.Equal(t, kind, q.Rows[0].Kind)
				require.Equal(t, len(c.bad.value), q.Rows[0].Size)
				require.NoError(t, c1.Close(bg))
			})
		})
	}
}

// Ids from strangers, of any content and length.
func TestAnyIDIsHarmless(t *testing.T) {
	keepApart(t, "~x", "a/b:0", "ü:0", "\x00:0", strings.Repeat("x", 5000)+":0", " ", "a b", "\xff\xfe", "~"+strings.Repeat("0", 64))
}

func FuzzIDs(f *testing.F) {
	f.Add("a", "A")
	f.Add("1:0", "1:0/")
	f.Add("~x", "\x00")
	f.Add(strings.Repeat("x", 300), strings.Repeat("x", 301))
	f.Add("a@b", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && a != "" && b != "" {
			keepApart(t, a, b)
		}
	})
}

// keepApart uses every id wherever an id comes from outside, and finds under
// each what was put there, by the next process too.
func keepApart(t *testing.T, ids ...string) {
	for _, opts := range [][]Option{nil, {WithAEAD(NewAESGCM([32]byte{3}))}} {
		kv := newMapKV()
		c, d, _ := open(t, kv, opts...)
		for i, a := range ids {
			require.NoError(t, d.Sessions.PutSession(bg, a, validSession(t, uint32(i+1))))
			require.NoError(t, d.Identities.PutIdentity(bg, a, [32]byte{byte(i)}))
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, a, a, validSenderKey([]byte{byte(i)})))
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, types.NewJID(a, a), types.NewJID(a, a), types.MessageID(a), []byte{byte(i)}))
			require.NoError(t, d.AppState.PutAppStateVersion(bg, a, uint64(i+1), [128]byte{}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, a, 1, []store.AppStateMutationMAC{{IndexMAC: []byte(a), ValueMAC: []byte(a)}}))
			require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("l"+a, types.HiddenUserServer), types.NewJID(a, types.DefaultUserServer)))
			_, _, err := d.Contacts.PutPushName(bg, types.NewJID(a, types.DefaultUserServer), "name of "+a)
			require.NoError(t, err)
		}
		c, d, _ = reopen(t, kv, c, opts...)
		for i, a := range ids {
			v, err := d.Sessions.GetSession(bg, a)
			require.NoError(t, err)
			require.EqualValues(t, i+1, sessionCounter(t, v), "%q", a)
			trusted, err := d.Identities.IsTrustedIdentity(bg, a, [32]byte{byte(i)})
			require.NoError(t, err)
			require.True(t, trusted, "%q", a)
			k, err := d.SenderKeys.GetSenderKey(bg, a, a)
			require.NoError(t, err)
			require.Equal(t, validSenderKey([]byte{byte(i)}), k)
			secret, _, err := d.MsgSecrets.GetMessageSecret(bg, types.NewJID(a, a), types.NewJID(a, a), types.MessageID(a))
			require.NoError(t, err)
			require.Equal(t, []byte{byte(i)}, secret, "%q", a)
			mac, err := d.AppState.GetAppStateMutationMAC(bg, a, []byte(a))
			require.NoError(t, err)
			require.Equal(t, []byte(a), mac, "%q", a)
			lid, err := d.LIDs.GetLIDForPN(bg, types.NewJID(a, types.DefaultUserServer))
			require.NoError(t, err)
			require.Equal(t, "l"+a, lid.User)
			contact, err := d.Contacts.GetContact(bg, types.NewJID(a, types.DefaultUserServer))
			require.NoError(t, err)
			require.Equal(t, "name of "+a, contact.PushName, "%q", a)
		}
		require.NoError(t, c.Close(bg))
	}
}
