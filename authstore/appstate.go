package authstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/store"
)

// App state. whatsmeow stores a patch in three calls whose errors it only
// logs: version, removed MACs, added MACs. They are staged and become visible
// and durable as one batch, so that a version never stands beside the MACs of
// another. They may ride: a patch that is lost is fetched again. So a flush leaves
// alone what is staged, and the end of a term drops it.

// appStateMemory is what this term knows of app state beside its rows.
// deviceStore.mu guards it.
type appStateMemory struct {
	staged map[string]*stagedAppState // by collection
	loaded map[string]struct{}        // collections whose MACs are in memory
	torn   map[string]struct{}        // collections that are kept without a version: see refused.go
}

func newAppStateMemory() appStateMemory {
	return appStateMemory{staged: make(map[string]*stagedAppState), loaded: make(map[string]struct{}), torn: make(map[string]struct{})}
}

// stage adds changes to those of a collection that wait for the rest of their patch.
func (m *appStateMemory) stage(name string, changes []change) *stagedAppState {
	st := m.staged[name]
	if st == nil {
		st = &stagedAppState{}
		m.staged[name] = st
	}
	st.changes = append(st.changes, changes...)
	return st
}

// waits reports whether st still waits for the rest of its patch.
func (m *appStateMemory) waits(name string, st *stagedAppState) bool { return m.staged[name] == st }

// unstage takes what waits of a collection, in order; false: nothing does.
func (m *appStateMemory) unstage(name string, background *tasks) ([]change, bool) {
	st := m.staged[name]
	if st == nil {
		return nil, false
	}
	delete(m.staged, name)
	st.stop(background)
	return st.changes, true
}

// stop stops the timers. The rows that wait are left where they are, and
// nobody takes them.
func (m *appStateMemory) stop(background *tasks) {
	for _, st := range m.staged {
		st.stop(background)
	}
}

// isLoaded reports whether the MACs of a collection are in memory.
func (m *appStateMemory) isLoaded(name string) bool {
	_, ok := m.loaded[name]
	return ok
}

func (m *appStateMemory) load(name string) { m.loaded[name] = struct{}{} }

// isTorn reports whether a collection, by the name that its MACs have, stands without a
// version.
func (m *appStateMemory) isTorn(name string) bool {
	_, ok := m.torn[name]
	return ok
}

func (m *appStateMemory) tear(name string) { m.torn[name] = struct{}{} }

// forget is for another device, with collections of its own.
func (m *appStateMemory) forget() {
	clear(m.loaded)
	clear(m.torn)
}

type stagedAppState struct {
	changes []change
	timer   *time.Timer
}

// stop stops the timer, and ends its task in the background.
func (st *stagedAppState) stop(background *tasks) {
	if st.timer != nil && st.timer.Stop() {
		background.Done()
	}
	st.timer = nil
}

func appKeyValue(k store.AppStateSyncKey) []byte {
	b := binary.AppendVarint(nil, k.Timestamp)
	b = appendBytes(b, k.Data)
	return appendBytes(b, k.Fingerprint)
}

func parseAppKey(b []byte) (k store.AppStateSyncKey, err error) {
	f := fields{b: b}
	k.Timestamp = f.varint()
	k.Data = copyOf(f.bytes())
	k.Fingerprint = copyOf(f.bytes())
	return k, f.err
}

// PutAppStateSyncKey stores key unless one as new stands there.
func (s *deviceStore) PutAppStateSyncKey(ctx context.Context, id []byte, key store.AppStateSyncKey) error {
	return s.update(ctx, "put app state key", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		if v, ok := get(tAppKey, string(id)); ok {
			if old, err := parseAppKey(v); err == nil && old.Timestamp >= key.Timestamp {
				return nil
			}
		}
		return []change{put(tAppKey, string(id), appKeyValue(key))}
	})
}

func (s *deviceStore) GetAppStateSyncKey(ctx context.Context, id []byte) (*store.AppStateSyncKey, error) {
	if err := s.ready("get app state key"); err != nil {
		return nil, err
	}
	v, ok := s.get(ctx, tAppKey, string(id))
	if !ok {
		return nil, nil
	}
	k, err := parseAppKey(v)
	if err != nil {
		return nil, s.setAside(tAppKey, string(id), v, err)
	}
	return &k, nil
}

func (s *deviceStore) GetLatestAppStateSyncKeyID(ctx context.Context) ([]byte, error) {
	if err := s.ready("get app state key"); err != nil {
		return nil, err
	}
	keys := s.appKeys(ctx)
	if len(keys) == 0 {
		return nil, nil
	}
	return []byte(keys[0].id), nil
}

// GetAllAppStateSyncKeys lists the keys, the newest first. Newer versions of
// whatsmeow ask for it.
func (s *deviceStore) GetAllAppStateSyncKeys(ctx context.Context) ([]*store.AppStateSyncKey, error) {
	if err := s.ready("get app state keys"); err != nil {
		return nil, err
	}
	var out []*store.AppStateSyncKey
	for _, k := range s.appKeys(ctx) {
		out = append(out, &k.key)
	}
	return out, nil
}

type appKey struct {
	id  string
	key store.AppStateSyncKey
}

// appKeys is the keys, newest first; of two of one time always in one order.
func (s *deviceStore) appKeys(ctx context.Context) []appKey {
	var keys []appKey
	s.each(ctx, tAppKey, func(id string, v []byte) {
		if k, err := parseAppKey(v); err == nil {
			keys = append(keys, appKey{id, k})
		}
	})
	slices.SortFunc(keys, func(a, b appKey) int {
		return cmp.Or(cmp.Compare(b.key.Timestamp, a.key.Timestamp), cmp.Compare(b.id, a.id))
	})
	return keys
}

func macID(name string, index []byte) string { return macName(name) + "\x00" + string(index) }

// macName is name in a form that can begin a row's id.
func macName(name string) string {
	if plain, hashed := keyID(name); !hashed && len(plain) <= 64 && !strings.ContainsRune(plain, '/') {
		return plain
	}
	return "~" + shortHash(name)
}

func (s *deviceStore) PutAppStateVersion(ctx context.Context, name string, version uint64, hash [128]byte) error {
	value := append(binary.LittleEndian.AppendUint64(nil, version), hash[:]...)
	return s.stage(ctx, "put app state version", name, false, put(tAppState, name, value))
}

func (s *deviceStore) DeleteAppStateMutationMACs(ctx context.Context, name string, indexMACs [][]byte) error {
	changes := make([]change, 0, len(indexMACs))
	for _, index := range indexMACs {
		changes = append(changes, del(tAppMAC, macID(name, index)))
	}
	return s.stage(ctx, "delete app state MACs", name, false, changes...)
}

// PutAppStateMutationMACs is the last of the three calls. Of several versions
// of an index MAC the newest is kept.
func (s *deviceStore) PutAppStateMutationMACs(ctx context.Context, name string, version uint64, mutations []store.AppStateMutationMAC) error {
	changes := make([]change, 0, len(mutations))
	for _, m := range mutations {
		changes = append(changes, put(tAppMAC, macID(name, m.IndexMAC), append(binary.LittleEndian.AppendUint64(nil, version), m.ValueMAC...)))
	}
	return s.stage(ctx, "put app state MACs", name, true, changes...)
}

// stage collects the changes of a patch of one collection until it is
// complete, or until nothing more comes.
func (s *deviceStore) stage(ctx context.Context, op, name string, complete bool, changes ...change) error {
	if err := s.ready(op); err != nil {
		return err
	}
	if err := s.loadMACs(ctx, op, name); err != nil {
		return err
	}
	if tx := s.txnOf(ctx); tx != nil {
		tx.add(changes)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.closed {
		return &overError{op: op, cause: ErrSuperseded}
	}
	st := s.appState.stage(name, changes)
	if complete {
		s.unstageLocked(name)
	} else if st.timer == nil && len(st.changes) > 0 {
		s.cfg.background.Add(1)
		st.timer = time.AfterFunc(soon, func() {
			defer s.cfg.background.Done()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.appState.waits(name, st) {
				st.timer = nil
				s.unstageLocked(name)
			}
		})
	}
	return nil
}

// unstageLocked hands a collection's changes on, in order, in one step.
func (s *deviceStore) unstageLocked(name string) {
	staged, ok := s.appState.unstage(name, &s.cfg.background)
	if !ok {
		return
	}
	var changes []change
	for _, c := range staged {
		old, ok := s.im.get(c.table, c.id)
		if c.del && !ok || !c.del && same(old, ok, c.value) {
			continue
		}
		if c.table == tAppMAC && !c.del && ok && len(old) >= 8 && binary.LittleEndian.Uint64(old) > binary.LittleEndian.Uint64(c.value) {
			continue // the newest version is read
		}
		changes = append(changes, c)
		s.im.apply(c) // so that the next one sees it
	}
	s.laterLocked(soon, changes...)
}

// settle makes what was staged for name visible to a reader.
func (s *deviceStore) settle(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstageLocked(name)
}

func (s *deviceStore) GetAppStateVersion(ctx context.Context, name string) (uint64, [128]byte, error) {
	var hash [128]byte
	if err := s.ready("get app state version"); err != nil {
		return 0, hash, err
	}
	s.settle(name)
	v, ok := s.get(ctx, tAppState, name)
	if !ok {
		return 0, hash, nil
	}
	if len(v) != 8+len(hash) {
		return 0, hash, s.setAside(tAppState, name, v, fmt.Errorf("%w: app state version of %d bytes", ErrCorrupt, len(v)))
	}
	copy(hash[:], v[8:])
	return binary.LittleEndian.Uint64(v), hash, nil
}

// DeleteAppStateVersion removes the collection's MACs as well.
func (s *deviceStore) DeleteAppStateVersion(ctx context.Context, name string) error {
	const op = "delete app state version"
	if err := s.ready(op); err != nil {
		return err
	}
	s.settle(name)
	if err := s.loadMACs(ctx, op, name); err != nil {
		return err
	}
	var changes []change
	if _, ok := s.get(ctx, tAppState, name); ok {
		changes = append(changes, del(tAppState, name))
	}
	s.each(ctx, tAppMAC, func(id string, _ []byte) {
		if strings.HasPrefix(id, macName(name)+"\x00") {
			changes = append(changes, del(tAppMAC, id))
		}
	})
	return s.later(ctx, op, soon, changes...)
}

func (s *deviceStore) GetAppStateMutationMAC(ctx context.Context, name string, indexMAC []byte) ([]byte, error) {
	const op = "get app state MAC"
	if err := s.ready(op); err != nil {
		return nil, err
	}
	s.settle(name)
	if err := s.loadMACs(ctx, op, name); err != nil {
		return nil, err
	}
	if v, ok := s.get(ctx, tAppMAC, macID(name, indexMAC)); ok && len(v) >= 8 {
		return copyOf(v[8:]), nil
	}
	return nil, nil
}

// loadMACs reads a collection's MACs, once. Those of a collection without a
// version are removed: they belong to none, and one that is found under a later
// version makes whatsmeow fail.
func (s *deviceStore) loadMACs(ctx context.Context, op, name string) error {
	s.mu.Lock()
	ok := s.appState.isLoaded(name)
	s.mu.Unlock()
	if ok {
		return nil
	}
	if err := s.acquire(ctx, op, s.macSem); err != nil {
		return err
	}
	defer func() { <-s.macSem }()
	s.mu.Lock()
	ok = s.appState.isLoaded(name)
	s.mu.Unlock()
	if ok {
		return nil
	}
	rows, err := s.scan(s.some(), op, tAppMAC, macName(name)+"/")
	if err != nil {
		return err
	}
	var bad []error
	s.mu.Lock()
	_, whole := s.im.get(tAppState, name)
	for _, r := range rows {
		if !whole { // of a version that is gone: what comes next begins at 0
			s.queue.mark(r.row)
		} else if err := s.im.load(r.row, r.data); err != nil {
			bad = append(bad, err)
		}
	}
	if s.appState.load(name); !whole {
		s.armLocked(lazily)
	}
	s.mu.Unlock()
	for _, err := range bad {
		s.cfg.incident(Incident{Kind: IncidentCorrupt, Row: specOf(tAppMAC).kind, Err: err})
	}
	return nil
}
