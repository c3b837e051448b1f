package authstore

import "time"

// A write that need not be durable at once is applied to memory at once and marked
// dirty. It rides on the next commit, or is flushed when the first of it is
// old enough. Close flushes.

const (
	soon    = time.Second     // what belongs to messages
	lazily  = 5 * time.Second // names and chat settings
	maxLate = 512             // dirty rows that force a flush

	// secretsAtOnce is how many message secrets a commit takes along. A history sync
	// brings tens of thousands, and a message must not wait for all of them.
	secretsAtOnce = 512
)

// laterLocked defers changes; mu is held.
func (s *deviceStore) laterLocked(delay time.Duration, changes ...change) {
	s.turn++
	for _, c := range changes {
		s.dirty[s.im.rowOf(c)] = struct{}{}
		s.im.apply(c)
		s.late[logicalID{c.table, c.id}] = s.turn
	}
	s.armLocked(delay)
}

// armLocked sees to it that what is deferred is flushed after delay.
func (s *deviceStore) armLocked(delay time.Duration) {
	if len(s.dirty)+len(s.asides) == 0 || s.closed {
		return
	}
	at := time.Now().Add(delay)
	if len(s.dirty) > maxLate {
		at = time.Now()
	}
	if s.timer != nil && !at.Before(s.flushAt) {
		return
	}
	s.stopTimerLocked()
	s.flushAt = at
	s.cfg.background.Add(1)
	s.timer = time.AfterFunc(time.Until(at), func() {
		defer s.cfg.background.Done()
		s.mu.Lock()
		s.timer = nil
		s.mu.Unlock()
		_ = s.flushDue("flush")
	})
}

// takeDirtyLocked gives the deferred rows that a commit takes along. Of many message
// secrets some are left, for the next ones.
func (s *deviceStore) takeDirtyLocked() (took map[row]struct{}, left bool) {
	most := secretsAtOnce
	if lim := s.gate.kv.Limits().MaxKeys; lim > 0 {
		most = max(1, min(most, lim/2))
	}
	took = s.dirty
	if len(took) <= most || s.wholly > 0 {
		s.dirty = make(map[row]struct{})
		return took, false
	}
	// What is left stays where it is: behind a history sync it is nearly all.
	took = make(map[row]struct{})
	secrets := 0
	for r := range s.dirty {
		if r.table == tSecret {
			if secrets++; secrets > most {
				continue
			}
		}
		took[r] = struct{}{}
		delete(s.dirty, r)
	}
	return took, len(s.dirty) > 0
}

func (s *deviceStore) stopTimerLocked() {
	if s.timer != nil && s.timer.Stop() {
		s.cfg.background.Done()
	}
	s.timer = nil
}

// flush makes everything durable that was deferred before the call.
func (s *deviceStore) flush(op string) error {
	s.mu.Lock()
	s.wholly++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.wholly--
		s.mu.Unlock()
	}()
	return s.flushDue(op)
}

// flushDue is flush of as much as one commit takes along; it sees to the rest.
func (s *deviceStore) flushDue(op string) error {
	s.mu.Lock()
	idle := len(s.dirty)+len(s.asides) == 0
	s.mu.Unlock()
	if idle {
		// Something deferred may be on its way: wait for it.
		select {
		case s.commitSem <- struct{}{}:
			<-s.commitSem
		case <-s.gate.over:
		}
		return s.gate.check(op)
	}
	return s.submit(op, nil, Batch{})
}

// forgetLazyLocked drops what is read on demand and is durable by now, so that
// a long term does not collect every secret it has seen.
func (s *deviceStore) forgetLazyLocked() {
	for _, t := range []tableID{tSecret, tOutgoing} {
		if len(s.im.flat[t]) < 256 {
			continue
		}
		for id := range s.im.flat[t] {
			if _, dirty := s.dirty[row{t, id}]; !dirty {
				delete(s.im.flat[t], id)
			}
		}
	}
}
