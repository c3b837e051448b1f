package authstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"pgregory.net/rapid"
)

var (
	modelAddresses = []string{"15550002:0", "15550002:3", "155500021:0", "900002_1:0", "900002_1:3", "15550003:0", "900003_1:0", "15550004:7"}
	modelUsers     = []types.JID{
		types.NewJID("15550002", types.DefaultUserServer), types.NewJID("15550003", types.DefaultUserServer),
		types.NewJID("900002", types.HiddenUserServer), types.NewJID("900003", types.HiddenUserServer),
		types.NewJID("15550004", types.DefaultUserServer),
	}
	modelGroups      = []string{"120363001@g.us", "120363002@g.us"}
	modelCollections = []string{"regular", "critical/block"}
	modelLimits      = []Limits{{}, {MaxValue: 900, MaxBatch: 2500, MaxKeys: 12}, {MaxValue: 4000, MaxBatch: 6000, MaxKeys: 400}}
	// How sealing is turned on, and its key changed, step by step. Between two
	// steps stands a Reseal where the next one cannot read what was there.
	modelSeals = [][]Option{
		nil,
		{WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed()},
		{WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed(), WithSealedNames()},
		{WithAEAD(NewAESGCM(keyOf(2), keyOf(1))), WithSealedNames()},
		{WithAEAD(NewAESGCM(keyOf(2)))},
	}
)

// modelled is an account beside what is expected of it.
type modelled struct {
	*rapid.T
	t     *testing.T
	ctx   context.Context
	kv    *mapKV
	c     *Container
	d     *store.Device
	f     *testFence
	seal  int
	want  *expected
	moved map[string]bool // numbers whose sessions have moved in this device
	clock int64           // of tokens, in seconds

	fails, loses, blind faults // of the next calls to the KV
}

// faults counts calls that are to fail. A store calls its KV from several goroutines.
type faults struct{ atomic.Int32 }

// one takes one of them; false where none is left.
func (f *faults) one() bool {
	for {
		n := f.Load()
		if n <= 0 {
			return false
		}
		if f.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// An account always answers as plain maps would: each method
// of whatsmeow's stores, in transactions that end well or not, while the KV fails,
// loses answers and splits values, across terms, crashes, moves, backups, deletions
// and changes of the key. And nothing is left in the KV that belongs to nothing.
func TestAccountAnswersAsPlainMapsWould(t *testing.T) {
	t.Parallel()
	var sessions []string
	for n := range uint32(6) {
		sessions = append(sessions, string(validSession(t, n+1)))
	}
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ *testing.T }{t}, func(rt *rapid.T) { // a bubble has no deadline
			m := &modelled{T: rt, t: t, ctx: bg, kv: newMapKV(), want: newExpected()}
			m.kv.limits = rapid.SampledFrom(modelLimits).Draw(rt, "limits")
			m.clock = time.Now().Unix()
			m.seal = rapid.SampledFrom([]int{0, 0, 1, 4}).Draw(rt, "seal")
			m.watch(m.kv)
			defer func() { _ = m.c.Close(bg) }()
			m.c, m.f = m.container(m.kv), newFence(1)
			m.load()
			pair(t, m.d, testJID(1))
			login(t, m.d)
			m.want.nextPreKey = 3
			for i := range uint32(2) {
				k, err := m.d.PreKeys.GetPreKey(bg, i+1)
				require.NoError(rt, err)
				m.want.preKeys[i+1] = preKeyExpected{*k.Pub, true}
			}
			calls := slices.Concat(m.inTransactions(sessions), m.others(sessions))
			for range rapid.IntRange(10, 60).Draw(rt, "steps") {
				switch n := rapid.IntRange(0, 11).Draw(rt, "what"); n {
				case 0:
					m.transaction(m.inTransactions(sessions))
				case 1:
					m.upheaval()
				case 2:
					m.fails.Store(rapid.Int32Range(0, 2).Draw(rt, "fails"))
					m.loses.Store(rapid.Int32Range(0, 2).Draw(rt, "loses"))
					m.blind.Store(rapid.Int32Range(0, 2).Draw(rt, "blind"))
				case 3:
					time.Sleep(time.Duration(rapid.IntRange(0, 20_000).Draw(rt, "ms")) * time.Millisecond)
				default:
					rapid.SampledFrom(calls).Draw(rt, "call")()
				}
			}
			m.all()
			m.next()
			m.all()
		})
	})
}

func (m *modelled) container(kv *mapKV) *Container {
	return New(kv, append(slices.Clone(modelSeals[m.seal]), WithOnIncident(func(i Incident) { m.Errorf("incident: %v", i) }))...)
}

// watch makes kv fail when it is told to.
func (m *modelled) watch(kv *mapKV) {
	kv.before.set(func(op string, _ Batch) error {
		n := &m.blind
		if op == "commit" {
			n = &m.fails
		}
		if n.one() {
			return errors.New("the KV is down")
		}
		return nil
	})
	kv.after.set(func(string, Batch) error {
		if m.loses.one() {
			return errors.New("the answer is lost")
		}
		return nil
	})
}

// until repeats what may fail once when the KV does.
func (m *modelled) until(do func() error) {
	for range 8 {
		down := m.fails.Load()+m.loses.Load()+m.blind.Load() > 0
		err := do()
		if err == nil {
			return
		}
		require.True(m, down, "%v", err)
	}
	m.Fatal("no success")
}

func (m *modelled) load() {
	m.until(func() (err error) { m.d, err = m.c.Device(bg, m.f); return err })
	m.moved = map[string]bool{}
}

// next is the next term of the same account.
func (m *modelled) next() {
	require.NoError(m, m.c.Close(bg))
	m.kv.setEpoch(m.kv.epoch + 1)
	m.c, m.f = m.container(m.kv), newFence(m.kv.epoch)
	m.load()
	m.audit()
}

// flush writes what a crash may lose.
func (m *modelled) flush() {
	for _, name := range modelCollections {
		m.collection(name)
	}
	s := storeOf(m.d)
	s.mu.Lock()
	s.packLocked(true)
	s.mu.Unlock()
	require.NoError(m, s.flush("test"))
}

var errModelRollback = errors.New("roll back")

func (m *modelled) transaction(calls []func()) {
	before, fail := m.want.clone(), rapid.Bool().Draw(m.T, "fail")
	err := m.d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		m.ctx = ctx
		defer func() { m.ctx = bg }()
		for range rapid.IntRange(0, 6).Draw(m.T, "inner") {
			rapid.SampledFrom(calls).Draw(m.T, "inner call")()
		}
		if fail {
			return errModelRollback
		}
		return nil
	})
	if fail {
		require.ErrorIs(m, err, errModelRollback)
		m.want = before
		return
	}
	require.NoError(m, err)
}

func drawn[T any](m *modelled, label string, from []T) T {
	return rapid.SampledFrom(from).Draw(m.T, label)
}

func (m *modelled) text(label string) string {
	return strings.Repeat(drawn(m, label, []string{"a", "b", "é"}), drawn(m, label+"'s length", []int{1, 1, 3, 700, 3000}))
}

func (m *modelled) hash() (h [32]byte) {
	h[0] = rapid.ByteRange(0, 4).Draw(m.T, "hash")
	return h
}

// equal compares an answer with what is expected; of a missing one nothing.
func (m *modelled) equal(want string, ok bool, got []byte, err error, what ...any) {
	m.Helper()
	require.NoError(m, err)
	require.Equal(m, ok, got != nil, "%v", what)
	require.True(m, want == string(got), "%v: another value", what)
}

// inTransactions are the calls that may come in a transaction, too.
func (m *modelled) inTransactions(sessions []string) []func() {
	address := func() string { return drawn(m, "address", modelAddresses) }
	user := func() types.JID { return drawn(m, "user", modelUsers) }
	return []func(){
		func() {
			a := address()
			got, err := m.d.Sessions.GetSession(m.ctx, a)
			want, ok := m.want.sessions[a]
			m.equal(want, ok, got, err, "session", a)
		},
		func() {
			a, v := address(), drawn(m, "session", sessions)
			got, err := m.d.Sessions.GetSession(m.ctx, a) // as libsignal does: what was read earlier may be old
			want, ok := m.want.sessions[a]
			m.equal(want, ok, got, err, "session", a)
			require.NoError(m, m.d.Sessions.PutSession(m.ctx, a, []byte(v)))
			m.want.sessions[a] = v
		},
		func() {
			a := address()
			got, err := m.d.Sessions.HasSession(m.ctx, a)
			require.NoError(m, err)
			_, ok := m.want.sessions[a]
			require.Equal(m, ok, got, a)
		},
		func() {
			a := address()
			require.NoError(m, m.d.Sessions.DeleteSession(m.ctx, a))
			delete(m.want.sessions, a)
		},
		func() {
			a, k := address(), m.hash()
			require.NoError(m, m.d.Identities.PutIdentity(m.ctx, a, k))
			m.want.identities[a] = string(k[:])
		},
		func() {
			a, k := address(), m.hash()
			got, err := m.d.Identities.IsTrustedIdentity(m.ctx, a, k)
			require.NoError(m, err)
			old, ok := m.want.identities[a]
			require.Equal(m, !ok || old == string(k[:]), got, a)
		},
		func() {
			a := address()
			require.NoError(m, m.d.Identities.DeleteIdentity(m.ctx, a))
			delete(m.want.identities, a)
		},
		func() {
			g, a, v := drawn(m, "group", modelGroups), address(), string(validSenderKey([]byte(m.text("mark"))))
			require.NoError(m, m.d.SenderKeys.PutSenderKey(m.ctx, g, a, []byte(v)))
			m.want.senderKeys[a+"|"+g] = v
		},
		func() {
			g, a := drawn(m, "group", modelGroups), address()
			got, err := m.d.SenderKeys.GetSenderKey(m.ctx, g, a)
			want, ok := m.want.senderKeys[a+"|"+g]
			m.equal(want, ok, got, err, "sender key", a, g)
		},
		func() {
			h, v, at := m.hash(), m.text("plaintext"), int64(rapid.IntRange(1, 1000).Draw(m.T, "server"))
			_, open := m.want.open[h]
			_, seen := m.want.seen[h]
			err := m.d.EventBuffer.PutBufferedEvent(m.ctx, h, []byte(v), time.Unix(at, 0))
			require.Equal(m, open || seen, err != nil, "an event is in the buffer once")
			if err == nil {
				m.want.open[h] = eventExpected{v, at}
			}
		},
		func() { m.event(m.hash()) },
		func() {
			h := m.hash()
			for n := range byte(5) { // one that is there, if any is
				if _, ok := m.want.open[[32]byte{n}]; ok {
					h = [32]byte{n}
				}
			}
			require.NoError(m, m.d.EventBuffer.ClearBufferedEventPlaintext(m.ctx, h))
			if e, ok := m.want.open[h]; ok {
				delete(m.want.open, h)
				m.want.seen[h] = e
			}
		},
		func() {
			id := uint32(rapid.IntRange(0, int(m.want.nextPreKey)+1).Draw(m.T, "prekey"))
			require.NoError(m, m.d.PreKeys.RemovePreKey(m.ctx, id))
			delete(m.want.preKeys, id)
		},
		func() {
			c, u, id, v := user(), user(), drawn(m, "id", []string{"A", "B/\x00x"}), m.text("secret")
			require.NoError(m, m.d.MsgSecrets.PutMessageSecret(m.ctx, c, u, id, []byte(v)))
			if key := [3]string{c.String(), u.String(), id}; m.want.secrets[key] == "" {
				m.want.secrets[key] = v
			}
		},
		func() { m.secret(user(), user(), drawn(m, "id", []string{"A", "B/\x00x"})) },
		func() {
			var list []store.LIDMapping
			for range rapid.IntRange(0, 3).Draw(m.T, "mappings") {
				p := store.LIDMapping{LID: user(), PN: user()}
				list = append(list, p)
				if p.LID.Server != types.HiddenUserServer || p.PN.Server != types.DefaultUserServer {
					continue
				}
				m.mapped(p.LID, p.PN)
			}
			require.NoError(m, m.d.LIDs.PutManyLIDMappings(m.ctx, list))
		},
		func() { m.lid(user()) },
		func() {
			u, n := user(), m.text("push name")
			changed, before, err := m.d.Contacts.PutPushName(m.ctx, u, n)
			require.NoError(m, err)
			c := m.want.contacts[u]
			require.Equal(m, c.PushName != n, changed)
			if changed {
				require.Equal(m, c.PushName, before)
				c.PushName, c.Found = n, true
				m.want.contacts[u] = c
			}
		},
		func() {
			u, at := user(), time.Unix(m.clock+int64(rapid.IntRange(-1, 1).Draw(m.T, "at")), 0)
			m.clock++
			p := store.PrivacyToken{User: u, Token: []byte(m.text("token")), Timestamp: at}
			require.NoError(m, m.d.PrivacyTokens.PutPrivacyTokens(m.ctx, p))
			if old, ok := m.want.tokens[u]; !ok || !at.Before(old.Timestamp) {
				m.want.tokens[u] = p
			}
		},
		func() { m.token(user()) },
	}
}
