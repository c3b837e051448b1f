package authstore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
)

// Sealed names. A session's id is an address, a sender key's an address and a
// group. From the names of rows alone a reader would learn who talks to whom,
// however well the values are sealed. So a sealed account gives the KV keyed
// hashes instead, HMAC-SHA-256 under a random key that stands in the record of
// the account's device, sealed like everything. The id itself is in the row,
// sealed, so a row says what it is, and the hash is part of the path to which
// its seal is bound. A row that is scanned for by the front of its id has a
// hash of the front and one of the whole.
//
// The record that has the key is marked (flagNames). A library that does not
// know sealed names finds a newer format there, and leaves the account alone.
//
// An account that began without them is moved: the record gets the key, marked
// "moving", and from then on rows are written under sealed names only, each in
// one batch with the removal of the old one. Both are looked at while it lasts,
// the old one first, since rows move in one direction: a row that moved between
// the two looks is found by the second. Of two rows that a kill between two
// batches leaves, the sealed name has the newer. When no old name is left, the
// mark is taken away, and no look is wasted any more.

const (
	sealedMark = "+"
	sealedSize = 16 // bytes of a hash
)

// headNames is what the record of the account's device says about names.
type headNames struct {
	Key    []byte `json:"key"`
	Moving bool   `json:"moving,omitempty"` // rows may stand under their old names
}

func newHeadNames(moving bool) *headNames {
	n := &headNames{Key: make([]byte, 32), Moving: moving}
	_, _ = rand.Read(n.Key) // never fails
	return n
}

// flags are those of the stored record of the account's device.
func (h head) flags() byte {
	if h.Names != nil {
		return flagNames
	}
	return 0
}

// names makes sealed names.
type names struct {
	key    []byte
	moving atomic.Bool
}

// useNames takes over what h says about names.
func (s *deviceStore) useNames(h *headNames) {
	if h == nil {
		s.names.Store(nil)
		return
	}
	n := &names{key: h.Key}
	n.moving.Store(h.Moving)
	s.names.Store(n)
}

func (n *names) sum(kind Kind, form byte, text string) string {
	h := hmac.New(sha256.New, n.key)
	_, _ = fmt.Fprintf(h, "%s\x00%c%s", kind, form, text)
	return hex.EncodeToString(h.Sum(nil)[:sealedSize])
}

// front is how much of id rows of t are scanned for by; 0: they are not.
func (t tableID) front(id string) int {
	switch t {
	case tSenderKey: // "user:device/group"
		return strings.IndexByte(id, ':') + 1
	case tSecret: // "message/…"
		return strings.IndexByte(id, '/') + 1
	}
	return 0
}

// of is the sealed name of id.
func (n *names) of(t tableID, id string) string {
	kind := specOf(t).kind
	if i := t.front(id); i > 0 {
		return n.prefix(t, id[:i]) + n.sum(kind, 'w', id)
	}
	return sealedMark + n.sum(kind, 'w', id)
}

// prefix is with what the sealed names of ids begin that begin with front.
func (n *names) prefix(t tableID, front string) string {
	return sealedMark + n.sum(specOf(t).kind, 'f', front) + "/"
}

// aside is the name of a row that was set aside.
func (n *names) aside(id string) string { return sealedMark + n.sum(kindQuarantine, 'w', id) }

// isSealedName tells a row that has moved from one that has not. The id of a
// stranger may look like a sealed name, but then nothing says that the row has
// its id inside.
func isSealedName(id string, value []byte) bool {
	if !strings.HasPrefix(id, sealedMark) || len(value) < headerSize || value[1]&(flagLongID|flagSplit) == 0 {
		return false
	}
	for part := range strings.SplitSeq(id[len(sealedMark):], "/") {
		if b, err := hex.DecodeString(part); err != nil || len(b) != sealedSize {
			return false
		}
	}
	return true
}

// oldKeyOf is where a row may stand as well; false when it cannot.
func (s *deviceStore) oldKeyOf(r row) (Key, bool) {
	n, sp := s.names.Load(), specOf(r.table)
	if n == nil || !sp.private || !n.moving.Load() {
		return Key{}, false
	}
	id, _ := keyID(r.bucket)
	return Key{sp.kind, s.genOf(sp) + "/" + id}, true
}

// scanPrefixes are the prefixes of the stored ids of the rows of t whose ids
// begin with idPrefix, in the order in which to look.
func (s *deviceStore) scanPrefixes(t tableID, idPrefix string) []string {
	sp := specOf(t)
	gen := s.genOf(sp) + "/"
	n := s.names.Load()
	if n == nil || !sp.private {
		return []string{gen + idPrefix}
	}
	sealed := gen
	if idPrefix != "" {
		sealed += n.prefix(t, idPrefix)
	}
	switch {
	case !n.moving.Load():
		return []string{sealed}
	case idPrefix == "" && !sp.lazy:
		return []string{sealed} // while the device is loaded nothing moves
	}
	return []string{gen + idPrefix, sealed}
}

// onlyNewest leaves out rows under old names whose new one is there.
func (s *deviceStore) onlyNewest(t tableID, rows []loadedRow) []loadedRow {
	if s.names.Load() == nil || !specOf(t).private {
		return rows
	}
	at := make(map[Key]bool, len(rows))
	for _, r := range rows {
		at[r.key] = true
	}
	seen := make(map[Key]bool, len(rows))
	out := make([]loadedRow, 0, len(rows))
	for i := len(rows) - 1; i >= 0; i-- { // of two looks at one row the later one
		r := rows[i]
		key, _, _ := s.keyOf(r.row)
		if seen[r.key] || r.err == nil && r.key != key && at[key] {
			continue
		}
		seen[r.key] = true
		out = append(out, r)
	}
	return out
}
