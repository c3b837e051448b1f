package wasim

import (
	"cmp"
	"context"
	"slices"

	"go.mau.fi/whatsmeow/store"
)

// memAppState is what a device knows of app state. memStore.mu guards it.
type memAppState struct {
	keys     map[string]store.AppStateSyncKey
	versions map[string]memVersion // by collection
	macs     map[[2]string][]byte  // by collection and index
}

type memVersion struct {
	Version uint64
	Hash    [128]byte
}

func newMemAppState() memAppState {
	return memAppState{keys: map[string]store.AppStateSyncKey{}, versions: map[string]memVersion{}, macs: map[[2]string][]byte{}}
}

// addKey keeps the newest key of an id.
func (s *memAppState) addKey(id string, key store.AppStateSyncKey) {
	if old, ok := s.keys[id]; !ok || key.Timestamp > old.Timestamp {
		s.keys[id] = key
	}
}

// latest is the id of the newest key, nil if there is none.
func (s *memAppState) latest() (id []byte) {
	best := int64(-1)
	for k, v := range s.keys {
		if v.Timestamp > best {
			best, id = v.Timestamp, []byte(k)
		}
	}
	return id
}

// allKeys gives all keys, the newest first.
func (s *memAppState) allKeys() []*store.AppStateSyncKey {
	var out []*store.AppStateSyncKey
	for _, k := range s.keys {
		out = append(out, &k)
	}
	slices.SortFunc(out, func(a, b *store.AppStateSyncKey) int { return cmp.Compare(b.Timestamp, a.Timestamp) })
	return out
}

// forget drops a collection, its MACs with its version.
func (s *memAppState) forget(name string) {
	delete(s.versions, name)
	for k := range s.macs {
		if k[0] == name {
			delete(s.macs, k)
		}
	}
}

func (m *memStore) PutAppStateSyncKey(_ context.Context, id []byte, key store.AppStateSyncKey) error {
	defer m.lock()()
	m.appState.addKey(string(id), key)
	return nil
}

func (m *memStore) GetAppStateSyncKey(_ context.Context, id []byte) (*store.AppStateSyncKey, error) {
	defer m.lock()()
	if k, ok := m.appState.keys[string(id)]; ok {
		return &k, nil
	}
	return nil, nil
}

func (m *memStore) GetLatestAppStateSyncKeyID(context.Context) (id []byte, _ error) {
	defer m.lock()()
	return m.appState.latest(), nil
}

// GetAllAppStateSyncKeys is asked for by newer versions of whatsmeow.
func (m *memStore) GetAllAppStateSyncKeys(context.Context) ([]*store.AppStateSyncKey, error) {
	defer m.lock()()
	return m.appState.allKeys(), nil
}

func (m *memStore) PutAppStateVersion(_ context.Context, name string, version uint64, hash [128]byte) error {
	defer m.lock()()
	m.appState.versions[name] = memVersion{version, hash}
	return nil
}

func (m *memStore) GetAppStateVersion(_ context.Context, name string) (uint64, [128]byte, error) {
	defer m.lock()()
	v := m.appState.versions[name]
	return v.Version, v.Hash, nil
}

func (m *memStore) DeleteAppStateVersion(_ context.Context, name string) error {
	defer m.lock()()
	m.appState.forget(name)
	return nil
}

func (m *memStore) PutAppStateMutationMACs(_ context.Context, name string, _ uint64, list []store.AppStateMutationMAC) error {
	defer m.lock()()
	for _, mac := range list {
		m.appState.macs[[2]string{name, string(mac.IndexMAC)}] = mac.ValueMAC
	}
	return nil
}

func (m *memStore) DeleteAppStateMutationMACs(_ context.Context, name string, index [][]byte) error {
	defer m.lock()()
	for _, i := range index {
		delete(m.appState.macs, [2]string{name, string(i)})
	}
	return nil
}

func (m *memStore) GetAppStateMutationMAC(_ context.Context, name string, index []byte) ([]byte, error) {
	defer m.lock()()
	return m.appState.macs[[2]string{name, string(index)}], nil
}
