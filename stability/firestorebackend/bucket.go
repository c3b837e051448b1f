package firestorebackend

import (
	"fmt"
	"strings"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
)

// bucket is what a writer knows of one bucket: enough to keep it from
// outgrowing a document without reading it again. Once it is part of a writer's
// knowledge it is guarded by backend.mu: commits change it.
type bucket struct {
	exists bool
	sizes  map[string]int // field -> weight
	total  int
	// spilled: some keys of this bucket stand in documents of their own. It is
	// a field of the document, written in the commit that puts the first of
	// them there, so that a reader who finds it unset need not look for them.
	spilled bool
	own     map[string]bool // which, where that is known; nil where it is not
}

func (k *bucket) put(field string, w int) {
	k.drop(field)
	k.sizes[field] = w
	k.total += w
}

func (k *bucket) drop(field string) {
	k.total -= k.sizes[field]
	delete(k.sizes, field)
}

func (k *bucket) takes(p place, w, value int) bool {
	_, in := k.sizes[p.field]
	return value <= p.rule.small && k.total-k.sizes[p.field]+w <= p.rule.full && (in || len(k.sizes) < maxEntries)
}

// mayOwn says whether a key may have a document of its own.
func (k *bucket) mayOwn(own string) bool {
	if k.own != nil {
		return k.own[own]
	}
	return k.spilled
}

// knowledge is all that a writer knows. It is only ever filled from reads that
// no commit of the writer overlapped.
type knowledge struct {
	buckets  map[string]*bucket
	whole    map[authstore.Kind]bool // read completely: a key that is not in buckets does not exist
	formatOK bool
	changes  int  // how often a commit began
	busy     bool // one is under way
}

// stamp is taken before a read whose result shall be known.
type stamp struct {
	w       *writer
	changes int
}

func (b *backend) stamp() stamp {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil || b.writer.unclear || b.writer.know.busy {
		return stamp{}
	}
	return stamp{b.writer, b.writer.know.changes}
}

// learn runs f on the writer's knowledge if what was read since the stamp is
// still true.
func (b *backend) learn(st stamp, f func(*knowledge)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stillLocked(st) {
		f(&st.w.know)
	}
}

// still says whether the stamp's writer is the present one, and has written
// nothing since the stamp.
func (b *backend) still(st stamp) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stillLocked(st)
}

func (b *backend) stillLocked(st stamp) bool {
	return st.w != nil && st.w == b.writer && !st.w.unclear && !st.w.know.busy && st.w.know.changes == st.changes
}

func (k *knowledge) set(id string, bk *bucket) {
	if k.buckets == nil {
		k.buckets = make(map[string]*bucket)
	}
	k.buckets[id] = bk
}

// entry is a value as it was read.
type entry struct {
	key   authstore.Key
	value []byte
}

// damaged is a document or field of the KV that this library cannot have
// written.
func damaged(doc, format string, a ...any) error {
	return fmt.Errorf("firestorebackend: document %s: %s: %w", doc, fmt.Sprintf(format, a...), authstore.ErrCorrupt)
}

// cut takes the kind off a name.
func cut(name string) (kind, rest string, ok bool) { return strings.Cut(name, "_") }

// entriesOf reads a bucket.
func entriesOf(s *firestore.DocumentSnapshot) (bk *bucket, entries []entry, err error) {
	bk = &bucket{sizes: make(map[string]int)}
	if !s.Exists() {
		bk.own = make(map[string]bool)
		return bk, nil, nil
	}
	bk.exists = true
	m := s.Data()
	bk.spilled, _ = m["spilled"].(bool)
	if !bk.spilled {
		bk.own = make(map[string]bool)
	}
	creds := s.Ref.ID == credsID
	name := "data"
	if creds {
		name = "creds"
	}
	data, ok := m[name].(map[string]any)
	if !ok && m[name] != nil {
		return nil, nil, damaged(s.Ref.ID, "its field %s is a %T", name, m[name])
	}
	for field, raw := range data {
		kind, _, _ := cut(s.Ref.ID)
		rest := field
		if creds {
			if kind, rest, ok = cut(field); !ok {
				return nil, nil, damaged(s.Ref.ID, "field %q names no kind", field)
			}
		}
		id, value, err := valueOf(s.Ref.ID, rest, raw)
		if err != nil {
			return nil, nil, err
		}
		bk.put(field, place{field: field, base: rest}.weight(value, id))
		entries = append(entries, entry{authstore.Key{Kind: kindOf(kind), ID: id}, value})
	}
	return bk, entries, nil
}

func kindOf(name string) authstore.Kind { return authstore.Kind(strings.ReplaceAll(name, "-", "_")) }

// stored is how a value stands in a field. The id beside it is for names that
// are hashes.
func stored(name string, k authstore.Key, value []byte) any {
	value = notNil(value)
	if isHashed(name) {
		return map[string]any{"id": []byte(k.ID), "value": value}
	}
	return value
}

func valueOf(doc, name string, raw any) (id string, value []byte, err error) {
	if !isHashed(name) {
		value, ok := raw.([]byte)
		id, plain := unescape(name)
		if !ok || !plain {
			return "", nil, damaged(doc, "field %q is a %T", name, raw)
		}
		return id, notNil(value), nil
	}
	m, _ := raw.(map[string]any)
	rawID, ok := m["id"].([]byte)
	value, ok2 := m["value"].([]byte)
	if !ok || !ok2 || hashed(string(rawID)) != name {
		return "", nil, damaged(doc, "field %q does not hold the key it is named after", name)
	}
	return string(rawID), notNil(value), nil
}

// ownOf reads a document that holds one value.
func ownOf(s *firestore.DocumentSnapshot) (entry, error) {
	kind, name, ok := strings.Cut(s.Ref.ID, "_")
	m := s.Data()
	value, isBytes := m["data"].([]byte)
	if !ok || !isBytes {
		return entry{}, damaged(s.Ref.ID, "its field data is a %T", m["data"])
	}
	id, plain := unescape(name)
	if isHashed(name) {
		raw, isID := m["id"].([]byte)
		if id, plain = string(raw), isID && hashed(string(raw)) == name; !plain {
			return entry{}, damaged(s.Ref.ID, "its id is missing or another")
		}
	}
	if !plain {
		return entry{}, damaged(s.Ref.ID, "its name is no key")
	}
	return entry{authstore.Key{Kind: kindOf(kind), ID: id}, notNil(value)}, nil
}

// notNil: an empty value is a value.
func notNil(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}
