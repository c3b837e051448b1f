package wasim

import (
	"context"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

func (m *memStore) GetBufferedEvent(_ context.Context, hash [32]byte) (*store.BufferedEvent, error) {
	defer m.lock()()
	if e := m.events[hash]; e != nil {
		c := *e
		return &c, nil
	}
	return nil, nil
}

func (m *memStore) PutBufferedEvent(ctx context.Context, hash [32]byte, plain []byte, at time.Time) error {
	defer m.lock()()
	if m.events[hash] != nil {
		return fmt.Errorf("event %x is buffered already", hash[:4])
	}
	put(ctx, m.events, hash, &store.BufferedEvent{Plaintext: plain, InsertTime: time.Now(), ServerTime: at})
	return nil
}

func (m *memStore) ClearBufferedEventPlaintext(_ context.Context, hash [32]byte) error {
	defer m.lock()()
	if e := m.events[hash]; e != nil {
		e.Plaintext = nil
	}
	return nil
}

func (m *memStore) DeleteOldBufferedHashes(context.Context) error {
	defer m.lock()()
	for k, e := range m.events {
		if time.Since(e.InsertTime) > 14*24*time.Hour {
			delete(m.events, k)
		}
	}
	return nil
}

func (m *memStore) PutLIDMapping(_ context.Context, lid, pn types.JID) error {
	if lid.Server != types.HiddenUserServer || pn.Server != types.DefaultUserServer {
		return fmt.Errorf("invalid LID mapping %s, %s", lid, pn)
	}
	defer m.lock()()
	if old := m.lidOf[pn.User]; old != "" && old != lid.User {
		delete(m.pnOf, old)
	}
	if old := m.pnOf[lid.User]; old != "" && old != pn.User {
		delete(m.lidOf, old)
	}
	m.lidOf[pn.User], m.pnOf[lid.User] = lid.User, pn.User
	return nil
}

func (m *memStore) PutManyLIDMappings(ctx context.Context, list []store.LIDMapping) error {
	for _, l := range list {
		_ = m.PutLIDMapping(ctx, l.LID, l.PN) // invalid entries are ignored
	}
	return nil
}

func (m *memStore) GetLIDForPN(_ context.Context, pn types.JID) (types.JID, error) {
	return m.twin(pn, types.DefaultUserServer, types.HiddenUserServer)
}

func (m *memStore) GetPNForLID(_ context.Context, lid types.JID) (types.JID, error) {
	return m.twin(lid, types.HiddenUserServer, types.DefaultUserServer)
}

func (m *memStore) twin(j types.JID, from, to string) (types.JID, error) {
	if j.Server != from {
		return types.EmptyJID, fmt.Errorf("%s is not on %s", j, from)
	}
	defer m.lock()()
	t := m.twins(types.JID{User: j.User, Server: j.Server})
	if len(t) < 2 {
		return types.EmptyJID, nil
	}
	return types.JID{User: t[1].User, Device: j.Device, Server: to}, nil
}

func (m *memStore) GetManyLIDsForPNs(ctx context.Context, pns []types.JID) (map[types.JID]types.JID, error) {
	out := make(map[types.JID]types.JID, len(pns))
	for _, pn := range pns {
		if lid, err := m.GetLIDForPN(ctx, pn); err == nil && !lid.IsEmpty() {
			out[pn] = lid
		}
	}
	return out, nil
}

var (
	_ store.AllStores       = (*memStore)(nil)
	_ store.DeviceContainer = (*memStore)(nil)
)
