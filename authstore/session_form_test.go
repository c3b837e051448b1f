package authstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/libsignal/keys/chain"
	"go.mau.fi/libsignal/keys/message"
	"go.mau.fi/libsignal/state/record"
	"go.mau.fi/libsignal/util/optional"
	"go.mau.fi/whatsmeow/store"
)

// drawSession is a session with everything that one can have.
func drawSession(t testing.TB, r *rand.Rand) []byte {
	t.Helper()
	some := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	key := func() []byte { return append([]byte{5}, some(32)...) }
	link := func(own bool) *record.ChainStructure {
		c := &record.ChainStructure{SenderRatchetKeyPublic: key(), ChainKey: &chain.KeyStructure{Key: some(32), Index: r.Uint32()}, MessageKeys: []*message.KeysStructure{}}
		if own {
			c.SenderRatchetKeyPrivate = some(32)
		}
		for range r.IntN(3) {
			c.MessageKeys = append(c.MessageKeys, &message.KeysStructure{CipherKey: some(32), MacKey: some(32), IV: some(16), Index: r.Uint32()})
		}
		return c
	}
	state := func() *record.StateStructure {
		s := &record.StateStructure{
			LocalIdentityPublic: key(), LocalRegistrationID: r.Uint32(), NeedsRefresh: r.IntN(2) == 0, PreviousCounter: r.Uint32N(3),
			ReceiverChains: []*record.ChainStructure{}, RemoteIdentityPublic: key(), RemoteRegistrationID: r.Uint32(), RootKey: some(32),
			SenderBaseKey: key(), SenderChain: link(true), SessionVersion: 3,
		}
		for range r.IntN(4) {
			s.ReceiverChains = append(s.ReceiverChains, link(false))
		}
		if n := r.IntN(3); n > 0 {
			s.PendingPreKey = &record.PendingPreKeyStructure{SignedPreKeyID: r.Uint32N(9), BaseKey: key()}
			if n > 1 {
				s.PendingPreKey.PreKeyID = optional.NewOptionalUint32(r.Uint32())
			}
		}
		return s
	}
	all := &record.SessionStructure{SessionState: state(), PreviousStates: []*record.StateStructure{}}
	for range r.IntN(3) {
		all.PreviousStates = append(all.PreviousStates, state())
	}
	b, err := json.Marshal(all)
	require.NoError(t, err)
	// As libsignal writes it itself.
	got, err := record.NewSessionFromBytes(b, store.SignalProtobufSerializer.Session, store.SignalProtobufSerializer.State)
	require.NoError(t, err)
	return got.Serialize()
}

// libsignal's own form is known: else each start would parse all it needs.
func TestSessionsOfLibsignalHaveTheKnownForm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	require.True(t, wellKnownSession(validSession(t, 7)))
	for range 100 {
		b := drawSession(t, r)
		require.True(t, wellKnownSession(b), "%s", b)
	}
}

// Each value of the known form is a session for libsignal too, whatever changed.
func TestKnownFormAlwaysParses(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pieces := []string{`null`, `""`, `"AA=="`, `[]`, `{}`, `0`, `-1`, `4294967296`, `1e3`, `,`, `"`, ` `, "\x00", `"BQ=="`, `true`, `"A==="`}
	known := 0
	for range 200 {
		b := drawSession(t, r)
		for range 60 {
			c := bytes.Clone(b)
			at := r.IntN(len(c))
			switch r.IntN(4) {
			case 0:
				c[at] = byte(r.Uint32())
			case 1:
				c = append(c[:at:at], c[min(at+1+r.IntN(50), len(c)):]...)
			case 2:
				c = append(append(bytes.Clone(c[:at]), pieces[r.IntN(len(pieces))]...), c[at:]...)
			case 3: // a whole value
				from := bytes.IndexByte(c[at:], ':')
				if from < 0 {
					continue
				}
				from += at + 1
				to := from + max(bytes.IndexAny(c[from:], ",}]"), 0)
				c = append(append(bytes.Clone(c[:from]), pieces[r.IntN(len(pieces))]...), c[to:]...)
			}
			if wellKnownSession(c) {
				known++
				require.NoError(t, parseWithLibsignal(c), "%s", c)
			}
		}
	}
	require.Positive(t, known)
}

// A session in another form is left to libsignal, which knows best.
func TestSessionInAnotherFormIsAskedOfLibsignal(t *testing.T) {
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, validSession(t, 7), "", " "))
	require.False(t, wellKnownSession(pretty.Bytes()))
	require.NoError(t, parseSession(pretty.Bytes()))
	require.ErrorIs(t, parseSession([]byte(`{"SessionState":null,"PreviousStates":[]}`)), ErrCorrupt)
}

// The sessions of a large group are parsed on all cores when they are asked for
// first.
func TestBadSessionsAmongManyAreSetAside(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	sessions := make(map[string][]byte)
	var addresses []string
	for i := range 200 {
		a := fmt.Sprintf("%d_1:0", i)
		addresses = append(addresses, a, "nobody"+a)
		sessions[a] = validSession(t, uint32(i+1))
		if i%50 == 7 {
			sessions[a] = []byte("no session")
		}
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
	_, d, _ = reopen(t, kv, c)
	require.Empty(t, storeOf(d).known.checked, "nothing is parsed before it is asked for")
	for range 2 {
		got, err := d.Sessions.GetManySessions(bg, addresses)
		require.NoError(t, err)
		require.Len(t, got, len(addresses))
		for i := range 200 {
			a := fmt.Sprintf("%d_1:0", i)
			if i%50 == 7 {
				require.Nil(t, got[a])
			} else {
				require.EqualValues(t, i+1, sessionCounter(t, got[a]))
			}
			require.Nil(t, got["nobody"+a])
		}
	}
	require.NoError(t, storeOf(d).flush("t"))
	require.Equal(t, 4, kv.count(kindQuarantine))
	require.Len(t, storeOf(d).known.checked, 196)
}
