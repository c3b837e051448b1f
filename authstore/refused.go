package authstore

import "strings"

// The KV may refuse for good a row that rides. A poisonous row must not hold up
// the others, so each is then written alone. A row that is refused alone too stays
// in memory until the term ends.
//
// App state is the exception. A version that stands without one of its MACs makes
// whatsmeow fail much later, on a patch that is all right. So a version is
// written with its MACs or not at all: a collection of which a row was refused is
// torn, and stands without a version from then on. The next term then finds
// version 0, and asks for the collection anew.

// flushAlone writes the dirty rows one by one after a batch was refused for good,
// an app-state version together with its MACs.
func (s *deviceStore) flushAlone() {
	s.mu.Lock()
	took := s.dirty
	s.dirty = make(map[row]struct{})
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
}

// writeAlone writes rows and nothing else; false: they were refused for good.
func (s *deviceStore) writeAlone(rows ...row) bool {
	rendered := make([]renderedRow, 0, len(rows))
	s.mu.Lock()
	for _, r := range rows {
		data, ok := s.im.render(r, nil)
		rendered = append(rendered, renderedRow{r, data, ok && !s.tornLocked(r)})
	}
	s.mu.Unlock()
	_, err := s.commitRows("flush", rendered, Batch{}, false)
	if err == nil || s.gate.check("flush") != nil {
		return true
	}
	s.cfg.incident(Incident{Kind: IncidentRefused, Row: specOf(rows[0].table).kind, Err: err})
	return false
}

// tear takes the version of a collection off the disk, in this term for good.
func (s *deviceStore) tear(name string) {
	s.mu.Lock()
	if s.torn == nil {
		s.torn = make(map[string]struct{})
	}
	s.torn[name] = struct{}{}
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
	if len(s.torn) == 0 || r.table != tAppState {
		return false
	}
	_, torn := s.torn[macName(r.bucket)]
	return torn
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
