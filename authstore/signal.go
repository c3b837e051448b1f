package authstore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"go.mau.fi/libsignal/state/record"
	"go.mau.fi/whatsmeow/store"
)

// Sessions, identities and sender keys.

// knownSessions is what this term knows of sessions beside their rows.
// deviceStore.mu guards it.
type knownSessions struct {
	migrated map[string]struct{} // PN users whose sessions have moved
	checked  map[string]struct{} // addresses whose session is known to parse
}

func newKnownSessions() knownSessions {
	return knownSessions{migrated: make(map[string]struct{}), checked: make(map[string]struct{})}
}

// parses reports whether the session of address is whatsmeow's own or was parsed.
func (k *knownSessions) parses(address string) bool {
	_, ok := k.checked[address]
	return ok
}

func (k *knownSessions) trust(addresses ...string) {
	for _, a := range addresses {
		k.checked[a] = struct{}{}
	}
}

// hasMoved reports whether the sessions of a PN user have moved to the LID.
func (k *knownSessions) hasMoved(user string) bool {
	_, ok := k.migrated[user]
	return ok
}

func (k *knownSessions) moved(user string) { k.migrated[user] = struct{}{} }

// forget is for another device.
func (k *knownSessions) forget() {
	clear(k.migrated)
	clear(k.checked)
}

// PutIdentity stores the identity key of address. Unchanged it costs nothing;
// changed it rides on the commit of the session that it belongs to.
func (s *deviceStore) PutIdentity(ctx context.Context, address string, key [32]byte) error {
	return s.update(ctx, "put identity", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		if old, ok := get(tIdentity, address); same(old, ok, key[:]) {
			return nil
		}
		return []change{put(tIdentity, address, copyOf(key[:]))}
	})
}

// IsTrustedIdentity is true for an address that is not known yet.
func (s *deviceStore) IsTrustedIdentity(ctx context.Context, address string, key [32]byte) (bool, error) {
	if err := s.ready("check identity"); err != nil {
		return false, err
	}
	old, ok := s.get(ctx, tIdentity, address)
	return !ok || string(old) == string(key[:]), nil
}

func (s *deviceStore) DeleteIdentity(ctx context.Context, address string) error {
	return s.update(ctx, "delete identity", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		if _, ok := get(tIdentity, address); !ok {
			return nil
		}
		return []change{del(tIdentity, address)}
	})
}

// DeleteAllIdentities removes the identities of all devices of a user, under
// the phone number and the LID alike.
func (s *deviceStore) DeleteAllIdentities(ctx context.Context, user string) error {
	const op = "delete identities"
	if err := s.ready(op); err != nil {
		return err
	}
	ours := s.devicesOf(ctx, user)
	var changes []change
	s.each(ctx, tIdentity, func(addr string, _ []byte) {
		if ours(addr) {
			changes = append(changes, del(tIdentity, addr))
		}
	})
	return s.write(ctx, op, changes...)
}

// devicesOf matches the addresses of a user given by the bare user part of a
// JID, which may be a phone number or a LID, and of its other name.
func (s *deviceStore) devicesOf(ctx context.Context, user string) func(addr string) bool {
	users := map[string]struct{}{user: {}, user + "_1": {}}
	if lid, ok := s.lidOf(ctx, user); ok {
		users[lid+"_1"] = struct{}{}
	}
	if pn, ok := s.pnOf(ctx, strings.TrimSuffix(user, "_1")); ok {
		users[pn] = struct{}{}
	}
	return func(addr string) bool {
		i := strings.LastIndexByte(addr, ':')
		if i < 0 {
			return false
		}
		_, ok := users[addr[:i]]
		return ok
	}
}

// GetSession opens a window on address.
func (s *deviceStore) GetSession(ctx context.Context, address string) ([]byte, error) {
	const op = "get session"
	if err := s.ready(op); err != nil {
		return nil, err
	}
	if err := s.touch(ctx, op, address); err != nil {
		return nil, err
	}
	return s.session(ctx, address)
}

// session reads a session and sets it aside if libsignal cannot parse it: a
// row that stays would keep that peer from getting any message.
func (s *deviceStore) session(ctx context.Context, address string) ([]byte, error) {
	v, ok := s.get(ctx, tSession, address)
	if !ok {
		return nil, nil
	}
	s.mu.Lock()
	checked := s.known.parses(address)
	s.mu.Unlock()
	if !checked {
		if err := parseSession(v); err != nil {
			return nil, s.setAside(tSession, address, v, err)
		}
		s.trust(address)
	}
	return copyOf(v), nil
}

// parseMany parses sessions that are asked for first, on all cores: those of a
// large group take some milliseconds. One that does not parse is left for
// session to set aside.
func (s *deviceStore) parseMany(ctx context.Context, addresses []string) {
	const fewest = 8 // for one core
	var todo []string
	s.mu.Lock()
	for _, a := range addresses {
		if !s.known.parses(a) {
			todo = append(todo, a)
		}
	}
	s.mu.Unlock()
	workers := min(runtime.GOMAXPROCS(0), len(todo)/fewest)
	if workers < 2 {
		return
	}
	good := make([][]string, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(todo); i += workers {
				if v, ok := s.get(ctx, tSession, todo[i]); ok && parseSession(v) == nil {
					good[w] = append(good[w], todo[i])
				}
			}
		})
	}
	wg.Wait()
	s.trust(slices.Concat(good...)...)
}

// trust notes that the session of address is whatsmeow's own or was parsed.
func (s *deviceStore) trust(addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.trust(addresses...)
}

func parseSession(b []byte) error {
	if wellKnownSession(b) {
		return nil
	}
	return parseWithLibsignal(b)
}

func parseWithLibsignal(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: a session does not parse: %v", ErrCorrupt, p)
		}
	}()
	if _, err := record.NewSessionFromBytes(b, store.SignalProtobufSerializer.Session, store.SignalProtobufSerializer.State); err != nil {
		return fmt.Errorf("%w: a session does not parse: %w", ErrCorrupt, err)
	}
	return nil
}

func (s *deviceStore) HasSession(ctx context.Context, address string) (bool, error) {
	const op = "has session"
	if err := s.ready(op); err != nil {
		return false, err
	}
	if s.txnOf(ctx) != nil {
		if err := s.touch(ctx, op, address); err != nil {
			return false, err
		}
	}
	v, err := s.session(ctx, address)
	return v != nil, err
}

// GetManySessions opens a send's window. Every address is in the result, with
// nil for a missing session.
func (s *deviceStore) GetManySessions(ctx context.Context, addresses []string) (_ map[string][]byte, err error) {
	const op = "get sessions"
	if err := s.ready(op); err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, nil
	}
	defer func() {
		if err != nil && s.txnOf(ctx) == nil {
			s.win.endSends() // no write will follow
		}
	}()
	if tx := s.txnOf(ctx); tx != nil {
		err = s.win.open(ctx, tx.claim, addresses)
	} else if err = s.win.readMany(ctx, addresses); err == nil {
		err = s.stillCurrent(ctx, addresses)
	}
	if err = s.windowErr(op, err); err != nil {
		return nil, err
	}
	s.parseMany(ctx, addresses)
	out := make(map[string][]byte, len(addresses))
	for _, a := range addresses {
		if out[a], err = s.session(ctx, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// stillCurrent fails for a send that chose a number's address before that
// number's sessions moved to its LID. A session made under the old address
// would be lost to the answers. Sent again, the message goes to the LID.
func (s *deviceStore) stillCurrent(ctx context.Context, addresses []string) error {
	for _, a := range addresses {
		i := strings.LastIndexByte(a, ':')
		if i < 0 {
			continue
		}
		s.mu.Lock()
		moved := s.known.hasMoved(a[:i])
		s.mu.Unlock()
		if !moved {
			continue
		}
		if _, ok := s.lidOf(ctx, a[:i]); ok {
			return fmt.Errorf("%w (its address moved to the LID)", ErrWindowBroken)
		}
	}
	return nil
}

// PutSession fails with ErrWindowBroken when what address was read as has
// changed since.
func (s *deviceStore) PutSession(ctx context.Context, address string, session []byte) error {
	return s.putSessions(ctx, "put session", map[string][]byte{address: session}, false)
}

// PutManySessions writes all or nothing and ends the send's window.
func (s *deviceStore) PutManySessions(ctx context.Context, sessions map[string][]byte) error {
	return s.putSessions(ctx, "put sessions", sessions, true)
}

func (s *deviceStore) putSessions(ctx context.Context, op string, sessions map[string][]byte, many bool) error {
	if err := s.ready(op); err != nil {
		return err
	}
	addrs := make([]string, 0, len(sessions))
	changes := make([]change, 0, len(sessions))
	for a, v := range sessions {
		addrs = append(addrs, a)
		changes = append(changes, put(tSession, a, copyOf(v)))
	}
	s.trust(addrs...)
	if tx := s.txnOf(ctx); tx != nil {
		if err := s.win.open(ctx, tx.claim, addrs); err != nil {
			return s.windowErr(op, err)
		}
		tx.add(changes)
		return nil
	}
	finish, err := s.win.beginWrite(ctx, addrs, many)
	if err != nil {
		return s.windowErr(op, err)
	}
	defer finish()
	if err := s.keepSending(ctx); err != nil {
		return err
	}
	return s.write(ctx, op, changes...)
}

func (s *deviceStore) DeleteSession(ctx context.Context, address string) error {
	return s.deleteSessions(ctx, "delete session", func(a string) bool { return a == address }, address)
}

// DeleteAllSessions removes the sessions of all devices of a user, under the
// phone number and the LID alike.
func (s *deviceStore) DeleteAllSessions(ctx context.Context, user string) error {
	return s.deleteSessions(ctx, "delete sessions", s.devicesOf(ctx, user))
}

func (s *deviceStore) deleteSessions(ctx context.Context, op string, match func(string) bool, addrs ...string) error {
	if err := s.ready(op); err != nil {
		return err
	}
	find := func() (changes []change) {
		s.each(ctx, tSession, func(a string, _ []byte) {
			if match(a) {
				changes = append(changes, del(tSession, a))
				if !slices.Contains(addrs, a) {
					addrs = append(addrs, a)
				}
			}
		})
		return changes
	}
	if tx := s.txnOf(ctx); tx != nil {
		changes := find()
		for n := -1; n < len(addrs); { // again: who was waited for may have begun others
			n = len(addrs)
			if err := s.win.open(ctx, tx.claim, addrs); err != nil {
				return s.windowErr(op, err)
			}
			changes = find()
		}
		tx.add(changes)
		return nil
	}
	c, err := s.win.exclusive(ctx, match)
	if err != nil {
		return s.windowErr(op, err)
	}
	defer s.win.close(c)
	return s.write(ctx, op, find()...)
}
