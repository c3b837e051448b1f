package authstore

// retire ends the device. Nothing more is written through it.
func (s *deviceStore) retire(cause error) {
	s.mu.Lock()
	s.queue.close()
	s.queue.disarm()
	s.appState.stop(&s.cfg.background)
	s.mu.Unlock()
	s.gate.end(cause)
}

// end is retire for a device on which a connection may still be up. Such a
// connection would stay up, and deaf: nothing that it receives could be
// decrypted.
func (s *deviceStore) end(cause error) {
	s.mu.Lock()
	paired := s.gen != ""
	s.mu.Unlock()
	if paired {
		s.gate.cut(cause)
	}
	s.retire(cause)
}

// dismiss is end, and keeps what was deferred.
func (s *deviceStore) dismiss(cause error) error {
	err := s.flushLast()
	s.end(cause)
	return err
}

// retireAfterFlush ends the device and keeps what was deferred.
func (s *deviceStore) retireAfterFlush(cause error) error {
	err := s.flushLast()
	s.retire(cause)
	return err
}

// flushLast keeps deferred rows: those that come after the last look are
// refused, not forgotten.
func (s *deviceStore) flushLast() error {
	var err error
	for range 3 {
		if s.gate.check("") != nil {
			break
		}
		s.mu.Lock()
		s.packLocked(false)
		// Nothing waits for a lock that is not held only to store numbers.
		if c, changed := s.sizesLocked(); changed && s.gen != "" && !s.queue.closed && s.gate.fence.Held() {
			s.laterLocked(lazily, c)
		}
		s.mu.Unlock()
		if err = s.flush("flush"); err != nil {
			break
		}
		s.mu.Lock()
		done := s.nothingRidesLocked() && len(s.pack.loose) == 0
		if done {
			s.queue.close()
		}
		s.mu.Unlock()
		if done {
			break
		}
	}
	if err == nil && s.gate.check("") == nil {
		s.mu.Lock()
		late := !s.queue.closed
		s.queue.close() // somebody defers without end
		s.mu.Unlock()
		if late {
			err = s.flush("flush")
		}
	}
	return err
}
