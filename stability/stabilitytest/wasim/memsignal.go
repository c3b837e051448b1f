package wasim

import (
	"context"
	"maps"
	"strings"
)

// memSignal is what libsignal keeps of others, by address. memStore.mu guards it. Its
// maps are changed by put and drop, so that a transaction can undo it.
type memSignal struct {
	identities map[string][32]byte
	sessions   map[string][]byte
	senderKeys map[[2]string][]byte // by group and address
}

func newMemSignal() memSignal {
	return memSignal{identities: map[string][32]byte{}, sessions: map[string][]byte{}, senderKeys: map[[2]string][]byte{}}
}

// move gives everything of the devices of one user to those of another.
func (s *memSignal) move(ctx context.Context, from, to string) {
	rename := func(addr string) (string, bool) {
		dev, ok := strings.CutPrefix(addr, from+":")
		return to + ":" + dev, ok
	}
	moveAll(ctx, s.sessions, rename)
	moveAll(ctx, s.identities, rename)
	moveAll(ctx, s.senderKeys, func(k [2]string) ([2]string, bool) {
		addr, ok := rename(k[1])
		return [2]string{k[0], addr}, ok
	})
}

// moveAll gives each entry the key that rename gives it; false: it keeps its own.
func moveAll[K comparable, V any](ctx context.Context, in map[K]V, rename func(K) (K, bool)) {
	for k, v := range maps.Clone(in) {
		if now, ok := rename(k); ok {
			put(ctx, in, now, v)
			drop(ctx, in, k)
		}
	}
}

// dropUser drops the entries of all devices of a user.
func dropUser[V any](ctx context.Context, in map[string]V, user string) {
	for addr := range maps.Clone(in) {
		if strings.HasPrefix(addr, user+":") || strings.HasPrefix(addr, user+"_1:") {
			drop(ctx, in, addr)
		}
	}
}

func (m *memStore) PutSenderKey(ctx context.Context, group, user string, session []byte) error {
	defer m.lock()()
	put(ctx, m.signal.senderKeys, [2]string{group, user}, session)
	return nil
}

func (m *memStore) GetSenderKey(_ context.Context, group, user string) ([]byte, error) {
	defer m.lock()()
	return m.signal.senderKeys[[2]string{group, user}], nil
}
