package authstore

import (
	"context"
	"slices"
	"time"
)

// inBackground runs f unless the device is over.
func (s *deviceStore) inBackground(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.closed {
		return
	}
	s.cfg.background.Add(1)
	go func() {
		defer s.cfg.background.Done()
		f()
	}()
}

// purgeInBackground removes the rows of devices that were replaced, and parts that
// nothing refers to. The rest is tried again in an hour, or when the device is
// loaded next.
func (s *deviceStore) purgeInBackground() {
	s.mu.Lock()
	h, here := s.head, s.proved
	orphans, doubtful := s.upkeep.loose.takeParts()
	s.mu.Unlock()
	proved := h.Kept != nil && (here || !h.Kept.Imported && s.hasLoggedIn())
	if h.State != statePaired || len(h.Purge)+len(orphans)+len(doubtful) == 0 && !proved {
		return
	}
	s.inBackground(func() {
		warn := func(err error) {
			s.cfg.log.Warn("rows that nothing needs any more were not removed; the removal is tried again in an hour", "error", err)
		}
		work := func() error {
			if proved {
				if err := s.letGo(); err != nil {
					return err
				}
			}
			for t, parts := range doubtful {
				more, err := s.lazyOrphans(t, parts)
				if err != nil {
					return err
				}
				delete(doubtful, t)
				orphans = append(orphans, more...)
			}
			for keys := range slices.Chunk(orphans, removeRows) {
				if err := s.submit("drop orphaned parts", nil, Batch{Delete: keys}); err != nil {
					return err
				}
			}
			s.mu.Lock()
			h := s.head
			s.mu.Unlock()
			for _, gen := range h.Purge {
				if err := s.purge(gen); err != nil {
					return err
				}
			}
			return nil
		}
		s.untilDone(warn, func() error {
			if err := work(); !permanent(err) {
				return err
			}
			return nil // refused for good: left to the next device
		})
	})
}

// untilDone calls f again each hour until it succeeds or the device is over. warn is
// told of each error in between.
func (s *deviceStore) untilDone(warn func(error), f func() error) {
	for s.gate.check("") == nil {
		err := f()
		if err == nil || s.gate.check("") != nil {
			return
		}
		warn(err)
		t := time.NewTimer(time.Hour)
		select {
		case <-t.C:
		case <-s.gate.over:
			t.Stop()
		}
	}
}

// hasLoggedIn reports whether the service has taken prekeys of this device,
// which it does after a login.
func (s *deviceStore) hasLoggedIn() bool {
	n, err := s.UploadedPreKeyCount(context.Background())
	return err == nil && n > 0
}

// loggedIn is told of what comes only behind a login. The device in whose place this one
// was put is not needed any more.
func (s *deviceStore) loggedIn() {
	s.mu.Lock()
	first := s.head.Kept != nil && !s.proved
	s.proved = s.proved || first
	s.mu.Unlock()
	if first {
		s.purgeInBackground()
	}
}

// letGo gives up the device in whose place this one was paired.
func (s *deviceStore) letGo() error {
	const op = "let a replaced device go"
	return s.editHead(op, func(h *head) {
		if h.Kept != nil {
			h.Purge = append(slices.Clone(h.Purge), h.Kept.Gen)
			h.Kept = nil
		}
	})
}

// editHead changes the record of the account's device.
func (s *deviceStore) editHead(op string, edit func(*head)) error {
	if err := s.acquire(context.Background(), op, s.saveSem); err != nil {
		return err
	}
	defer func() { <-s.saveSem }()
	s.mu.Lock()
	h := s.head
	s.mu.Unlock()
	if h.State != statePaired {
		return nil
	}
	edit(&h)
	return s.writeHead(op, h)
}

// writeHead puts h in place of the record of the account's device. The caller
// holds saveSem.
func (s *deviceStore) writeHead(op string, h head) error {
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	if err := s.submit(op, []change{put(tHead, headID, encoded)}, Batch{}); err != nil {
		return err
	}
	s.mu.Lock()
	s.head = h
	s.mu.Unlock()
	return nil
}

// deviceKinds are the kinds of rows that stand under a generation.
func deviceKinds() []Kind {
	kinds := []Kind{kindPart}
	for t := range numTables {
		if sp := specOf(t); !sp.global {
			kinds = append(kinds, sp.kind)
		}
	}
	return kinds
}

// removeRows is how many rows are removed at once, where many go.
const removeRows = 200

// dropGeneration removes all rows of a generation. While rows may be moving to their
// sealed names it looks until there are none.
func dropGeneration(kv KV, gen, op string, moving bool, look caller, remove func([]Key) error) error {
	for _, kind := range deviceKinds() {
		for {
			keys, err := scanKeys(kv, kind, gen+"/", op, look)
			if err != nil {
				return err
			}
			for some := range slices.Chunk(keys, removeRows) {
				if err := remove(some); err != nil {
					return err
				}
			}
			if len(keys) == 0 || !moving {
				break
			}
		}
	}
	return nil
}

// scanKeys is Scan without the values.
func scanKeys(kv KV, kind Kind, prefix, op string, look caller) ([]Key, error) {
	var answer result[[]Key]
	err := look(op, func(ctx context.Context) error {
		var keys []Key
		for e, err := range kv.Scan(ctx, kind, prefix) {
			if err != nil {
				return err
			}
			keys = append(keys, e.Key)
		}
		return answer.of(keys, nil)
	})
	return answer.get(), err
}

func (s *deviceStore) purge(gen string) error {
	const op = "purge a replaced device"
	look := func(op string, f func(context.Context) error) error { return s.gate.look(context.Background(), op, f) }
	err := dropGeneration(s.gate.kv, gen, op, s.names.Load() != nil, look, func(keys []Key) error {
		return s.submit(op, nil, Batch{Delete: keys})
	})
	if err != nil {
		return err
	}
	return s.editHead(op, func(h *head) {
		h.Purge = slices.DeleteFunc(slices.Clone(h.Purge), func(g string) bool { return g == gen })
	})
}

// resetLocked makes memory that of a new generation. The account's part of it
// stays.
func (s *deviceStore) resetLocked(gen string) {
	fresh := newImage()
	for t := range numTables {
		if specOf(t).global {
			fresh.flat[t], fresh.packed[t] = s.im.flat[t], s.im.packed[t]
		}
	}
	s.im, s.gen = fresh, gen
	s.keys = senderKeys{absent: make(map[string]struct{}), changes: s.keys.changes + 1}
	s.known.forget()
	s.secrets = newWrittenSecrets(s.cfg.nextSecretTurn())
	s.appState.forget()
	s.events.forget()
	s.proved = false
	s.pack = sentPack{own: s.pack.own, next: s.pack.next}
	for _, t := range countedTables {
		s.upkeep.counted(t, 0)
	}
}

// flushBefore flushes under the old generation, if there is one.
func (s *deviceStore) flushBefore(op string) error {
	s.mu.Lock()
	gen := s.gen
	s.mu.Unlock()
	if gen == "" {
		return s.gate.check(op)
	}
	return s.flush(op)
}
