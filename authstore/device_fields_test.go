package authstore

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"
)

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
