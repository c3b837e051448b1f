package authstore

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// mapKV is a KV in memory with hooks for faults.
type mapKV struct {
	mu     sync.Mutex
	data   map[Key]string
	epoch  int64
	limits Limits

	gets, scans, commits atomic.Int64
	puts                 atomic.Int64
	bytes                atomic.Int64
	delay                atomic.Int64 // ns at most; for NewTestKV
	// before may fail a call that has done nothing; after may lose the reply
	// of one that has.
	before, after hook
}

func newMapKV() *mapKV { return &mapKV{data: make(map[Key]string), epoch: 1} }

// hook may be set while calls of the store are under way.
type hook struct {
	f atomic.Pointer[func(op string, b Batch) error]
}

func (h *hook) set(f func(op string, b Batch) error) { h.f.Store(&f) }

func (h *hook) call(op string, b Batch) error {
	if f := h.f.Load(); f != nil && *f != nil {
		return (*f)(op, b)
	}
	return nil
}

func (m *mapKV) Get(ctx context.Context, keys ...Key) (map[Key][]byte, error) {
	m.gets.Add(1)
	if err := m.before.call("get", Batch{}); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[Key][]byte)
	for _, k := range keys {
		if v, ok := m.data[k]; ok {
			out[k] = []byte(v)
		}
	}
	return out, nil
}

func (m *mapKV) Scan(ctx context.Context, kind Kind, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		m.scans.Add(1)
		if err := m.before.call("scan", Batch{}); err != nil {
			yield(Entry{}, err)
			return
		}
		m.mu.Lock()
		data := maps.Clone(m.data)
		m.mu.Unlock()
		for k, v := range data {
			if k.Kind == kind && strings.HasPrefix(k.ID, prefix) && !yield(Entry{k, []byte(v)}, nil) {
				return
			}
		}
	}
}

func (m *mapKV) Commit(ctx context.Context, epoch int64, b Batch) error {
	m.commits.Add(1)
	if err := m.before.call("commit", b); err != nil {
		return err
	}
	m.mu.Lock()
	if epoch != m.epoch {
		m.mu.Unlock()
		return fmt.Errorf("epoch %d, now %d: %w", epoch, m.epoch, ErrFenced)
	}
	if err := m.check(b); err != nil {
		m.mu.Unlock()
		return err
	}
	for _, e := range b.Put {
		m.data[e.Key] = string(e.Value)
		m.puts.Add(1)
		m.bytes.Add(int64(len(e.Value)))
	}
	for _, k := range b.Delete {
		delete(m.data, k)
	}
	m.mu.Unlock()
	return m.after.call("commit", b)
}

func (m *mapKV) check(b Batch) error {
	seen := make(map[Key]bool)
	size := 0
	for _, e := range b.Put {
		if m.limits.MaxValue > 0 && len(e.Value) > m.limits.MaxValue {
			return ErrTooLarge
		}
		size += len(e.Key.Kind) + len(e.Key.ID) + len(e.Value)
		if seen[e.Key] || e.Key.ID == "" || len(e.Key.ID) > 1500 {
			panic("bad batch: " + string(e.Key.Kind) + " " + e.Key.ID)
		}
		seen[e.Key] = true
	}
	for _, k := range b.Delete {
		size += len(k.Kind) + len(k.ID)
		if seen[k] {
			panic("key twice in a batch: " + k.ID)
		}
		seen[k] = true
	}
	if m.limits.MaxKeys > 0 && len(seen) > m.limits.MaxKeys || m.limits.MaxBatch > 0 && size > m.limits.MaxBatch {
		return ErrTooLarge
	}
	return nil
}

func (m *mapKV) Limits() Limits { return m.limits }

func (m *mapKV) setEpoch(e int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch = e
}

func (m *mapKV) count(kind Kind) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.data {
		if k.Kind == kind {
			n++
		}
	}
	return n
}

// testFence is a term that the test ends.
type testFence struct {
	epoch int64
	until atomic.Int64 // from base
	base  time.Time
	lost  atomic.Bool
	cuts  atomic.Int64
	cause atomic.Pointer[error]
	onCut func()
}

func newFence(epoch int64) *testFence {
	f := &testFence{epoch: epoch, base: time.Now()}
	f.setUntil(f.base.Add(10_000 * time.Hour))
	return f
}

func (f *testFence) Epoch() int64            { return f.epoch }
func (f *testFence) setUntil(t time.Time)    { f.until.Store(int64(t.Sub(f.base))) }
func (f *testFence) Held() bool              { return !f.lost.Load() && time.Now().Before(f.TrustedUntil()) }
func (f *testFence) TrustedUntil() time.Time { return f.base.Add(time.Duration(f.until.Load())) }
func (f *testFence) Cut(cause error) {
	f.cuts.Add(1)
	f.cause.Store(&cause)
	if f.onCut != nil {
		f.onCut()
	}
}

func testJID(n int) types.JID {
	return types.JID{User: fmt.Sprint(15550000 + n), Device: 1, Server: types.DefaultUserServer}
}

// pair makes d a paired device, as whatsmeow does at the end of pairing.
func pair(t testing.TB, d *store.Device, jid types.JID) {
	t.Helper()
	d.ID = &jid
	d.LID = types.JID{User: "9" + jid.User, Device: jid.Device, Server: types.HiddenUserServer}
	d.Account = &waAdv.ADVSignedDeviceIdentity{
		Details: []byte("details"), AccountSignature: make([]byte, 64), AccountSignatureKey: make([]byte, 32), DeviceSignature: make([]byte, 64),
	}
	require.NoError(t, d.Save(context.Background()))
}

// login is what follows the first login of d: the service takes prekeys.
func login(t testing.TB, d *store.Device) {
	t.Helper()
	list, err := d.PreKeys.GetOrGenPreKeys(context.Background(), 2)
	require.NoError(t, err)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(context.Background(), list[1].KeyID))
}

// open gives a paired device in a fresh term of kv.
func open(t testing.TB, kv *mapKV, opts ...Option) (*Container, *store.Device, *testFence) {
	t.Helper()
	c := New(kv, opts...)
	f := newFence(kv.epoch)
	d, err := c.Device(context.Background(), f)
	require.NoError(t, err)
	if d.ID == nil {
		pair(t, d, testJID(1))
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c, d, f
}

// reopen closes c and opens kv in the next term.
func reopen(t testing.TB, kv *mapKV, c *Container, opts ...Option) (*Container, *store.Device, *testFence) {
	t.Helper()
	require.NoError(t, c.Close(context.Background()))
	kv.setEpoch(kv.epoch + 1)
	return open(t, kv, opts...)
}
