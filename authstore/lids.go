package authstore

import (
	"context"
	"fmt"
	"strings"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// The LID map: LID user to phone number user, unique in both directions. It is
// the account's, not the device's, and all in memory. The table holds both
// directions: "l" and the LID gives the number, "p" and the number the LID.
//
// It has no bound unless Retention.LIDs sets one. A mapping is needed to find the
// sessions and secrets of a contact that were stored under the other name, and of
// the two directions only one can be asked of the service again.

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

// GetManyLIDsForPNs keeps the device of each JID. A JID that is unknown is absent.
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
		over := make(map[string]*string) // the mappings that this call has set
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

// surplusLIDsLocked removes mappings beyond Retention.LIDs, and a tenth more, so
// that the rows of the map are not written twice a day: of contacts of whom
// nothing else is stored.
func (s *deviceStore) surplusLIDsLocked() (changes []change) {
	most, n := s.cfg.retention.LIDs, 0
	if most <= 0 {
		return nil
	}
	for _, bucket := range s.im.packed[tLID] {
		n += len(bucket)
	}
	over := n/2 - most
	if over <= 0 {
		return nil
	}
	over += most / 10
	used := make(map[string]struct{})
	for _, t := range []tableID{tSession, tIdentity, tContact, tChat, tToken} {
		s.im.each(t, func(id string, _ []byte) {
			if i := strings.IndexAny(id, "_:.@"); i >= 0 {
				id = id[:i]
			}
			used[id] = struct{}{}
		})
	}
	used[s.device.GetJID().User], used[s.device.GetLID().User] = struct{}{}, struct{}{}
	s.im.each(tLID, func(id string, v []byte) {
		lid, isLID := strings.CutPrefix(id, "l")
		_, one := used[lid]
		_, other := used[string(v)]
		if isLID && !one && !other && over > 0 {
			over--
			changes = append(changes, del(tLID, id), del(tLID, "p"+string(v)))
		}
	})
	return changes
}
