package authstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.mau.fi/libsignal/groups/state/record"
	"go.mau.fi/whatsmeow/store"
)

// Sender keys are one for each member of each group who ever wrote: too many
// to hold. They are read when they are first used. Those that were used lately
// stay in memory, in two halves: when the younger half is full, it becomes the
// older one, and the keys of that are forgotten. So a group that is written in
// costs no read. A missing key is remembered as well.
//
// A key is written with each message that it decrypts, so the day of its last use
// stands in its row (see lastfield.go) and costs no write of its own.

const (
	defaultSenderKeyCache = 8 << 20
	maxAbsent             = 4096
)

type senderKeys struct {
	older   map[string][]byte   // the younger half is the image's
	size    int                 // bytes in the younger half
	absent  map[string]struct{} // known to be missing
	changes int                 // how often a key was written
	old     map[string]struct{} // not used for too long: the next commits remove them
	during  map[string]struct{} // written while the table is being looked at; nil: it is not
}

func (k *senderKeys) toRemove(id string) {
	if k.old == nil {
		k.old = make(map[string]struct{})
	}
	k.old[id] = struct{}{}
}

// stampUse notes in a sender key that it was used at now. One in a form that is
// not known stays as it is, and is kept for ever.
func stampUse(key []byte, now time.Time) []byte {
	if !takesField(key) {
		return copyOf(key)
	}
	return usedDay.appendTo(key, strconv.AppendInt(nil, now.Unix()/(24*60*60), 10))
}

// cutUse gives the sender key that stampUse was given, and its day. The key is
// the caller's own.
func cutUse(v []byte) (key []byte, day int64, ok bool) {
	key, number, ok := usedDay.cutFrom(v)
	if !ok {
		return copyOf(v), 0, false
	}
	day, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return copyOf(v), 0, false
	}
	return key, day, true
}

// senderKeyTime is the end of the day on which a sender key was last used, Unix
// seconds; false when that was not noted.
func senderKeyTime(v []byte) (unix int64, ok bool) {
	if len(v) == 0 || v[0] != '{' {
		return math.MaxInt64, true // it cannot be noted
	}
	_, day, ok := cutUse(v)
	return (day + 1) * 24 * 60 * 60, ok
}

// takeOldKeysLocked adds the removal of some old keys to the changes of a commit.
func (s *deviceStore) takeOldKeysLocked(changes map[logicalID]change) (ids []string) {
	for id := range s.keys.old {
		if len(ids) == removeAtOnce {
			break
		}
		delete(s.keys.old, id)
		if _, ok := changes[logicalID{tSenderKey, id}]; !ok {
			changes[logicalID{tSenderKey, id}] = del(tSenderKey, id)
			ids = append(ids, id)
		}
	}
	return ids
}

// senderKeyID begins with the sender, so that a user's keys share a prefix.
func senderKeyID(group, sender string) string {
	if strings.Contains(sender, "/") {
		return sender + "\x00" + group
	}
	return sender + "/" + group
}

// PutSenderKey is durable before it returns. Unchanged it costs nothing.
func (s *deviceStore) PutSenderKey(ctx context.Context, group, sender string, session []byte) error {
	const op = "put sender key"
	if err := s.ready(op); err != nil {
		return err
	}
	id := senderKeyID(group, sender)
	// libsignal has read it before it writes, so this reads nothing. Should it
	// not have: the row there might be of a newer format.
	old, ok, err := s.senderKey(ctx, op, id)
	if err != nil {
		return err
	}
	if key, _, _ := cutUse(old); same(key, ok, session) {
		return nil
	}
	return s.write(ctx, op, put(tSenderKey, id, stampUse(session, time.Now())))
}

// GetSenderKey reads from the KV what was not used lately.
func (s *deviceStore) GetSenderKey(ctx context.Context, group, sender string) ([]byte, error) {
	const op = "get sender key"
	if err := s.ready(op); err != nil {
		return nil, err
	}
	v, ok, err := s.senderKey(ctx, op, senderKeyID(group, sender))
	if err != nil || !ok {
		return nil, err
	}
	key, _, _ := cutUse(v)
	return key, nil
}

// knownSenderKey answers without I/O, if it can: known.
func (s *deviceStore) knownSenderKey(ctx context.Context, id string) (v []byte, ok, known bool) {
	if tx := s.txnOf(ctx); tx != nil {
		tx.mu.Lock()
		c, changed := tx.changes[logicalID{tSenderKey, id}]
		tx.mu.Unlock()
		if changed {
			return c.value, !c.del, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.im.get(tSenderKey, id); ok {
		return v, true, true
	}
	if v, ok := s.keys.older[id]; ok {
		s.keepSenderKeyLocked(id, v)
		return v, true, true
	}
	_, absent := s.keys.absent[id]
	return nil, false, absent
}

func (s *deviceStore) senderKey(ctx context.Context, op, id string) ([]byte, bool, error) {
	for {
		s.mu.Lock()
		before := s.keys.changes
		s.mu.Unlock()
		if v, ok, known := s.knownSenderKey(ctx, id); known {
			return v, ok, nil
		}
		v, ok, err := s.readRow(op, row{tSenderKey, id})
		if err != nil {
			return nil, false, err
		}
		if ok {
			if err := parseSenderKey(v); err != nil {
				if err := s.setAside(tSenderKey, id, v, err); err != nil {
					return nil, false, err
				}
				continue
			}
		}
		s.mu.Lock()
		current := before == s.keys.changes // else what was read may be old
		if current && ok {
			s.keepSenderKeyLocked(id, v)
		} else if current {
			if len(s.keys.absent) >= maxAbsent {
				clear(s.keys.absent)
			}
			s.keys.absent[id] = struct{}{}
		}
		s.mu.Unlock()
		if current {
			return v, ok, nil
		}
	}
}

// readRow reads one row of a table that is not packed.
func (s *deviceStore) readRow(op string, r row) ([]byte, bool, error) {
	s.mu.Lock()
	key, _, _ := s.keyOf(r)
	old, moving := s.oldKeyOf(r)
	s.mu.Unlock()
	var before []byte
	var had bool
	if moving { // first, or a move between the two looks would hide the row
		var err error
		if before, had, err = s.readKey(op, r, old); err != nil {
			return nil, false, err
		}
	}
	if v, ok, err := s.readKey(op, r, key); err != nil || ok {
		return v, ok, err
	}
	return before, had, nil
}

func (s *deviceStore) readKey(op string, r row, key Key) ([]byte, bool, error) {
	look, end := s.beginLook()
	defer end()
	s.mu.Lock()
	damaged := s.damage.at(key)
	s.mu.Unlock()
	if damaged {
		return nil, false, nil // it is on its way out
	}
	call := func(op string, f func(context.Context) error) error { return s.gate.run(op, false, f) }
	var answer result[map[Key][]byte]
	err := call(op, func(ctx context.Context) error { return answer.of(s.gate.kv.Get(ctx, key)) })
	if err != nil {
		return nil, false, err
	}
	raw, ok := answer.get()[key]
	if !ok {
		return nil, false, nil
	}
	got := s.openRow(call, op, r.table, Entry{key, raw}, r.bucket)
	if errors.Is(got.err, ErrCorrupt) {
		s.quarantine(look, []loadedRow{got})
		return nil, false, nil
	}
	return got.data, got.err == nil, got.err
}

func (s *deviceStore) keepSenderKeyLocked(id string, v []byte) {
	if old, ok := s.im.flat[tSenderKey][id]; ok {
		s.keys.size -= len(id) + len(old)
	}
	s.im.flat[tSenderKey][id] = v
	s.keys.size += len(id) + len(v)
	delete(s.keys.older, id)
	if s.keys.size > s.cfg.senderKeyCache/2 {
		s.keys.older, s.keys.size = s.im.flat[tSenderKey], 0
		s.im.flat[tSenderKey] = make(map[string][]byte)
	}
}

// wroteSenderKeyLocked follows a change that is durable.
func (s *deviceStore) wroteSenderKeyLocked(c change) {
	s.keys.changes++
	_, younger := s.im.flat[tSenderKey][c.id]
	_, older := s.keys.older[c.id]
	delete(s.keys.absent, c.id)
	delete(s.keys.old, c.id)
	if s.keys.during != nil {
		s.keys.during[c.id] = struct{}{}
	}
	switch {
	case c.del: // of what is there: else nobody removes it
		s.upkeep.grew(tSenderKey, -1)
	case !younger && !older: // who writes it has read it before, so it was missing
		s.upkeep.grew(tSenderKey, 1)
	}
	if !c.del {
		s.keepSenderKeyLocked(c.id, c.value)
		return
	}
	if old, ok := s.im.flat[tSenderKey][c.id]; ok {
		s.keys.size -= len(c.id) + len(old)
	}
	delete(s.im.flat[tSenderKey], c.id)
	delete(s.keys.older, c.id)
}

// senderKeysOf lists the sender keys whose ids begin with prefix, as ctx sees
// them.
func (s *deviceStore) senderKeysOf(ctx context.Context, op, prefix string) (map[string][]byte, error) {
	rows, err := s.scan(s.some(), op, tSenderKey, prefix)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	for _, r := range rows {
		// A row written meanwhile, or in the transaction, is newer.
		v, ok, known := s.knownSenderKey(ctx, r.row.bucket)
		if !known {
			v, ok = r.data, true
		}
		if ok {
			out[r.row.bucket] = v
		}
	}
	s.each(ctx, tSenderKey, func(id string, v []byte) {
		if strings.HasPrefix(id, prefix) {
			out[id] = v
		}
	})
	return out, nil
}

func (s *deviceStore) anySenderKey(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, half := range []map[string][]byte{s.im.flat[tSenderKey], s.keys.older} {
		for id := range half {
			if strings.HasPrefix(id, prefix) {
				return true
			}
		}
	}
	return false
}

func parseSenderKey(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: a sender key does not parse: %v", ErrCorrupt, p)
		}
	}()
	if _, err := record.NewSenderKeyFromBytes(b, store.SignalProtobufSerializer.SenderKeyRecord, store.SignalProtobufSerializer.SenderKeyState); err != nil {
		return fmt.Errorf("%w: a sender key does not parse: %w", ErrCorrupt, err)
	}
	return nil
}
