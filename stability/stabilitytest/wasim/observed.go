package wasim

import (
	"maps"
	"slices"

	"go.mau.fi/whatsmeow/types"
)

// observed is what a Service has seen of its clients, for the tests that ask. Nothing
// but tests and the answers of phones depends on it. Service.mu guards it.
type observed struct {
	unknown    []Unknown
	violations []string
	strays     map[string]int     // by tag
	dials      map[string]int     // by label
	dialed     int                // all of them
	offered    int                // upgrades that offered compression
	compressed int                // and those with which it was negotiated
	written    map[string]written // by message id
}

func newObserved() observed {
	return observed{strays: map[string]int{}, dials: map[string]int{}, written: map[string]written{}}
}

// dial counts a dial from label, and gives its number.
func (o *observed) dial(label string) int {
	o.dials[label]++
	o.dialed++
	return o.dialed
}

// upgrade counts the upgrade of a connection.
func (o *observed) upgrade(offered, compressed bool) {
	if offered {
		o.offered++
	}
	if compressed {
		o.compressed++
	}
}

// stray counts a stanza of an earlier login.
func (o *observed) stray(tag string) { o.strays[tag]++ }

// wrote notes a message that a contact or a phone writes, before it is sent.
func (o *observed) wrote(id string, w written) { o.written[id] = w }

// message finds it.
func (o *observed) message(id string) (written, bool) {
	w, ok := o.written[id]
	return w, ok
}

// Unknown is a stanza that the service does not know.
type Unknown struct {
	Device types.JID
	Tag    string
	XMLNS  string
	Type   string
	Child  string // tag of the first child
	XML    string
}

// Unknown lists the stanzas that the service did not know.
func (s *Service) Unknown() []Unknown {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen.unknown)
}

// Violations lists what clients did that the real protocol forbids.
func (s *Service) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen.violations)
}

// Strays counts, by tag, the stanzas that came on a connection for pairing from
// a client that had logged in before. Goroutines of whatsmeow outlive their
// connection and write into the client's next one, so a host that logs out and
// connects again makes strays. The service ignores them, and they are no
// violations: those are what a client does that has never logged in.
func (s *Service) Strays() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.seen.strays)
}

// Dials is how often the service was dialed, refused attempts included.
func (s *Service) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.dialed
}

// DialsFrom is how often a transport with this label dialed.
func (s *Service) DialsFrom(label string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.dials[label]
}

// Compression is how many upgrades offered permessage-deflate, and with how
// many of them it was negotiated.
func (s *Service) Compression() (offered, negotiated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.offered, s.seen.compressed
}
