package wasim

import (
	"context"
	"slices"
	"sync"

	"go.mau.fi/whatsmeow/util/keys"
)

// memPreKeys are the one-time prekeys of a device. An id is never given twice.
// memStore.mu guards it.
type memPreKeys struct {
	keys map[uint32]*memPreKey
	next uint32
}

type memPreKey struct {
	Priv     [32]byte
	Uploaded bool
}

func newMemPreKeys() memPreKeys { return memPreKeys{keys: map[uint32]*memPreKey{}, next: 1} }

// make makes a new key.
func (p *memPreKeys) make(uploaded bool) *keys.PreKey {
	id := p.next
	p.next++
	var pk *keys.PreKey
	if table := firstKeys(); int(id) <= len(table) {
		pk = &keys.PreKey{KeyPair: table[id-1], KeyID: id}
	} else {
		pk = keys.NewPreKey(id)
	}
	p.keys[id] = &memPreKey{Priv: *pk.Priv, Uploaded: uploaded}
	return pk
}

// get is nil for a key that is not there.
func (p *memPreKeys) get(id uint32) *keys.PreKey {
	k := p.keys[id]
	if k == nil {
		return nil
	}
	if table := firstKeys(); int(id) <= len(table) {
		return &keys.PreKey{KeyPair: table[id-1], KeyID: id}
	}
	return &keys.PreKey{KeyPair: *keys.NewKeyPairFromPrivateKey(k.Priv), KeyID: id}
}

// fresh gives count keys that were not uploaded, the oldest first, and makes what is
// missing.
func (p *memPreKeys) fresh(count int) []*keys.PreKey {
	var ids []uint32
	for id, k := range p.keys {
		if !k.Uploaded {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var out []*keys.PreKey
	for _, id := range ids[:min(len(ids), count)] {
		out = append(out, p.get(id))
	}
	for len(out) < count {
		out = append(out, p.make(false))
	}
	return out
}

func (p *memPreKeys) markUploaded(upTo uint32) {
	for id, k := range p.keys {
		if id <= upTo {
			k.Uploaded = true
		}
	}
}

func (p *memPreKeys) uploaded() (n int) {
	for _, k := range p.keys {
		if k.Uploaded {
			n++
		}
	}
	return n
}

// firstKeys are the one-time prekeys that all memory devices begin with. Each
// uploads 812 at its first login, and making them is most of what a new client
// costs; nothing here depends on their being secret.
var firstKeys = sync.OnceValue(func() []keys.KeyPair {
	out := make([]keys.KeyPair, 812)
	for i := range out {
		out[i] = *keys.NewKeyPair()
	}
	return out
})

func (m *memStore) GetOrGenPreKeys(_ context.Context, count uint32) ([]*keys.PreKey, error) {
	defer m.lock()()
	return m.prekeys.fresh(int(count)), nil
}

func (m *memStore) GenOnePreKey(context.Context) (*keys.PreKey, error) {
	defer m.lock()()
	return m.prekeys.make(true), nil
}

func (m *memStore) GetPreKey(_ context.Context, id uint32) (*keys.PreKey, error) {
	defer m.lock()()
	return m.prekeys.get(id), nil
}

func (m *memStore) RemovePreKey(ctx context.Context, id uint32) error {
	defer m.lock()()
	drop(ctx, m.prekeys.keys, id)
	return nil
}

func (m *memStore) MarkPreKeysAsUploaded(_ context.Context, upTo uint32) error {
	defer m.lock()()
	m.prekeys.markUploaded(upTo)
	return nil
}

func (m *memStore) UploadedPreKeyCount(context.Context) (n int, _ error) {
	defer m.lock()()
	return m.prekeys.uploaded(), nil
}
