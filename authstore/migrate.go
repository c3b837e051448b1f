package authstore

import (
	"context"
	"strings"

	"go.mau.fi/whatsmeow/types"
)

// MigratePNToLID moves sessions, identities and sender keys of every device of
// pn to lid, in one step, over what stands there. It is done once per user and
// term; a failure is tried again.
func (s *deviceStore) MigratePNToLID(ctx context.Context, pn, lid types.JID) error {
	const op = "migrate to LID"
	if err := s.ready(op); err != nil {
		return err
	}
	from, to := pn.SignalAddressUser(), lid.SignalAddressUser()
	s.mu.Lock()
	done := s.known.hasMoved(from)
	s.mu.Unlock()
	if done || from == to {
		return nil
	}
	oldPrefix, newPrefix := from+":", to+":"
	var senderKeys map[string][]byte
	find := func() (changes []change) {
		var known []string // to parse, under the new address as under the old
		move := func(t tableID, id string, v []byte) {
			rest, ok := strings.CutPrefix(id, oldPrefix)
			if !ok {
				return
			}
			changes = append(changes, put(t, newPrefix+rest, v), del(t, id))
			if t != tSession { // sender keys come without the mutex
				return
			}
			if s.known.parses(id) {
				known = append(known, newPrefix+rest)
			}
		}
		for _, t := range []tableID{tSession, tIdentity} {
			s.each(ctx, t, func(id string, v []byte) { move(t, id, v) })
		}
		for id, v := range senderKeys {
			move(tSenderKey, id, v)
		}
		s.trust(known...)
		return changes
	}
	// findAll is for inside the window: a message that is waited for may bring a
	// sender key. They come through a session and have its identity beside them:
	// without one there are none, and nothing is read.
	findAll := func() (_ []change, err error) {
		changes := find()
		if len(changes) == 0 && !s.anySenderKey(oldPrefix) {
			return nil, nil
		}
		if senderKeys, err = s.senderKeysOf(ctx, op, oldPrefix); err != nil {
			return nil, err
		}
		return find(), nil
	}
	if tx := s.txnOf(ctx); tx != nil {
		var addrs []string
		for _, c := range find() {
			if c.table == tSession {
				addrs = append(addrs, c.id)
			}
		}
		if err := s.win.open(ctx, tx.claim, addrs); err != nil {
			return s.windowErr(op, err)
		}
		changes, err := findAll()
		if err != nil {
			return err
		}
		tx.add(changes)
		return nil // remembered when it is found done
	}
	// Also when there is nothing to move: a send that is making a session under
	// the number would leave it there, where no answer to it is ever decrypted.
	c, err := s.win.exclusive(ctx, func(a string) bool {
		return strings.HasPrefix(a, oldPrefix) || strings.HasPrefix(a, newPrefix)
	})
	if err := s.windowErr(op, err); err != nil {
		return err
	}
	defer s.win.close(c)
	changes, err := findAll()
	if err != nil {
		return err
	}
	if err := s.write(ctx, op, changes...); err != nil {
		return err
	}
	s.mu.Lock()
	s.known.moved(from)
	s.mu.Unlock()
	return nil
}
