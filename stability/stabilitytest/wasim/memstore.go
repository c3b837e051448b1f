package wasim

import (
	"context"
	"crypto/rand"
	"errors"
	"math/big"
	"slices"
	"sync"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
	waLog "go.mau.fi/whatsmeow/util/log"
)

// memStore is a whatsmeow store in plain maps: what a Contact's client lives
// on. One mutex guards the maps; window keeps a send, which reads sessions,
// asks the network and only then writes them, apart from a receive.
type memStore struct {
	mu     sync.Mutex
	window chan struct{} // holds one token while nobody is between read and write
	turn   *turn         // who took it for a send

	signal   memSignal
	prekeys  memPreKeys
	appState memAppState
	lids     memLIDs
	contacts map[types.JID]types.ContactInfo
	settings map[types.JID]types.LocalChatSettings
	secrets  map[memSecretKey][]byte
	events   map[[32]byte]*store.BufferedEvent
	outgoing map[outgoingKey]outgoing
	tokens   map[types.JID]store.PrivacyToken
	nctSalt  []byte
}

type memSecretKey struct {
	Chat, Sender types.JID
	ID           string
}

// NewMemoryDevice returns a new, unpaired whatsmeow device whose store is in
// memory and whose prekey ids are never reused: for clients that a test needs
// without a store of its own.
func NewMemoryDevice() *store.Device {
	m := newMemStore()
	identity := keys.NewKeyPair()
	reg, err := rand.Int(rand.Reader, big.NewInt(1<<32))
	if err != nil {
		panic(err)
	}
	d := &store.Device{
		Log: waLog.Noop, NoiseKey: keys.NewKeyPair(), IdentityKey: identity,
		SignedPreKey: identity.CreateSignedPreKey(1), RegistrationID: uint32(reg.Uint64()),
		AdvSecretKey: randomBytes(32), Container: m,
	}
	m.attach(d)
	return d
}

func newMemStore() *memStore {
	m := &memStore{
		window: make(chan struct{}, 1),
		signal: newMemSignal(), prekeys: newMemPreKeys(), appState: newMemAppState(), lids: newMemLIDs(),
		contacts: map[types.JID]types.ContactInfo{}, settings: map[types.JID]types.LocalChatSettings{},
		secrets: map[memSecretKey][]byte{}, events: map[[32]byte]*store.BufferedEvent{},
		outgoing: map[outgoingKey]outgoing{}, tokens: map[types.JID]store.PrivacyToken{},
	}
	m.window <- struct{}{}
	return m
}

func (m *memStore) attach(d *store.Device) {
	d.Identities, d.Sessions, d.PreKeys, d.SenderKeys = m, m, m, m
	d.AppStateKeys, d.AppState, d.Contacts, d.ChatSettings = m, m, m, m
	d.MsgSecrets, d.PrivacyTokens, d.EventBuffer, d.LIDs = m, m, m, m
	m.attachNewer(d)
	d.Initialized = true
}

func (m *memStore) PutDevice(_ context.Context, d *store.Device) error {
	if d.ID == nil {
		return errors.New("device JID must be known before saving")
	}
	return nil
}

func (m *memStore) DeleteDevice(context.Context, *store.Device) error { return nil }

// turn is a send's possession of the window, for the addresses it read.
type turn struct {
	timer *time.Timer
	addrs map[string]bool
}

var errWindowBroken = errors.New("wasim: the sessions were used by others meanwhile: send again")

// sendWindow bounds how long a send may keep receives waiting.
const sendWindow = 3 * time.Second

type txnKey struct{}

// txn is a decryption transaction: how to undo what it wrote.
type txn struct{ undo []func() }

func txnOf(ctx context.Context) *txn {
	t, _ := ctx.Value(txnKey{}).(*txn)
	return t
}

// open begins a send's window unless ctx is inside a transaction.
func (m *memStore) open(ctx context.Context, addrs ...string) error {
	if txnOf(ctx) != nil {
		return nil
	}
	select {
	case <-m.window:
	case <-ctx.Done():
		return ctx.Err()
	}
	t := &turn{addrs: map[string]bool{}}
	for _, a := range addrs {
		t.addrs[a] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn = t
	t.timer = time.AfterFunc(sendWindow, func() { m.close(t) })
	return nil
}

// close ends a window, if it is still open.
func (m *memStore) close(t *turn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t != nil && m.turn == t {
		m.turn = nil
		t.timer.Stop()
		m.window <- struct{}{}
	}
}

// breakTurn makes a send under way fail, which is safe, rather than write back
// a session that is being deleted.
func (m *memStore) breakTurn(ctx context.Context) {
	if txnOf(ctx) != nil {
		return
	}
	m.mu.Lock()
	t := m.turn
	m.mu.Unlock()
	m.close(t)
}

func (m *memStore) DoDecryptionTxn(ctx context.Context, fn func(context.Context) error) error {
	if txnOf(ctx) != nil {
		return fn(ctx)
	}
	select {
	case <-m.window:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { m.window <- struct{}{} }()
	t := &txn{}
	err := fn(context.WithValue(ctx, txnKey{}, t))
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, undo := range slices.Backward(t.undo) {
			undo()
		}
	}
	return err
}

// put and drop change a map, undoably inside a transaction. The caller holds m.mu.
func put[K comparable, V any](ctx context.Context, in map[K]V, k K, v V) {
	remember(ctx, in, k)
	in[k] = v
}

func drop[K comparable, V any](ctx context.Context, in map[K]V, k K) {
	remember(ctx, in, k)
	delete(in, k)
}

func remember[K comparable, V any](ctx context.Context, in map[K]V, k K) {
	t := txnOf(ctx)
	if t == nil {
		return
	}
	old, had := in[k]
	t.undo = append(t.undo, func() {
		if had {
			in[k] = old
		} else {
			delete(in, k)
		}
	})
}

func (m *memStore) lock() func() {
	m.mu.Lock()
	return m.mu.Unlock
}

func (m *memStore) PutIdentity(ctx context.Context, addr string, key [32]byte) error {
	defer m.lock()()
	put(ctx, m.signal.identities, addr, key)
	return nil
}

func (m *memStore) DeleteIdentity(ctx context.Context, addr string) error {
	defer m.lock()()
	drop(ctx, m.signal.identities, addr)
	return nil
}

func (m *memStore) DeleteAllIdentities(ctx context.Context, user string) error {
	defer m.lock()()
	dropUser(ctx, m.signal.identities, user)
	return nil
}

func (m *memStore) IsTrustedIdentity(_ context.Context, addr string, key [32]byte) (bool, error) {
	defer m.lock()()
	old, ok := m.signal.identities[addr]
	return !ok || old == key, nil
}

func (m *memStore) GetSession(ctx context.Context, addr string) ([]byte, error) {
	if err := m.open(ctx, addr); err != nil {
		return nil, err
	}
	defer m.lock()()
	return m.signal.sessions[addr], nil
}

func (m *memStore) HasSession(_ context.Context, addr string) (bool, error) {
	defer m.lock()()
	return m.signal.sessions[addr] != nil, nil
}

func (m *memStore) GetManySessions(ctx context.Context, addrs []string) (map[string][]byte, error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	if err := m.open(ctx, addrs...); err != nil {
		return nil, err
	}
	defer m.lock()()
	out := make(map[string][]byte, len(addrs))
	for _, a := range addrs {
		out[a] = m.signal.sessions[a]
	}
	return out, nil
}

func (m *memStore) PutSession(ctx context.Context, addr string, session []byte) error {
	return m.PutManySessions(ctx, map[string][]byte{addr: session})
}

func (m *memStore) PutManySessions(ctx context.Context, sessions map[string][]byte) error {
	m.mu.Lock()
	t := m.turn
	for a := range sessions {
		if txnOf(ctx) == nil && (t == nil || !t.addrs[a]) {
			m.mu.Unlock()
			return errWindowBroken
		}
	}
	for a, s := range sessions {
		put(ctx, m.signal.sessions, a, s)
	}
	m.mu.Unlock()
	if txnOf(ctx) == nil {
		m.close(t)
	}
	return nil
}

func (m *memStore) DeleteSession(ctx context.Context, addr string) error {
	m.breakTurn(ctx)
	defer m.lock()()
	drop(ctx, m.signal.sessions, addr)
	return nil
}

func (m *memStore) DeleteAllSessions(ctx context.Context, user string) error {
	m.breakTurn(ctx)
	defer m.lock()()
	dropUser(ctx, m.signal.sessions, user)
	return nil
}

// MigratePNToLID waits for a send under way: the session that it would write
// back under the old address would later be moved over a newer one.
func (m *memStore) MigratePNToLID(ctx context.Context, pn, lid types.JID) error {
	if txnOf(ctx) == nil {
		select {
		case <-m.window:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { m.window <- struct{}{} }()
	}
	defer m.lock()()
	m.signal.move(ctx, pn.SignalAddressUser(), lid.SignalAddressUser())
	return nil
}
