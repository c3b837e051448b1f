package authstore

import (
	"context"
	"slices"
)

// inBackground runs f unless the device is over.
func (s *deviceStore) inBackground(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.cfg.background.Add(1)
	go func() {
		defer s.cfg.background.Done()
		f()
	}()
}

// purgeInBackground removes the rows of devices that were replaced, and parts
// that nothing refers to.
func (s *deviceStore) purgeInBackground() {
	s.mu.Lock()
	h, orphans, doubtful := s.head, s.orphans, s.doubtful
	s.orphans, s.doubtful = nil, nil
	s.mu.Unlock()
	proved := h.Kept != nil && s.hasLoggedIn()
	if h.State != statePaired || len(h.Purge)+len(orphans)+len(doubtful) == 0 && !proved {
		return
	}
	s.inBackground(func() {
		if proved {
			if s.letGo() != nil {
				return
			}
			s.mu.Lock()
			h = s.head
			s.mu.Unlock()
		}
		for t, parts := range doubtful {
			more, err := s.lazyOrphans(t, parts)
			if err != nil {
				return
			}
			orphans = append(orphans, more...)
		}
		for keys := range slices.Chunk(orphans, 200) {
			if s.submit("drop orphaned parts", nil, Batch{Delete: keys}) != nil {
				return
			}
		}
		for _, gen := range h.Purge {
			if s.purge(gen) != nil {
				return // taken up again when the device is next loaded
			}
		}
	})
}

// hasLoggedIn reports whether the service has taken prekeys of this device,
// which it does after a login.
func (s *deviceStore) hasLoggedIn() bool {
	n, err := s.UploadedPreKeyCount(context.Background())
	return err == nil && n > 0
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

func (s *deviceStore) purge(gen string) error {
	const op = "purge a replaced device"
	for _, kind := range deviceKinds() {
		for { // again: a row may just have moved to its sealed name
			var answer result[[]Entry]
			err := s.gate.run(op, false, func(ctx context.Context) error {
				return answer.of(scanAll(s.gate.kv.Scan(ctx, kind, gen+"/")))
			})
			if err != nil {
				return err
			}
			var stale []Key
			for _, e := range answer.get() {
				stale = append(stale, e.Key)
			}
			for keys := range slices.Chunk(stale, 200) {
				if err := s.submit(op, nil, Batch{Delete: keys}); err != nil {
					return err
				}
			}
			if len(stale) == 0 || s.names.Load() == nil {
				break
			}
		}
	}
	return s.editHead(op, func(h *head) {
		h.Purge = slices.DeleteFunc(slices.Clone(h.Purge), func(g string) bool { return g == gen })
	})
}

// resetLocked makes memory that of a new generation; what is the account's
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
	clear(s.migrated)
	clear(s.checked)
	s.secrets = newWrittenSecrets(s.cfg.nextSecretTurn())
	clear(s.loaded)
	clear(s.torn)
	s.seenRow = ""
	s.pack = sentPack{own: s.pack.own, next: s.pack.next}
	for _, t := range countedTables {
		s.sizes[t] = size{known: true}
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
