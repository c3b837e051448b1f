package firestorebackend

import (
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/wastability/wastability/authstore"
)

// layoutVersion is the newest arrangement of documents that this library knows
// and the one it writes: field "format" of the document creds. The numbers in
// ruleOf are part of it: they say where a key stands.
const layoutVersion = 1

// rule is how the keys of a kind stand in documents. Firestore bills documents,
// so small values share one: a bucket, in whose field "data" each has a field
// of its own. A commit writes only the fields that change. A value that is large, or
// finds its bucket full, has a document of its own.
type rule struct {
	buckets int                     // 0: every key has a document of its own
	small   int                     // bytes of the largest value in a bucket
	full    int                     // bytes in a bucket, by size
	route   func(id string) (n int) // length of the part of an id that chooses the bucket; 0: not all of it is there
	closed  bool                    // that part ends with a byte of its own: nothing that follows makes it longer
	creds   bool                    // the bucket is the document creds
}

const (
	kib = 1 << 10

	// maxEntries in a bucket keeps it below Firestore's 40,000 index entries,
	// should the exemption in firestore.indexes.json not be in force.
	maxEntries = 4000

	// fieldCost is what an entry of a bucket weighs beside its name and value,
	// generously.
	fieldCost = 32
)

// ruleOf: how many buckets is a matter of how much there is (a read of one key
// reads its bucket) and how much of it changes at once (a send to a group of
// 256 for the first time changes 256 sessions, which are 16 documents).
func ruleOf(k authstore.Kind) rule {
	whole := func(id string) int { return len(id) }
	r := rule{buckets: 8, small: 32 * kib, full: 512 * kib, route: whole}
	switch k {
	case "account", "device", "misc":
		r.creds, r.buckets, r.full = true, 1, 256*kib
	case "session":
		r.buckets, r.full = 16, 640*kib
	case "identity":
		r.buckets = 4
	case "prekey", "appkey", "appstate", "event":
		r.buckets = 1
	case "chat", "token":
		r.buckets = 2
	case "appmac": // read by collection
		r.small, r.full, r.route, r.closed = 64*kib, 640*kib, segments(2), true
	case "senderkey": // read one by one, and by user
		r.buckets, r.small, r.full, r.route = 256, 16*kib, 96*kib, user
	case "secret": // read by message
		r.buckets, r.small, r.full, r.route, r.closed = 64, 4*kib, 96*kib, segments(2), true
	case "outgoing":
		r.full, r.route, r.closed = 256*kib, segments(2), true
	case "part", "quarantine":
		r = rule{}
	}
	return r
}

// segments routes by the first n parts of an id that end in a slash.
func segments(n int) func(string) int {
	return func(id string) int {
		end := 0
		for range n {
			i := strings.IndexByte(id[end:], '/')
			if i < 0 {
				return 0
			}
			end += i + 1
		}
		return end
	}
}

// user routes by what comes after the first slash, up to what ends a user's
// name in an address.
func user(id string) int {
	gen := strings.IndexByte(id, '/') + 1
	i := strings.IndexAny(id[gen:], ":/_@\x00")
	if gen == 0 || i < 0 {
		return 0
	}
	return gen + i
}

// place is where a key stands: in a field of the bucket, or in the document
// own.
type place struct {
	rule   rule
	bucket string // id of a document in keys; credsID is the document creds
	field  string
	base   string // field without the kind that those of creds begin with
	own    string // id of a document in keys
}

// credsID stands for the document creds. No document in keys has this id.
const credsID = "creds"

func placeOf(k authstore.Key) place {
	r := ruleOf(k.Kind)
	p := place{rule: r, own: kindName(k.Kind) + shorten(k.ID, false)}
	if r.buckets == 0 {
		return p
	}
	p.bucket, p.base = bucketOf(k.Kind, r, k.ID), shorten(k.ID, true)
	p.field = p.base
	if r.creds {
		p.field = kindName(k.Kind) + p.base
	}
	return p
}

// weight is what an entry takes up in its bucket, never less than Firestore
// counts.
func (p place) weight(value []byte, id string) int {
	n := len(p.field) + len(value) + fieldCost
	if isHashed(p.base) {
		n += len(id) + fieldCost
	}
	return n
}

// kindName begins the ids of a kind's documents. The first underscore of an id
// ends the kind, so the kind's own stand as hyphens.
func kindName(k authstore.Kind) string { return strings.ReplaceAll(string(k), "_", "-") + "_" }

// bucketOf is the bucket of an id, or of all ids that begin with it. "" when
// these stand in several.
func bucketOf(k authstore.Kind, r rule, id string) string {
	if r.creds {
		return credsID
	}
	n := r.route(id)
	if n == 0 {
		n = len(id)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id[:n]))
	return bucketName(k, h.Sum32()%uint32(r.buckets))
}

// bucketName: escape never writes a tilde, so no key has this name.
func bucketName(k authstore.Kind, n uint32) string {
	return kindName(k) + "~" + strconv.FormatUint(uint64(n), 16)
}

// prefixBucket is the one bucket in which all ids with this prefix stand, or
// "".
func prefixBucket(k authstore.Kind, r rule, prefix string) string {
	if r.creds {
		return credsID
	}
	// If the part is not closed, more of it may follow: with the default route it
	// is the whole id.
	if n := r.route(prefix); n > 0 && (n < len(prefix) || r.closed) {
		return bucketOf(k, r, prefix)
	}
	return ""
}

func isBucket(doc string) bool {
	_, name, _ := strings.Cut(doc, "_")
	return strings.HasPrefix(name, "~")
}
