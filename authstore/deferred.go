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
	s.queue.postpone(s.im, changes...)
	s.armLocked(delay)
}

// armLocked sees to it that what rides is flushed after delay.
func (s *deviceStore) armLocked(delay time.Duration) {
	if !s.nothingRidesLocked() {
		s.queue.arm(delay)
	}
}

// nothingRidesLocked reports whether a flush would write nothing.
func (s *deviceStore) nothingRidesLocked() bool { return s.queue.clean() && s.damage.none() }

// flushFired is what the queue's timer calls.
func (s *deviceStore) flushFired() {
	s.mu.Lock()
	s.queue.fired()
	s.mu.Unlock()
	_ = s.flushDue("flush")
}

// mostSecrets is how many message secrets a commit takes along, for its other rows to
// have a place in the batch.
func (s *deviceStore) mostSecrets() int {
	if lim := s.gate.kv.Limits().MaxKeys; lim > 0 {
		return max(1, min(secretsAtOnce, lim/2))
	}
	return secretsAtOnce
}

// flush makes everything durable that was deferred before the call.
func (s *deviceStore) flush(op string) error {
	s.mu.Lock()
	s.queue.wantAll(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.queue.wantAll(-1)
		s.mu.Unlock()
	}()
	return s.flushDue(op)
}

// flushDue is flush of as much as one commit takes along; it sees to the rest.
func (s *deviceStore) flushDue(op string) error {
	s.mu.Lock()
	idle := s.nothingRidesLocked()
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
			if !s.queue.isDirty(row{t, id}) {
				delete(s.im.flat[t], id)
			}
		}
	}
}
