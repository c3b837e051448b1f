package authstore

import (
	"context"
	"fmt"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// The LID map: LID user to phone number user, unique in both directions. It is
// the account's, not the device's, and all in memory. The table holds both
// directions: "l" and the LID gives the number, "p" and the number the LID.

func (s *deviceStore) lidOf(ctx context.Context, pn string) (string, bool) {
	v, ok := s.get(ctx, tLID, "p"+pn)
	return string(v), ok
}

func (s *deviceStore) pnOf(ctx context.Context, lid string) (string, bool) {
	v, ok := s.get(ctx, tLID, "l"+lid)
	return string(v), ok
}

func (s *deviceStore) GetLIDForPN(ctx context.Context, pn types.JID) (types.JID, error) {
	if pn.Server != types.DefaultUserServer {
		return types.JID{}, fmt.Errorf("authstore: GetLIDForPN with %q, which is no phone number JID", pn.Server)
	}
	if err := s.gate.check("get LID"); err != nil {
		return types.JID{}, err
	}
	lid, ok := s.lidOf(ctx, pn.User)
	if !ok {
		return types.JID{}, nil
	}
	return types.JID{User: lid, Device: pn.Device, Server: types.HiddenUserServer}, nil
}

func (s *deviceStore) GetPNForLID(ctx context.Context, lid types.JID) (types.JID, error) {
	if lid.Server != types.HiddenUserServer {
		return types.JID{}, fmt.Errorf("authstore: GetPNForLID with %q, which is no LID", lid.Server)
	}
	if err := s.gate.check("get phone number"); err != nil {
		return types.JID{}, err
	}
	pn, ok := s.pnOf(ctx, lid.User)
	if !ok {
		return types.JID{}, nil
	}
	return types.JID{User: pn, Device: lid.Device, Server: types.DefaultUserServer}, nil
}

// GetManyLIDsForPNs keeps the device of each JID. What is unknown is absent.
func (s *deviceStore) GetManyLIDsForPNs(ctx context.Context, pns []types.JID) (map[types.JID]types.JID, error) {
	if err := s.gate.check("get LIDs"); err != nil {
		return nil, err
	}
	if len(pns) == 0 {
		return nil, nil
	}
	out := make(map[types.JID]types.JID, len(pns))
	for _, pn := range pns {
		if pn.Server != types.DefaultUserServer {
			continue
		}
		if lid, ok := s.lidOf(ctx, pn.User); ok {
			out[pn] = types.JID{User: lid, Device: pn.Device, Server: types.HiddenUserServer}
		}
	}
	return out, nil
}

func (s *deviceStore) PutLIDMapping(ctx context.Context, lid, pn types.JID) error {
	if lid.Server != types.HiddenUserServer || pn.Server != types.DefaultUserServer {
		return fmt.Errorf("authstore: PutLIDMapping with servers %q and %q: a LID and a phone number are wanted", lid.Server, pn.Server)
	}
	return s.putLIDs(ctx, []store.LIDMapping{{LID: lid, PN: pn}})
}

// PutManyLIDMappings ignores entries that are not a LID and a phone number.
func (s *deviceStore) PutManyLIDMappings(ctx context.Context, mappings []store.LIDMapping) error {
	return s.putLIDs(ctx, mappings)
}

func (s *deviceStore) putLIDs(ctx context.Context, mappings []store.LIDMapping) error {
	if err := s.gate.check("put LID mapping"); err != nil {
		return err
	}
	return s.update(ctx, "put LID mapping", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		var changes []change
		over := make(map[string]*string) // what this call has set
		look := func(id string) (string, bool) {
			if v, ok := over[id]; ok {
				if v == nil {
					return "", false
				}
				return *v, true
			}
			v, ok := get(tLID, id)
			return string(v), ok
		}
		set := func(id, v string) {
			over[id] = &v
			changes = append(changes, put(tLID, id, []byte(v)))
		}
		remove := func(id string) {
			over[id] = nil
			changes = append(changes, del(tLID, id))
		}
		for _, m := range mappings {
			if m.LID.Server != types.HiddenUserServer || m.PN.Server != types.DefaultUserServer {
				continue
			}
			lid, pn := "l"+m.LID.User, "p"+m.PN.User
			oldLID, hadLID := look(pn)
			oldPN, hadPN := look(lid)
			if hadLID && oldLID == m.LID.User && hadPN && oldPN == m.PN.User {
				continue
			}
			if hadLID && oldLID != m.LID.User {
				remove("l" + oldLID)
			}
			if hadPN && oldPN != m.PN.User {
				remove("p" + oldPN)
			}
			set(lid, m.PN.User)
			set(pn, m.LID.User)
		}
		return changes
	})
}
