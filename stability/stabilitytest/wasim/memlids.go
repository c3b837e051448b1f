package wasim

import (
	"context"
	"fmt"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// memLIDs says which LID and which number are one user. Each has at most one other.
// memStore.mu guards it.
type memLIDs struct {
	lidOf map[string]string
	pnOf  map[string]string
}

func newMemLIDs() memLIDs { return memLIDs{lidOf: map[string]string{}, pnOf: map[string]string{}} }

// pair takes each of the two from the other that it had.
func (l *memLIDs) pair(lid, pn string) {
	if old := l.lidOf[pn]; old != "" && old != lid {
		delete(l.pnOf, old)
	}
	if old := l.pnOf[lid]; old != "" && old != pn {
		delete(l.lidOf, old)
	}
	l.lidOf[pn], l.pnOf[lid] = lid, pn
}

// twins are the names of a user: the one that is given first, then the other, if it is
// known.
func (l *memLIDs) twins(j types.JID) []types.JID {
	out := []types.JID{j}
	if u := l.lidOf[j.User]; j.Server == types.DefaultUserServer && u != "" {
		out = append(out, types.NewJID(u, types.HiddenUserServer))
	}
	if u := l.pnOf[j.User]; j.Server == types.HiddenUserServer && u != "" {
		out = append(out, types.NewJID(u, types.DefaultUserServer))
	}
	return out
}

func (m *memStore) PutLIDMapping(_ context.Context, lid, pn types.JID) error {
	if lid.Server != types.HiddenUserServer || pn.Server != types.DefaultUserServer {
		return fmt.Errorf("invalid LID mapping %s, %s", lid, pn)
	}
	defer m.lock()()
	m.lids.pair(lid.User, pn.User)
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
	t := m.lids.twins(types.JID{User: j.User, Server: j.Server})
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
