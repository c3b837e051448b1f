package authstore

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A device's state is a handful of tables: logical ids and values, all in
// memory (a few are read on demand). Each table decides how its values are stored
// in the KV: one row per id, for what is large or hot, or packed, many ids
// in one of a fixed number of buckets, for what is small and rarely changes.
// Ten thousand LID mappings are then 256 rows at a cold start.

type tableID uint8

const (
	tHead      tableID = iota // which device is the account's; global
	tDevice                   // credentials
	tMisc                     // counters and single values
	tSession                  // Signal sessions, by address
	tIdentity                 // identity keys, by address
	tPreKey                   // one-time prekeys, by id
	tSenderKey                // group sender keys, by sender and group; on demand
	tAppKey                   // app-state sync keys
	tAppState                 // app-state versions, by collection
	tAppMAC                   // app-state MACs, by collection and index; on demand
	tContact                  // names
	tChat                     // chat settings
	tToken                    // privacy tokens
	tLID                      // LID -> PN; global
	tEvent                    // decrypted and not finished events, by hash
	tSeen                     // finished events, in buckets by age
	tSecret                   // message secrets; on demand
	tOutgoing                 // outgoing events; on demand
	tMessage                  // received messages that no handler has taken yet; global
	numTables
)

const (
	globalGen   = "g"
	preKeyChunk = 64 // ids in one row
	seenChunk   = 64 // hashes in one row
)

// spec is how a table stands in the KV.
type spec struct {
	kind    Kind
	global  bool                   // survives the device
	packed  bool                   // many ids in one row
	lazy    bool                   // not read when the device is loaded
	private bool                   // its ids say who talks to whom: see names.go
	bucket  func(id string) string // of packed tables
	landing int                    // order in which rows are written when one batch cannot hold them all
}

func hashed(n uint32) func(string) string {
	return func(id string) string {
		h := fnv.New32a()
		_, _ = h.Write([]byte(id))
		return strconv.FormatUint(uint64(h.Sum32()%n), 16)
	}
}

// specs is never written to. Landing: rows that a crash must find first stand lowest. A
// kept message lands before its event is finished. An event lands before its session:
// found in the buffer, it is dispatched again. Sent messages before the session beside
// which they stood. The prekey counter before prekeys: no id is used twice. The removal
// of a prekey after the session that came from it.
func specOf(t tableID) spec {
	switch t {
	case tHead:
		return spec{kind: "account", global: true, landing: 9}
	case tDevice:
		return spec{kind: "device", landing: 8}
	case tMisc:
		return spec{kind: "misc", landing: 1}
	case tSession:
		return spec{kind: "session", private: true, landing: 3}
	case tIdentity:
		return spec{kind: "identity", packed: true, bucket: hashed(64), landing: 2}
	case tPreKey:
		return spec{kind: "prekey", packed: true, bucket: preKeyBucket, landing: 7}
	case tSenderKey:
		return spec{kind: "senderkey", lazy: true, private: true, landing: 2}
	case tAppKey:
		return spec{kind: "appkey", packed: true, bucket: hashed(16), landing: 4}
	case tAppState:
		return spec{kind: "appstate", landing: 6}
	case tAppMAC:
		return spec{kind: "appmac", packed: true, lazy: true, bucket: macBucket, landing: 5}
	case tContact:
		return spec{kind: "contact", packed: true, bucket: hashed(256), landing: 4}
	case tChat:
		return spec{kind: "chat", packed: true, bucket: hashed(64), landing: 4}
	case tToken:
		return spec{kind: "token", packed: true, bucket: hashed(64), landing: 4}
	case tLID:
		return spec{kind: "lid", global: true, packed: true, bucket: hashed(256), landing: 4}
	case tEvent:
		return spec{kind: "event", landing: 0}
	case tSeen:
		return spec{kind: "seen", packed: true, landing: 0} // its buckets are assigned
	case tSecret:
		return spec{kind: "secret", lazy: true, private: true, landing: 4}
	case tOutgoing:
		return spec{kind: "outgoing", lazy: true, private: true, landing: 2}
	case tMessage:
		return spec{kind: "message", global: true, landing: -1}
	}
	panic(fmt.Sprintf("authstore: no table %d", t))
}

const (
	kindPart       Kind = "part"       // pieces of values that do not fit into one batch
	kindQuarantine Kind = "quarantine" // rows that did not parse
)

func preKeyBucket(id string) string {
	n, _ := strconv.ParseUint(id, 16, 32)
	return strconv.FormatUint(n/preKeyChunk, 16)
}

// macBucket: 64 rows per collection. The id is name, NUL, index MAC.
func macBucket(id string) string {
	name, mac, _ := strings.Cut(id, "\x00")
	return name + "/" + hashed(64)(mac)
}

// row names one stored row: a bucket of a packed table, or the id itself.
type row struct {
	table  tableID
	bucket string
}

// change is one logical write.
type change struct {
	table  tableID
	id     string
	bucket string // of tSeen; elsewhere it follows from the id
	value  []byte
	del    bool
}

func put(t tableID, id string, value []byte) change { return change{table: t, id: id, value: value} }
func del(t tableID, id string) change               { return change{table: t, id: id, del: true} }

type logicalID struct {
	table tableID
	id    string
}

// image is the state of one device in memory. Not safe for concurrent use.
type image struct {
	specs  [numTables]spec
	flat   [numTables]map[string][]byte            // one row per id
	packed [numTables]map[string]map[string][]byte // bucket -> id -> value
	seenAt map[string]string                       // tSeen: id -> bucket
	beside map[string][]byte                       // tSession: sent messages in the row of a session
}

func newImage() *image {
	im := &image{seenAt: make(map[string]string), beside: make(map[string][]byte)}
	for t := range numTables {
		im.specs[t] = specOf(t)
		if im.specs[t].packed {
			im.packed[t] = make(map[string]map[string][]byte)
		} else {
			im.flat[t] = make(map[string][]byte)
		}
	}
	return im
}

func (im *image) rowOf(c change) row {
	switch {
	case c.bucket != "":
		return row{c.table, c.bucket}
	case c.table == tSeen:
		return row{tSeen, im.seenAt[c.id]}
	case im.specs[c.table].packed:
		return row{c.table, im.specs[c.table].bucket(c.id)}
	}
	return row{c.table, c.id}
}

func (im *image) get(t tableID, id string) ([]byte, bool) {
	if !im.specs[t].packed {
		v, ok := im.flat[t][id]
		return v, ok
	}
	v, ok := im.packed[t][im.rowOf(change{table: t, id: id}).bucket][id]
	return v, ok
}

func (im *image) each(t tableID, yield func(id string, value []byte)) {
	for id, v := range im.flat[t] {
		yield(id, v)
	}
	for _, bucket := range im.packed[t] {
		for id, v := range bucket {
			yield(id, v)
		}
	}
}

func (im *image) count() (n int) {
	for t := range numTables {
		n += len(im.flat[t])
		for _, bucket := range im.packed[t] {
			n += len(bucket)
		}
	}
	return n
}

func (im *image) apply(c change) {
	if !im.specs[c.table].packed {
		if c.del {
			delete(im.flat[c.table], c.id)
		} else {
			im.flat[c.table][c.id] = c.value
		}
		return
	}
	name := im.rowOf(c).bucket
	bucket := im.packed[c.table][name]
	switch {
	case c.del:
		delete(bucket, c.id)
		if len(bucket) == 0 {
			delete(im.packed[c.table], name)
		}
		if c.table == tSeen {
			delete(im.seenAt, c.id)
		}
	case bucket == nil:
		im.packed[c.table][name] = map[string][]byte{c.id: c.value}
	default:
		bucket[c.id] = c.value
	}
	if c.table == tSeen && !c.del {
		im.seenAt[c.id] = name
	}
}

// render gives the data of a row with changes on top of the image; ok is
// false when the row is to be removed.
func (im *image) render(r row, changes map[logicalID]change) (data []byte, ok bool) {
	if !im.specs[r.table].packed {
		v, ok := im.flat[r.table][r.bucket]
		if c, changed := changes[logicalID{r.table, r.bucket}]; changed {
			v, ok = c.value, !c.del
		}
		if r.table == tSession {
			v = withBeside(v, im.beside[r.bucket])
		}
		return v, ok
	}
	bucket := maps.Clone(im.packed[r.table][r.bucket])
	for _, c := range changes {
		if c.table != r.table || im.rowOf(c) != r {
			continue
		}
		if c.del {
			delete(bucket, c.id)
			continue
		}
		if bucket == nil {
			bucket = make(map[string][]byte)
		}
		bucket[c.id] = c.value
	}
	if len(bucket) == 0 {
		return nil, false
	}
	ids := slices.Sorted(maps.Keys(bucket))
	return encodePacked(ids, func(id string) []byte { return bucket[id] }), true
}

// expect makes room for rows that are about to be loaded into an empty image.
func (im *image) expect(rows []loadedRow) {
	var counts [numTables]int
	for _, r := range rows {
		counts[r.row.table]++
	}
	for t, n := range counts {
		if !im.specs[t].packed && len(im.flat[t]) == 0 {
			im.flat[t] = make(map[string][]byte, n)
		}
	}
}

// load takes over a stored row.
func (im *image) load(r row, data []byte) error {
	if !im.specs[r.table].packed {
		if r.table == tSession {
			var entries []byte
			if data, entries = splitBeside(data); entries != nil {
				im.beside[r.bucket] = entries
			}
		}
		im.flat[r.table][r.bucket] = data
		return nil
	}
	bucket := make(map[string][]byte)
	if err := decodePacked(data, func(id string, v []byte) { bucket[id] = v }); err != nil {
		return err
	}
	im.packed[r.table][r.bucket] = bucket
	if r.table == tSeen {
		for id := range bucket {
			im.seenAt[id] = r.bucket
		}
	}
	return nil
}
