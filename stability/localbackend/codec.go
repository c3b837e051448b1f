package localbackend

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"

	"github.com/wastability/wastability/authstore"
)

// formatVersion is the newest format of a file that this library reads and the
// one it writes. A later format may change everything else: the bucket "head" keeps its
// record "format" with this checksum, so that an older library can tell.
//
// Format 1 has no log of commits; opening it adds one.
const formatVersion = 2

// The buckets of a file, all at the top; a file has these and the log's, and no
// other.
var (
	bucketHead      = []byte("head")      // the records below
	bucketAuth      = []byte("auth")      // kind, NUL, id → value
	bucketState     = []byte("state")     // keyState → reconnect.State
	bucketIncidents = []byte("incidents") // id → guard.Incident

	keyFormat = []byte("format") // formatVersion, 4 bytes
	keyLock   = []byte("lock")   // lockRecord
	keyTotals = []byte("totals") // totals over all buckets but head
	keyState  = []byte("state")
)

// damage is what check and reads find wrong. It matches
// authstore.ErrCorrupt, so it is permanent.
type damage struct{ what string }

func (d damage) Error() string { return d.what }
func (d damage) Unwrap() error { return authstore.ErrCorrupt }

func damaged(format string, a ...any) error { return damage{fmt.Sprintf(format, a...)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

// sum covers where a value stands too: a page that turns up in another place
// is as wrong as one with other bytes.
func sum(bucket, key, value []byte) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(key)))
	c := crc32.Update(0, castagnoli, bucket)
	c = crc32.Update(c, castagnoli, n[:])
	c = crc32.Update(c, castagnoli, key)
	return crc32.Update(c, castagnoli, value)
}

// seal makes what is stored: the sum and the value.
func seal(bucket, key, value []byte) []byte {
	stored := make([]byte, sumSize, sumSize+len(value))
	binary.LittleEndian.PutUint32(stored, sum(bucket, key, value))
	return append(stored, value...)
}

// unseal returns the value within stored.
func unseal(bucket, key, stored []byte) ([]byte, error) {
	if len(stored) < sumSize || binary.LittleEndian.Uint32(stored) != sum(bucket, key, stored[sumSize:]) {
		return nil, damaged("a value in %s does not match its checksum", bucket)
	}
	return stored[sumSize:], nil
}

// totals count what is stored. They find what a checksum of each value cannot:
// that some values are missing. They are changed in the transaction that
// changes the values.
type totals struct {
	entries, bytes, sums uint64
}

func (t *totals) add(stored []byte) {
	t.entries++
	t.bytes += uint64(len(stored))
	t.sums += uint64(binary.LittleEndian.Uint32(stored))
}

func (t *totals) remove(stored []byte) {
	if len(stored) < sumSize {
		return // damaged: then the totals shall not match either
	}
	t.entries--
	t.bytes -= uint64(len(stored))
	t.sums -= uint64(binary.LittleEndian.Uint32(stored))
}

func (t totals) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, t.entries)
	b = binary.LittleEndian.AppendUint64(b, t.bytes)
	return binary.LittleEndian.AppendUint64(b, t.sums)
}

func decodeTotals(b []byte) (t totals, err error) {
	if len(b) != 24 {
		return t, damaged("the totals have %d bytes", len(b))
	}
	return totals{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}, nil
}

// lockRecord is the lock as it is kept in the file. Whether it is held is not:
// the lock on the file says that.
type lockRecord struct {
	Holder     string        `json:"holder"` // "" after a release
	Nonce      string        `json:"nonce"`
	Epoch      int64         `json:"epoch"`
	Lease      time.Duration `json:"lease"`
	AcquiredAt time.Time     `json:"acquiredAt"`
}

func decodeLock(b []byte) (r lockRecord, err error) {
	if b == nil {
		return r, nil // a new file
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, damaged("the lock record: %v", err)
	}
	return r, nil
}

func decodeFormat(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, damaged("the format version has %d bytes", len(b))
	}
	return binary.LittleEndian.Uint32(b), nil
}

func newerFormat(format uint32) error {
	return fmt.Errorf("format %d, known is %d: %w", format, formatVersion, authstore.ErrNewerFormat)
}

// writer changes values and totals in one transaction of bbolt.
type writer struct {
	tx     *bbolt.Tx
	totals totals
}

func newWriter(tx *bbolt.Tx) (*writer, error) {
	b, err := head(tx, keyTotals)
	if err != nil {
		return nil, err
	}
	t, err := decodeTotals(b)
	return &writer{tx, t}, err
}

// head reads a record of the head bucket; nil when there is none.
func head(tx *bbolt.Tx, key []byte) ([]byte, error) { return read(tx, bucketHead, key) }

// read reads a value; nil when there is none. It is valid during tx.
func read(tx *bbolt.Tx, bucket, key []byte) ([]byte, error) {
	b := tx.Bucket(bucket)
	if b == nil {
		return nil, damaged("the bucket %s is missing", bucket)
	}
	stored := b.Get(key)
	if stored == nil {
		return nil, nil
	}
	return unseal(bucket, key, stored)
}

// set puts stored, or deletes where it is nil.
func (w *writer) set(name, key, stored []byte) error {
	bucket := w.tx.Bucket(name)
	if bucket == nil {
		return damaged("the bucket %s is missing", name)
	}
	old := bucket.Get(key)
	if old != nil {
		w.totals.remove(old)
	}
	if stored != nil {
		w.totals.add(stored)
		return bucket.Put(key, stored)
	}
	if old == nil {
		return nil
	}
	return bucket.Delete(key)
}

// finish writes the totals; nothing may be put or deleted afterwards.
func (w *writer) finish() error { return putHead(w.tx, keyTotals, w.totals.encode()) }

func putHead(tx *bbolt.Tx, key, value []byte) error {
	b := tx.Bucket(bucketHead)
	if b == nil {
		return damaged("the bucket %s is missing", bucketHead)
	}
	return b.Put(key, seal(bucketHead, key, value))
}

// initialise fills a new file.
func initialise(tx *bbolt.Tx, log int) error {
	for _, name := range [][]byte{bucketHead, bucketAuth, bucketState, bucketIncidents} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return errors.Join(
		makeLog(tx, log),
		putHead(tx, keyFormat, binary.LittleEndian.AppendUint32(nil, formatVersion)),
		putHead(tx, keyTotals, totals{}.encode()),
	)
}
