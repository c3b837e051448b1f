package authstore

import "strings"

// The KV may refuse for good a row that rides. A poisonous row must not hold up
// the others, so each is then written alone. A row that is refused alone too stays
// in memory until the term ends. The removal of an old row is given up until the
// next look finds that row again. A damaged row that cannot be kept aside stays where
// it is until something is written over it.
//
// App state is the exception. A version that stands without one of its MACs makes
// whatsmeow fail much later, on a patch that is all right. So a version is
// written with its MACs or not at all: a collection of which a row was refused is
// torn, and stands without a version from then on. The next term then finds
// version 0, and asks for the collection anew.

// flushAlone writes what rides one by one after a batch was refused for good, an
// app-state version together with its MACs.
func (s *deviceStore) flushAlone() {
	s.mu.Lock()
	took, left := s.queue.takeDirty(s.mostSecrets())
	if left {
		s.armLocked(0)
	}
	s.mu.Unlock()
	together := make(map[string][]row) // by collection
	for r := range took {
		if name, ok := collectionOf(r); ok {
			together[name] = append(together[name], r)
		} else {
			s.writeAlone(r)
		}
	}
	for name, rows := range together {
		if !s.writeAlone(rows...) {
			s.tear(name)
		}
	}
	s.asidesAlone()
	s.removalsAlone()
	s.oldKeysAlone()
}

// asidesAlone keeps each damaged row aside for itself.
func (s *deviceStore) asidesAlone() {
	s.mu.Lock()
	asides := s.damage.takeFree()
	s.mu.Unlock()
	for key, kept := range asides {
		err := s.commitAlone(nil, Batch{Put: kept, Delete: []Key{key}})
		if err == nil {
			continue
		}
		s.mu.Lock()
		s.damage.refuse(key, kept)
		s.mu.Unlock()
		s.refused(key.Kind, err)
	}
}

// overStuck repeats a write that was refused for good: perhaps the KV refuses only
// what is to be kept of a damaged row below it. It is then left behind.
func (s *deviceStore) overStuck(refused error, write func() error) error {
	s.asidesAlone() // shows which these are
	s.mu.Lock()
	again := s.damage.beginLeaving()
	s.mu.Unlock()
	if !again {
		return refused
	}
	err := write()
	s.mu.Lock()
	s.damage.endLeaving()
	s.mu.Unlock()
	return err
}

// removalsAlone removes the old rows that the next commit would take along.
func (s *deviceStore) removalsAlone() {
	s.mu.Lock()
	keys := s.takeRemovalsLocked(nil)
	s.mu.Unlock()
	inHalves(keys, func(keys []Key) error {
		err := s.commitAlone(nil, Batch{Delete: keys})
		if err == nil {
			s.mu.Lock()
			s.upkeep.grew(tSecret, -len(keys))
			s.mu.Unlock()
		}
		return err
	}, func(k Key, err error) { s.refused(k.Kind, err) })
}

// oldKeysAlone does the same for sender keys.
func (s *deviceStore) oldKeysAlone() {
	s.mu.Lock()
	ids := s.takeOldKeysLocked(make(map[logicalID]change))
	s.mu.Unlock()
	inHalves(ids, func(ids []string) error {
		rows := make([]renderedRow, 0, len(ids))
		for _, id := range ids {
			rows = append(rows, renderedRow{row: row{tSenderKey, id}})
		}
		err := s.commitAlone(rows, Batch{})
		if err == nil {
			s.mu.Lock()
			for _, id := range ids {
				s.wroteSenderKeyLocked(del(tSenderKey, id))
			}
			s.mu.Unlock()
		}
		return err
	}, func(_ string, err error) { s.refused(specOf(tSenderKey).kind, err) })
}

// inHalves writes items together. If they are refused, it tries each half, and so
// on: one that is refused alone holds up no other.
func inHalves[T any](items []T, write func([]T) error, refused func(T, error)) {
	if len(items) == 0 {
		return
	}
	err := write(items)
	switch half := len(items) / 2; {
	case err == nil:
	case half == 0:
		refused(items[0], err)
	default:
		inHalves(items[:half], write, refused)
		inHalves(items[half:], write, refused)
	}
}

// commitAlone writes rows and raw and nothing else. An error means that they were
// refused for good; behind the end of the term there is none.
func (s *deviceStore) commitAlone(rows []renderedRow, raw Batch) error {
	if _, err := s.commitRows("flush", rows, raw, false); err != nil && s.gate.check("flush") == nil {
		return err
	}
	return nil
}

func (s *deviceStore) refused(kind Kind, err error) {
	s.cfg.incident(Incident{Kind: IncidentRefused, Row: kind, Err: err})
}

// putBackAsidesLocked is for a commit that was refused: the part that landed before
// has taken the place of the damaged row. mu is held.
func (s *deviceStore) putBackAsidesLocked(taken map[Key][]Entry, landed map[row]struct{}) {
	for r := range landed {
		for _, key := range s.keysOf(r) {
			delete(taken, key)
		}
	}
	s.damage.putBack(taken)
}

// keysOf is wherever a row may stand.
func (s *deviceStore) keysOf(r row) []Key {
	key, _, _ := s.keyOf(r)
	if old, ok := s.oldKeyOf(r); ok {
		return []Key{key, old}
	}
	return []Key{key}
}

// writeAlone writes rows and nothing else; false: they were refused for good.
func (s *deviceStore) writeAlone(rows ...row) bool {
	write := func() error { return s.tryAlone(rows) }
	err := write()
	if err != nil {
		err = s.overStuck(err, write)
	}
	if err == nil {
		return true
	}
	if s.gate.check("flush") != nil {
		return true
	}
	s.refused(specOf(rows[0].table).kind, err)
	return false
}

func (s *deviceStore) tryAlone(rows []row) error {
	rendered := make([]renderedRow, 0, len(rows))
	aside := make(map[Key][]Entry)
	var raw Batch
	s.mu.Lock()
	for _, r := range rows {
		data, ok := s.im.render(r, nil)
		rendered = append(rendered, renderedRow{r, data, ok && !s.tornLocked(r)})
		raw.Put = append(raw.Put, s.damage.takeUnder(s.keysOf(r), aside)...)
	}
	s.mu.Unlock()
	landed, err := s.commitRows("flush", rendered, raw, false)
	if err != nil {
		s.mu.Lock()
		s.putBackAsidesLocked(aside, landed)
		s.mu.Unlock()
	}
	return err
}

// tear takes the version of a collection off the disk, in this term for good.
func (s *deviceStore) tear(name string) {
	s.mu.Lock()
	s.appState.tear(name)
	var versions []row
	s.im.each(tAppState, func(id string, _ []byte) {
		if macName(id) == name {
			versions = append(versions, row{tAppState, id})
		}
	})
	s.mu.Unlock()
	for _, r := range versions {
		s.writeAlone(r)
	}
}

// tornLocked reports whether a row is the version of a torn collection.
func (s *deviceStore) tornLocked(r row) bool {
	return r.table == tAppState && s.appState.isTorn(macName(r.bucket))
}

// collectionOf names the collection of a row of app state, as its MACs name it.
func collectionOf(r row) (name string, ok bool) {
	switch r.table {
	case tAppState:
		return macName(r.bucket), true
	case tAppMAC:
		name, _, _ = strings.Cut(r.bucket, "/")
		return name, true
	}
	return "", false
}
