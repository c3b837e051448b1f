package authstore

import (
	"bytes"
	"context"
	"errors"
	"maps"
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

// What a host may expect of an account, in plain maps.
type expected struct {
	sessions, identities, senderKeys map[string]string
	preKeys                          map[uint32]preKeyExpected
	nextPreKey                       uint32
	appKeys                          map[string]store.AppStateSyncKey
	versions                         map[string]uint64
	macs                             map[[2]string]string // by collection and index
	contacts                         map[types.JID]types.ContactInfo
	chats                            map[types.JID]types.LocalChatSettings
	tokens                           map[types.JID]store.PrivacyToken
	lidOf, pnOf                      map[string]string
	open, seen                       map[[32]byte]eventExpected
	secrets                          map[[3]string]string // by chat, sender and id
	sent                             map[string][2]string // by id: format and plaintext
	book                             map[string]string
	salt                             string
	pushName                         string
}

type preKeyExpected struct {
	public   [32]byte
	uploaded bool
}

type eventExpected struct {
	plaintext string
	server    int64
}

func (e *expected) clone() *expected {
	o := *e
	o.sessions, o.identities, o.senderKeys = maps.Clone(e.sessions), maps.Clone(e.identities), maps.Clone(e.senderKeys)
	o.preKeys, o.appKeys, o.versions, o.macs = maps.Clone(e.preKeys), maps.Clone(e.appKeys), maps.Clone(e.versions), maps.Clone(e.macs)
	o.contacts, o.chats, o.tokens = maps.Clone(e.contacts), maps.Clone(e.chats), maps.Clone(e.tokens)
	o.lidOf, o.pnOf, o.open, o.seen = maps.Clone(e.lidOf), maps.Clone(e.pnOf), maps.Clone(e.open), maps.Clone(e.seen)
	o.secrets, o.sent, o.book = maps.Clone(e.secrets), maps.Clone(e.sent), maps.Clone(e.book)
	return &o
}

func newExpected() *expected {
	return &expected{
		sessions: map[string]string{}, identities: map[string]string{}, senderKeys: map[string]string{},
		preKeys: map[uint32]preKeyExpected{}, nextPreKey: firstPreKey, appKeys: map[string]store.AppStateSyncKey{},
		versions: map[string]uint64{}, macs: map[[2]string]string{},
		contacts: map[types.JID]types.ContactInfo{}, chats: map[types.JID]types.LocalChatSettings{}, tokens: map[types.JID]store.PrivacyToken{},
		lidOf: map[string]string{}, pnOf: map[string]string{}, open: map[[32]byte]eventExpected{}, seen: map[[32]byte]eventExpected{},
		secrets: map[[3]string]string{}, sent: map[string][2]string{}, book: map[string]string{},
	}
}

// namesOf are a contact's names, the given one first.
func (e *expected) namesOf(j types.JID) []types.JID {
	if lid, ok := e.lidOf[j.User]; ok && j.Server == types.DefaultUserServer {
		return []types.JID{j, types.NewJID(lid, types.HiddenUserServer)}
	}
	if pn, ok := e.pnOf[j.User]; ok && j.Server == types.HiddenUserServer {
		return []types.JID{j, types.NewJID(pn, types.DefaultUserServer)}
	}
	return []types.JID{j}
}

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

// Whatever an account goes through, it answers as plain maps would: each method
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

func (m *modelled) upheaval() {
	switch n := rapid.IntRange(0, 10).Draw(m.T, "upheaval"); n {
	case 0:
		m.next()
	case 1: // a crash behind a flush
		m.flush()
		dead := m.c
		m.kv.setEpoch(m.kv.epoch + 1)
		m.c, m.f = m.container(m.kv), newFence(m.kv.epoch)
		m.load()
		_ = dead.Close(bg)
	case 2: // a connection that begins anew
		m.load()
	case 3:
		require.NoError(m, m.c.EndTerm(bg))
		m.kv.setEpoch(m.kv.epoch + 1)
		m.f = newFence(m.kv.epoch)
		m.load()
	case 4:
		m.until(func() error { return m.c.Reseal(bg, m.f, nil) })
	case 5:
		if m.seal == len(modelSeals)-1 {
			return
		}
		if m.seal >= 2 {
			m.until(func() error { return m.c.Reseal(bg, m.f, nil) })
		}
		m.seal++
		m.next()
	case 6: // to another KV
		require.NoError(m, m.c.Close(bg))
		m.kv.setEpoch(m.kv.epoch + 1)
		to := newMapKV()
		to.limits = rapid.SampledFrom(modelLimits).Draw(m.T, "limits")
		m.watch(to)
		src := FromKV("old", m.kv, newFence(m.kv.epoch), modelSeals[m.seal]...)
		m.c, m.f = m.container(to), newFence(1)
		opts := []ImportOption{ReplaceDevice()} // of an attempt whose last answer was lost
		m.until(func() error { _, err := Import(bg, src, m.c, m.f, opts...); return err })
		m.kv = to
		m.load()
		m.audit()
	case 7, 8: // a backup, to another KV or in the same place
		var b bytes.Buffer
		m.until(func() error { b.Reset(); _, err := Export(bg, FromContainer(m.c), &b, archiveKey); return err })
		if n == 7 {
			require.NoError(m, m.c.Close(bg))
			m.kv = newMapKV()
			m.kv.limits = rapid.SampledFrom(modelLimits).Draw(m.T, "limits")
			m.watch(m.kv)
			m.c, m.f = m.container(m.kv), newFence(1)
		}
		m.until(func() error {
			_, err := Restore(bg, bytes.NewReader(b.Bytes()), archiveKey, m.c, m.f, RestoredUnchanged(), ReplaceDevice())
			return err
		})
		m.load()
		if n == 8 { // the old rows go once the device has logged in
			m.login()
			m.audit()
		}
	case 9: // deleted, and brought back
		m.flush()
		require.NoError(m, m.c.DeleteDevice(bg, m.d))
		_, err := m.d.Sessions.GetSession(bg, "1:0")
		require.ErrorIs(m, err, ErrDeviceDeleted)
		m.until(func() error {
			if info, err := m.c.Info(bg); err == nil && info.Exists {
				return nil // its answer was lost
			}
			return m.c.Restore(bg, m.f)
		})
		m.load()
	case 10:
		m.flush()
		m.audit()
	}
	m.all()
}

// login is what follows a login: the service takes a prekey. The model may have
// removed all that it took before.
func (m *modelled) login() {
	list, err := m.d.PreKeys.GetOrGenPreKeys(bg, 1)
	require.NoError(m, err)
	k := list[0]
	m.want.nextPreKey = max(m.want.nextPreKey, k.KeyID+1)
	m.want.preKeys[k.KeyID] = preKeyExpected{public: *k.Pub}
	m.marked(k.KeyID)
}

// marked marks prekeys as uploaded.
func (m *modelled) marked(upTo uint32) {
	require.NoError(m, m.d.PreKeys.MarkPreKeysAsUploaded(bg, upTo))
	for id, k := range m.want.preKeys {
		if k.uploaded = k.uploaded || id <= upTo; k.uploaded {
			m.want.preKeys[id] = k
		}
	}
}

// audit looks for rows that belong to nothing, or say what they should not.
func (m *modelled) audit() {
	time.Sleep(time.Minute) // what is done in the background
	m.c.cfg.background.Wait()
	s := storeOf(m.d)
	s.mu.Lock()
	gen := s.gen
	s.mu.Unlock()
	m.kv.mu.Lock()
	data := maps.Clone(m.kv.data)
	m.kv.mu.Unlock()
	belongs := make(map[Key]bool)
	for k, v := range data {
		if k.Kind == kindPart {
			continue
		}
		rec, err := s.cfg.codec.decode(k, k.ID, []byte(v))
		require.NoError(m, err, "%v", k)
		if rec.split != nil {
			for _, p := range partKeys(k, *rec.split) {
				belongs[p] = true
			}
		}
	}
	for k, v := range data {
		require.True(m, strings.HasPrefix(k.ID, gen+"/") || strings.HasPrefix(k.ID, globalGen+"/"), "of another device: %v", k)
		require.True(m, k.Kind != kindPart || belongs[k], "a part of nothing: %v", k)
		if m.seal >= 3 {
			require.NotContains(m, v, "1555", "%v", k)
		}
	}
	if m.seal >= 2 {
		require.Empty(m, telling(m.kv))
	}
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
