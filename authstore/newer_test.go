package authstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"
)

// The store interfaces of whatsmeow at 2026-08-21, as far as they have more
// than those of 2025-12-17.
type (
	newestAppStateSyncKeyStore interface {
		store.AppStateSyncKeyStore
		GetAllAppStateSyncKeys(ctx context.Context) ([]*store.AppStateSyncKey, error)
	}
	newestPrivacyTokenStore interface {
		PutPrivacyTokens(ctx context.Context, tokens ...store.PrivacyToken) error
		GetPrivacyToken(ctx context.Context, user types.JID) (*store.PrivacyToken, error)
		DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error)
	}
	newestNCTSaltStore interface {
		PutNCTSalt(ctx context.Context, salt []byte) error
		GetNCTSalt(ctx context.Context) ([]byte, error)
		DeleteNCTSalt(ctx context.Context) error
	}
	newestEventBuffer interface {
		GetBufferedEvent(ctx context.Context, ciphertextHash [32]byte) (*store.BufferedEvent, error)
		PutBufferedEvent(ctx context.Context, ciphertextHash [32]byte, plaintext []byte, serverTimestamp time.Time) error
		DoDecryptionTxn(ctx context.Context, fn func(context.Context) error) error
		ClearBufferedEventPlaintext(ctx context.Context, ciphertextHash [32]byte) error
		DeleteOldBufferedHashes(ctx context.Context) error
		GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (string, []byte, error)
		AddOutgoingEvent(ctx context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error
		DeleteOldOutgoingEvents(ctx context.Context) error
	}
)

func TestStoreHasMethodsOfNewestWhatsmeow(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for name, s := range map[string]any{"keys": d.AppStateKeys, "tokens": d.PrivacyTokens, "events": d.EventBuffer} {
		for what, ok := range map[string]bool{
			"keys": is[newestAppStateSyncKeyStore](s), "tokens": is[newestPrivacyTokenStore](s),
			"salt": is[newestNCTSaltStore](s), "events": is[newestEventBuffer](s), "all": is[store.AllStores](s),
		} {
			require.True(t, ok, "%s: %s", name, what)
		}
	}
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

func storedToken(t *testing.T, d *store.Device, user types.JID) token {
	t.Helper()
	v, ok := storeOf(d).get(bg, tToken, user.ToNonAD().String())
	require.True(t, ok)
	tok, err := parseToken(v)
	require.NoError(t, err)
	return tok
}

func TestTokenWithoutSenderTimeKeepsStoredOne(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	user := testJID(4)
	require.NoError(t, storeOf(d).later(bg, "put", soon, put(tToken, user.ToNonAD().String(), token{at: 100, sent: 90, bytes: []byte("a")}.value())))

	notified := func(at int64, text string) store.PrivacyToken {
		return store.PrivacyToken{User: user, Token: []byte(text), Timestamp: time.Unix(at, 0)}
	}
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, notified(200, "b")))
	require.Equal(t, token{200, 90, []byte("b")}, storedToken(t, d, user))
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, notified(150, "older"), notified(200, "same time"), notified(300, "c")))
	require.Equal(t, token{300, 90, []byte("c")}, storedToken(t, d, user))
	require.NoError(t, storeOf(d).DoDecryptionTxn(bg, func(ctx context.Context) error {
		return d.PrivacyTokens.PutPrivacyTokens(ctx, notified(400, "d"))
	}))
	require.Equal(t, token{400, 90, []byte("d")}, storedToken(t, d, user))

	_, d, _ = reopen(t, kv, c)
	require.Equal(t, token{400, 90, []byte("d")}, storedToken(t, d, user))

	field, ok := reflect.TypeFor[store.PrivacyToken]().FieldByName(senderTimestamp)
	if !ok {
		return // this whatsmeow has no such field
	}
	set := func(tok store.PrivacyToken, at time.Time) store.PrivacyToken {
		reflect.ValueOf(&tok).Elem().FieldByIndex(field.Index).Set(reflect.ValueOf(at))
		return tok
	}
	got, err := d.PrivacyTokens.GetPrivacyToken(bg, user)
	require.NoError(t, err)
	require.Equal(t, set(notified(400, "d"), time.Unix(90, 0)).Token, got.Token)
	require.Equal(t, time.Unix(90, 0), reflect.ValueOf(got).Elem().FieldByIndex(field.Index).Interface())
	// A history sync says 1970 where the sender has none.
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, set(notified(500, "e"), time.Unix(0, 0))))
	require.EqualValues(t, 90, storedToken(t, d, user).sent)
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, set(notified(500, "e"), time.Unix(480, 0))))
	require.EqualValues(t, 480, storedToken(t, d, user).sent)
}

func TestExpiredTokensGoByWholeSeconds(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for i := range int64(4) {
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(int(i)), Token: []byte("t"), Timestamp: time.Unix(100+i, 0)}))
	}
	n, err := storeOf(d).DeleteExpiredPrivacyTokens(bg, time.Unix(102, 500))
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	for i, want := range []bool{false, false, true, true} {
		got, err := d.PrivacyTokens.GetPrivacyToken(bg, testJID(i))
		require.NoError(t, err)
		require.Equal(t, want, got != nil, i)
	}
}

func TestAppStateKeysAreListedNewestFirst(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for _, at := range []int64{30, 10, 50, 20, 40, 50} {
		id := []byte{byte(at), byte(len(fmt.Sprint(at)))}
		require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, id, store.AppStateSyncKey{Data: id, Fingerprint: []byte{1}, Timestamp: at}))
	}
	all, err := storeOf(d).GetAllAppStateSyncKeys(bg)
	require.NoError(t, err)
	var times []int64
	for _, k := range all {
		times = append(times, k.Timestamp)
	}
	require.Equal(t, []int64{50, 40, 30, 20, 10}, times)
	latest, err := d.AppStateKeys.GetLatestAppStateSyncKeyID(bg)
	require.NoError(t, err)
	require.Equal(t, all[0].Data, latest)
}

// futureDevice is a store.Device as it may become.
type futureDevice struct {
	Platform           string // known: not for the unknown fields
	Deleted            bool   // known, too
	CompanionMetaNonce string
	Flag               bool
	Level              int32
	Share              float64
	Raw                []byte
	Names              []string
	Sum                [4]byte
	Limits             map[string]int
	Nested             struct{ A, B int }
	Pointer            *struct{ Name string }
	Peer               types.JID
	Other              *types.JID
	Since              time.Time
	Identity           *waAdv.ADVSignedDeviceIdentity
	Store              store.SessionStore // no data
	Hook               func()             // no data
	unexported         int
}

func TestUnknownFieldsOfEveryKindSurvive(t *testing.T) {
	peer := testJID(3)
	d := futureDevice{
		Platform: "p", Deleted: true, CompanionMetaNonce: "nonce", Flag: true, Level: -3, Share: 0.5, Raw: []byte{0, 255},
		Names: []string{"a", "b"}, Sum: [4]byte{1, 2}, Limits: map[string]int{"x": 1}, Nested: struct{ A, B int }{1, 2},
		Pointer: &struct{ Name string }{"n"}, Peer: peer, Other: &peer, Since: time.Unix(1000, 5).UTC(),
		Identity: &waAdv.ADVSignedDeviceIdentity{Details: []byte("details"), DeviceSignature: make([]byte, 64)},
		Hook:     func() {}, unexported: 1,
	}
	require.Empty(t, unsavable(&d))
	more := saveUnknownFields(&d, nil)
	for _, name := range []string{"Platform", "Deleted", "Store", "Hook", "unexported"} {
		require.NotContains(t, more, name)
	}
	text, err := json.Marshal(savedDevice{More: more})
	require.NoError(t, err)
	var saved savedDevice
	require.NoError(t, json.Unmarshal(text, &saved))

	var back futureDevice
	loadUnknownFields(&back, saved.More)
	require.True(t, proto.Equal(d.Identity, back.Identity))
	want := d
	want.Platform, want.Deleted, want.Hook, want.unexported = "", false, nil, 0
	want.Identity, back.Identity = nil, nil
	require.Equal(t, want, back)

	// An instance with an older whatsmeow saves the device in between.
	var old struct{ Flag bool }
	loadUnknownFields(&old, saved.More)
	require.True(t, old.Flag)
	old.Flag = false
	more = saveUnknownFields(&old, saved.More)
	require.NotContains(t, more, "Flag")
	delete(saved.More, "Flag")
	require.Equal(t, saved.More, more)
}

func TestFieldOfAnotherTypeIsNotLost(t *testing.T) {
	more := map[string]json.RawMessage{"Flag": json.RawMessage(`{"a":1}`)}
	var d struct{ Flag bool }
	loadUnknownFields(&d, more)
	require.False(t, d.Flag)
	require.Equal(t, more, saveUnknownFields(&d, more))
	d.Flag = true
	require.JSONEq(t, "true", string(saveUnknownFields(&d, more)["Flag"]))
}

func TestUnsavableFieldIsNamedAndPairingGoesOn(t *testing.T) {
	d := struct {
		Good int
		Bad  struct{ hidden int }
		Loop map[string]any
	}{Good: 1, Bad: struct{ hidden int }{2}, Loop: map[string]any{"f": func() {}}}
	require.Equal(t, []string{"Bad", "Loop"}, unsavable(&d))
	require.Contains(t, saveUnknownFields(&d, nil), "Good")
}

func TestDeletedMarkIsNotStored(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	if f := reflect.ValueOf(d).Elem().FieldByName("Deleted"); f.IsValid() {
		f.SetBool(true)
		require.NoError(t, c.PutDevice(bg, d), "the container is not the one to ask")
		f.SetBool(false)
	}
	require.NoError(t, d.Delete(bg))
	require.Nil(t, d.ID)
	kv.setEpoch(2)
	require.NoError(t, c.Close(bg))
	c = New(kv)
	require.NoError(t, c.Restore(bg, newFence(2)))
	_, d, _ = open(t, kv)
	require.Equal(t, testJID(1), *d.ID)
	if f := reflect.ValueOf(d).Elem().FieldByName("Deleted"); f.IsValid() {
		require.False(t, f.Bool())
	}
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
}

func TestOutgoingEventRidesWithItsSend(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	s := storeOf(d)
	before, reads := kv.Commits(), kv.Reads()
	for i := range 300 { // more than memory keeps
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), fmt.Sprint("ID", i), "wa", fmt.Append(nil, "text ", i)))
		if i > 0 {
			require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		}
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(i))))
	}
	require.EqualValues(t, 300, kv.Commits()-before, "one a send")
	require.LessOrEqual(t, kv.Reads()-reads, int64(1), "one look for old ones")

	check := func(s *deviceStore) {
		for i := range 300 {
			for _, chats := range [][2]types.JID{{testJID(1)}, {testJID(2), testJID(1)}} {
				format, text, err := s.GetOutgoingEvent(bg, chats[0], chats[1], fmt.Sprint("ID", i))
				require.NoError(t, err)
				require.Equal(t, "wa", format)
				require.Equal(t, fmt.Sprint("text ", i), string(text))
			}
		}
		format, text, err := s.GetOutgoingEvent(bg, testJID(2), testJID(3), "ID1")
		require.NoError(t, err)
		require.Empty(t, format)
		require.Nil(t, text)
	}
	check(s)
	_, d, _ = reopen(t, kv, c)
	check(storeOf(d))
	require.NoError(t, storeOf(d).AddOutgoingEvent(bg, testJID(1), "ID7", "fb", []byte("again")))
	format, text, err := storeOf(d).GetOutgoingEvent(bg, testJID(1), types.EmptyJID, "ID7")
	require.NoError(t, err)
	require.Equal(t, "fb again", format+" "+string(text))
}

func TestOldOutgoingEventsGoBesideTheSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		s := storeOf(d)
		has := func(id string) bool {
			format, _, err := s.GetOutgoingEvent(bg, testJID(1), types.EmptyJID, id)
			require.NoError(t, err)
			return format != ""
		}
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "old", "wa", []byte("x")))
		time.Sleep(outgoingTTL - time.Hour)
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "young", "wa", []byte("y")))
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(2 * time.Hour)
		require.True(t, has("old"))
		scans := kv.scans.Load()
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.Equal(t, scans, kv.scans.Load(), "it was done two hours ago")
		require.True(t, has("old"))

		time.Sleep(outgoingEvery)
		down := errors.New("down")
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				return down
			}
			return nil
		})
		require.NoError(t, s.DeleteOldOutgoingEvents(bg), "no send fails of it")
		time.Sleep(time.Minute)
		kv.before.set(nil)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.True(t, has("old"), "not again so soon")
		time.Sleep(outgoingAgain)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.False(t, has("old"))
		require.True(t, has("young"))
		require.Equal(t, 1, kv.count("outgoing"))
	})
}
