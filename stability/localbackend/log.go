package localbackend

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"go.etcd.io/bbolt"
)

// The log of commits is a region of the same file: one large value, in a bucket
// of its own, that bbolt is never asked to change and so never moves. A commit
// appends a record there and syncs once. The changes in the log are also in
// memory (file.pending) until they are folded into the tables: one transaction of
// bbolt that puts all of it and raises the log's generation, which empties it.
//
// A record takes sectors of 512 bytes, beginning on a page of 4,096: a page with
// a commit that was acknowledged is never written to again before it is folded.
// Each sector says which generation, record and part it is, under a checksum
// over that, its place, and the file's identity. So each sector is one of three:
// of this generation; old (zero, or whole and of an earlier generation); or
// damaged. A power cut leaves old and new sectors in the last record, which
// nobody was told of, and nothing else: everything else is damage.

const (
	logSize    = 1 << 20 // bytes of a new file's log
	sectorSize = 512
	sectorHead = 32
	sectorData = sectorSize - sectorHead
	logPage    = 4096

	// A leaf page with one element: its header, the element's, the key, then
	// the region. logSkip bytes of that are left out, so that pages of the log are
	// pages of the file.
	logSkip = logPage - (pageHeader+elementHeader+len("log"))%logPage
)

var (
	bucketLog = []byte("log")
	keyLog    = []byte("log") // in bucketLog: the region; in bucketHead: logHead
)

// The buckets whose changes go through the log, by the number they have in it.
var logged = [][]byte{bucketAuth, bucketState, bucketIncidents}

// logHead says what counts in the region.
type logHead struct {
	identity   [8]byte // of the file
	generation uint64
}

func (h logHead) encode() []byte {
	return binary.LittleEndian.AppendUint64(h.identity[:len(h.identity):len(h.identity)], h.generation)
}

func decodeLogHead(b []byte) (h logHead, err error) {
	if len(b) != 16 {
		return h, damaged("the record of the log has %d bytes", len(b))
	}
	return logHead{[8]byte(b), binary.LittleEndian.Uint64(b[8:])}, nil
}

// commitLog is where the log of an open file stands. Guarded by backend.sem;
// logHead also by file.mu, as pending: pending changes are in the tables as
// soon as these have a higher generation than logHead.
type commitLog struct {
	logHead
	off     int64 // of sector 0 in the file
	sectors int
	next    int    // free sector
	record  uint32 // number of the next record
	// broken is set after a failed write or sync: the content of the disk is not
	// known then, and nothing is appended before everything was folded.
	broken bool
}

// makeLog gives a file its log; format 1 has none.
func makeLog(tx *bbolt.Tx, size int) error {
	b, err := tx.CreateBucket(bucketLog)
	if err != nil {
		return err
	}
	h := logHead{generation: 1}
	_, _ = rand.Read(h.identity[:]) // never fails
	if err := b.Put(keyLog, make([]byte, logSkip+size)); err != nil {
		return err
	}
	return putHead(tx, keyLog, h.encode())
}

// openLog finds the log of an opened file and folds what a process that was
// killed, or lost its power, has left in it.
func (f *file) openLog(size int) error {
	var format uint32
	err := f.view(func(r *reader) (err error) {
		b, err := head(r.tx, keyFormat)
		if err == nil {
			format, err = decodeFormat(b)
		}
		return err
	})
	if err == nil && format > formatVersion { // since it was checked
		err = newerFormat(format)
	}
	if err == nil && format < 2 {
		err = f.update(func(tx *bbolt.Tx) error {
			if err := makeLog(tx, size); err != nil {
				return err
			}
			return putHead(tx, keyFormat, binary.LittleEndian.AppendUint32(nil, formatVersion))
		})
	}
	if err != nil {
		return err
	}
	var region []byte
	err = f.view(func(r *reader) (err error) {
		if f.log.logHead, err = readLogHead(r.tx); err != nil {
			return err
		}
		bucket := r.tx.Bucket(bucketLog)
		if bucket == nil {
			return damaged("the bucket %s is missing", bucketLog)
		}
		mapped := bucket.Get(keyLog)
		if len(mapped) < logSkip+logPage {
			return damaged("the log has %d bytes", len(mapped))
		}
		// bbolt maps the file from its beginning.
		f.log.off = int64(uintptr(unsafe.Pointer(&mapped[0]))-f.db.Info().Data) + int64(logSkip)
		f.log.sectors = (len(mapped) - logSkip) / sectorSize
		region = make([]byte, len(mapped))
		return nil
	})
	if err != nil {
		return err
	}
	if f.log.off%logPage != 0 {
		return damaged("the log stands at byte %d, on no page", f.log.off)
	}
	if _, err := f.f.ReadAt(region[logSkip:], f.log.off); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	changes, dirty, err := readLog(f.log.logHead, region)
	if err != nil || !dirty {
		return err
	}
	return f.fold(changes, nil)
}

// commit makes changes durable and visible, all or nothing. sem is held.
func (f *file) commit(changes []change) error {
	if len(changes) == 0 {
		return f.ours()
	}
	payload := encodeChanges(changes)
	n := sectorsOf(len(payload))
	// A record that would take most of the log is not worth being written twice.
	if f.unsettled || f.log.broken || n > f.log.sectors-f.log.next || n > f.log.sectors/2 {
		return f.fold(changes, nil)
	}
	if err := f.append(payload); err != nil {
		f.log.broken = true
		f.wrote()
		return fmt.Errorf("localbackend: write %s: %w", f.path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.pending[place{c.bucket, c.key}] = c.stored
	}
	return nil
}

func (f *file) append(payload []byte) error {
	if err := f.ours(); err != nil {
		return err
	}
	record := encodeRecord(f.log.logHead, f.log.record, f.log.next, payload)
	off := f.log.off + int64(f.log.next)*sectorSize
	if _, err := f.f.WriteAt(record, off); err != nil {
		return err
	}
	if err := f.sync(f.f); err != nil {
		return err
	}
	f.own.at, f.own.sector = off, [sectorSize]byte(record)
	f.wrote()
	if err := f.ours(); err != nil { // truncated, or copied over, meanwhile
		return err
	}
	f.log.next = nextRecord(f.log.next + sectorsOf(len(payload)))
	f.log.record++
	return nil
}

// fold puts what is pending, and then changes, into the tables and empties the
// log, in one transaction; also has the transaction before it ends, where not
// nil. sem is held.
func (f *file) fold(changes []change, also func(*bbolt.Tx) error) error {
	var next logHead
	err := f.update(func(tx *bbolt.Tx) (err error) {
		if next, err = readLogHead(tx); err != nil {
			return err
		}
		all := make(map[place][]byte)
		if next.generation == f.log.generation { // else an attempt that failed late has put them
			maps.Copy(all, f.pending)
		}
		for _, c := range changes {
			all[place{c.bucket, c.key}] = c.stored
		}
		places := slices.SortedFunc(maps.Keys(all), place.compare)
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		for _, p := range places {
			if err := w.set(logged[p.bucket], []byte(p.key), all[p]); err != nil {
				return err
			}
		}
		next.generation++
		if err := putHead(tx, keyLog, next.encode()); err != nil {
			return err
		}
		if err := w.finish(); err != nil {
			return err
		}
		if also != nil {
			return also(tx)
		}
		return nil
	})
	if err != nil {
		f.log.broken = f.log.broken || f.unsettled // else nothing of it happened
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log.logHead, f.log.next, f.log.record, f.log.broken = next, 0, 0, false
	f.own.at = 0
	clear(f.pending)
	return nil
}

func readLogHead(tx *bbolt.Tx) (h logHead, err error) {
	b, err := head(tx, keyLog)
	if err == nil {
		h, err = decodeLogHead(b)
	}
	return h, err
}

// place is where a value of the tables stands.
type place struct {
	bucket byte // in logged
	key    string
}

func (p place) compare(q place) int {
	if p.bucket != q.bucket {
		return int(p.bucket) - int(q.bucket)
	}
	return bytes.Compare([]byte(p.key), []byte(q.key))
}

// reader reads the tables as they are with what is pending.
type reader struct {
	tx      *bbolt.Tx
	pending map[place][]byte
}

// bucketNumber is the number of a bucket in logged.
func bucketNumber(name []byte) byte {
	return byte(slices.IndexFunc(logged, func(b []byte) bool { return bytes.Equal(b, name) }))
}

// get reads a value; nil when there is none. It is valid within the view.
func (r *reader) get(name, key []byte) ([]byte, error) {
	stored, ok := r.pending[place{bucketNumber(name), string(key)}]
	switch {
	case !ok:
		return read(r.tx, name, key)
	case stored == nil:
		return nil, nil
	}
	return unseal(name, key, stored)
}

// ascend visits what is stored under keys that begin with prefix, in order, from
// a key on, until visit says no.
func (r *reader) ascend(name, prefix, from []byte, visit func(key, stored []byte) bool) error {
	b := r.tx.Bucket(name)
	if b == nil {
		return damaged("the bucket %s is missing", name)
	}
	number := bucketNumber(name)
	var over [][]byte // keys that are pending
	for p := range r.pending {
		if k := []byte(p.key); p.bucket == number && bytes.HasPrefix(k, prefix) && bytes.Compare(k, from) >= 0 {
			over = append(over, k)
		}
	}
	slices.SortFunc(over, bytes.Compare)
	c := b.Cursor()
	k, stored := c.Seek(from)
	for {
		inTable := k != nil && bytes.HasPrefix(k, prefix)
		if len(over) == 0 && !inTable {
			return nil
		}
		if len(over) == 0 || inTable && bytes.Compare(k, over[0]) < 0 {
			if !visit(k, stored) {
				return nil
			}
			k, stored = c.Next()
			continue
		}
		if inTable && bytes.Equal(k, over[0]) {
			k, stored = c.Next()
		}
		if v := r.pending[place{number, string(over[0])}]; v != nil && !visit(over[0], v) {
			return nil
		}
		over = over[1:]
	}
}
