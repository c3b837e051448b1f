package localbackend

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/bits"
)

// bbolt maps its file into memory and trusts what it finds there: a truncated
// file is a SIGBUS, a flipped byte a wild pointer, and either ends the process.
// So a file is read here first, with plain reads and bounds on everything, and
// is given to bbolt only when each page that bbolt can reach is sound. Nothing
// is written, and nothing is repaired.
//
// Every byte that has a meaning is covered: meta pages by their own checksums,
// page structure by walking it, values and keys by their sums, and what is
// missing by the totals.
//
// bbolt would go back to the older of its two meta pages where the newer one is
// damaged, which undoes the last commit without a word. A ratchet that goes
// back is worse than an error, so both must be sound. A power cut does not tear
// them: 80 bytes in one sector.

// The layout of a bbolt file, format 2, in the machine's byte order.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader    = 16 // id u64, flags u16, count u16, overflow u32
	elementHeader = 16 // of a branch: pos, ksize u32, page u64; of a leaf: flags, pos, ksize, vsize u32
	bucketHeader  = 16 // root page u64, sequence u64
	metaSize      = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	noFreelist = math.MaxUint64
)

var order = binary.NativeEndian

// content is what a check learns besides.
type content struct {
	format uint32
	lock   lockRecord
	totals totals
}

type meta struct {
	pageSize             uint32
	root, sequence       uint64
	freelist, next, txid uint64 // next: pages from here on were never used
}

type checker struct {
	r    io.ReaderAt
	size int64
	meta
	used []uint64 // a bit for each page below meta.next
}

type element struct {
	flags      uint32
	key, value []byte
}

// check reads all of a file. Errors match authstore.ErrCorrupt for damage and
// authstore.ErrNewerFormat for a newer format; others come from r.
func check(r io.ReaderAt, size int64) (content, error) {
	c, head, buckets, err := readRoot(r, size)
	if err != nil {
		return content{}, err
	}
	found, err := c.head(head)
	if err != nil {
		return content{}, err
	}
	want, err := decodeTotals(found[string(keyTotals)])
	if err != nil {
		return content{}, err
	}
	var out content
	if out.format, err = decodeFormat(found[string(keyFormat)]); err != nil {
		return content{}, err
	}
	if out.lock, err = decodeLock(found[string(keyLock)]); err != nil {
		return content{}, err
	}
	if out.format > 1 {
		if err := c.log(buckets[string(bucketLog)], found[string(keyLog)]); err != nil {
			return content{}, err
		}
		delete(buckets, string(bucketLog))
	}
	for _, name := range [][]byte{bucketAuth, bucketState, bucketIncidents} {
		stored, ok := buckets[string(name)]
		if !ok {
			return content{}, damaged("the bucket %s is missing", name)
		}
		err := c.bucket(stored, func(e element) error {
			if _, err := unseal(name, e.key, e.value); err != nil {
				return err
			}
			out.totals.add(e.value)
			return nil
		})
		if err != nil {
			return content{}, fmt.Errorf("in %s: %w", name, err)
		}
	}
	if len(buckets) != 3 {
		return content{}, damaged("there are %d buckets beside the head, not 3", len(buckets))
	}
	if out.totals != want {
		return content{}, damaged("%d values in %d bytes where %d in %d were written", out.totals.entries, out.totals.bytes, want.entries, want.bytes)
	}
	return out, c.freelist()
}

// peek reads only the lock record: a few pages, however large the file is.
func peek(r io.ReaderAt, size int64) (lockRecord, error) {
	c, head, _, err := readRoot(r, size)
	if err != nil {
		return lockRecord{}, err
	}
	found, err := c.head(head)
	if err != nil {
		return lockRecord{}, err
	}
	return decodeLock(found[string(keyLock)])
}

// readRoot reads the meta pages and the root. buckets are those beside the head.
func readRoot(r io.ReaderAt, size int64) (c *checker, head []byte, buckets map[string][]byte, err error) {
	if size == 0 {
		return nil, nil, nil, damaged("it is empty")
	}
	c = &checker{r: r, size: size}
	if c.meta, err = c.metas(); err != nil {
		return nil, nil, nil, err
	}
	if c.sequence != 0 {
		return nil, nil, nil, damaged("the root bucket has a sequence")
	}
	c.used = make([]uint64, c.next/64+1)
	c.use(0, 2)
	buckets = map[string][]byte{}
	err = c.walk(c.root, nil, nil, func(e element) error {
		if e.flags != flagBucket {
			return damaged("a value stands where only buckets are")
		}
		buckets[string(e.key)] = e.value
		return nil
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("in the root: %w", err)
	}
	head, ok := buckets[string(bucketHead)]
	if !ok {
		return nil, nil, nil, damaged("the bucket %s is missing: this file is of another program", bucketHead)
	}
	delete(buckets, string(bucketHead))
	return c, head, buckets, nil
}

// head reads the head bucket and judges the format.
func (c *checker) head(stored []byte) (map[string][]byte, error) {
	found := map[string][]byte{}
	err := c.bucket(stored, func(e element) error {
		v, err := unseal(bucketHead, e.key, e.value)
		found[string(e.key)] = v
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("in head: %w", err)
	}
	format, err := decodeFormat(found[string(keyFormat)])
	if err != nil {
		return nil, err
	}
	if format > formatVersion {
		return nil, newerFormat(format)
	}
	return found, nil
}

// metas returns the newer of the two meta pages.
func (c *checker) metas() (meta, error) {
	m0, err := c.readMeta(0)
	if err != nil {
		return meta{}, fmt.Errorf("in meta page 0: %w", err)
	}
	if m0.pageSize < 1024 || m0.pageSize > 1<<24 || bits.OnesCount32(m0.pageSize) != 1 {
		return meta{}, damaged("pages of %d bytes", m0.pageSize)
	}
	m1, err := c.readMeta(int64(m0.pageSize))
	if err != nil {
		return meta{}, fmt.Errorf("in meta page 1: %w", err)
	}
	if m0.pageSize != m1.pageSize || m0.txid%2 != 0 || m1.txid%2 != 1 || m0.txid+1 != m1.txid && m1.txid+1 != m0.txid {
		return meta{}, damaged("the meta pages do not belong together")
	}
	m := m0
	if m1.txid > m0.txid {
		m = m1
	}
	if m.next < 4 || m.next > uint64(c.size)/uint64(m.pageSize) {
		return meta{}, damaged("it has %d bytes where %d pages of %d were written: it was truncated", c.size, m.next, m.pageSize)
	}
	return m, nil
}

func (c *checker) readMeta(off int64) (m meta, err error) {
	b, err := c.read(off, pageHeader+metaSize)
	if err != nil {
		return m, err
	}
	b = b[pageHeader:]
	h := fnv.New64a()
	_, _ = h.Write(b[:56])
	if order.Uint32(b) != boltMagic {
		return m, damaged("this is no bbolt file")
	}
	if v := order.Uint32(b[4:]); v != boltVersion {
		return m, damaged("bbolt format %d", v)
	}
	if h.Sum64() != order.Uint64(b[56:]) {
		return m, damaged("the checksum is wrong")
	}
	return meta{
		pageSize: order.Uint32(b[8:]), root: order.Uint64(b[16:]), sequence: order.Uint64(b[24:]),
		freelist: order.Uint64(b[32:]), next: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}, nil
}

func (c *checker) read(off int64, n int) ([]byte, error) {
	if off < 0 || off+int64(n) > c.size {
		return nil, damaged("it ends at byte %d, in the middle of what is needed: it was truncated", c.size)
	}
	b := make([]byte, n)
	if _, err := c.r.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
	}
	return b, nil
}

// use marks pages; false when one of them is in use already or was never
// written.
func (c *checker) use(id, n uint64) bool {
	if id >= c.next || n > c.next-id {
		return false
	}
	for i := id; i < id+n; i++ {
		if c.used[i/64]&(1<<(i%64)) != 0 {
			return false
		}
		c.used[i/64] |= 1 << (i % 64)
	}
	return true
}

// page reads a page with all that overflows it.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.next {
		return nil, damaged("page %d of %d", id, c.next)
	}
	size := int(c.pageSize)
	b, err := c.read(int64(id)*int64(size), size)
	if err != nil {
		return nil, err
	}
	overflow := uint64(order.Uint32(b[12:]))
	if got := order.Uint64(b); got != id || !c.use(id, overflow+1) {
		return nil, damaged("page %d says it is %d with %d more, or is used twice", id, got, overflow)
	}
	if overflow == 0 {
		return b, nil
	}
	return c.read(int64(id)*int64(size), int(overflow+1)*size)
}

// walk visits each element below page id. Keys lie in [low, high) and ascend;
// nil is no bound.
func (c *checker) walk(id uint64, low, high []byte, visit func(element) error) error {
	b, err := c.page(id)
	if err != nil {
		return err
	}
	switch order.Uint16(b[8:]) {
	case flagLeaf:
		return leaf(b, low, high, visit)
	case flagBranch:
	default:
		return damaged("page %d is neither branch nor leaf", id)
	}
	count := int(order.Uint16(b[10:]))
	if count == 0 {
		return damaged("page %d is a branch without leaves", id)
	}
	type child struct {
		key  []byte
		page uint64
	}
	children := make([]child, count)
	for i := range children {
		at := pageHeader + i*elementHeader
		if at+elementHeader > len(b) {
			return damaged("page %d has no room for %d elements", id, count)
		}
		key, ok := slice(b, at, order.Uint32(b[at:]), order.Uint32(b[at+4:]))
		if !ok || !ascends(low, key, high, i == 0) {
			return damaged("page %d has a wrong key", id)
		}
		children[i], low = child{key, order.Uint64(b[at+8:])}, key
	}
	for i, ch := range children {
		end := high
		if i+1 < count {
			end = children[i+1].key
		}
		if err := c.walk(ch.page, ch.key, end, visit); err != nil {
			return err
		}
	}
	return nil
}

// leaf visits the elements of a leaf page, or of a small bucket that is kept
// within its parent's value.
func leaf(b, low, high []byte, visit func(element) error) error {
	count := int(order.Uint16(b[10:]))
	for i := range count {
		at := pageHeader + i*elementHeader
		if at+elementHeader > len(b) {
			return damaged("a leaf has no room for %d elements", count)
		}
		pos, ksize, vsize := order.Uint32(b[at+4:]), order.Uint32(b[at+8:]), order.Uint32(b[at+12:])
		key, ok := slice(b, at, pos, ksize)
		value, ok2 := slice(b, at, uint32(min(uint64(pos)+uint64(ksize), math.MaxUint32)), vsize)
		if !ok || !ok2 || !ascends(low, key, high, i == 0) {
			return damaged("a leaf has a wrong key")
		}
		low = key
		if err := visit(element{order.Uint32(b[at:]), key, value}); err != nil {
			return err
		}
	}
	return nil
}

// slice is b[at+pos:][:n] where that lies within b.
func slice(b []byte, at int, pos, n uint32) ([]byte, bool) {
	from := uint64(at) + uint64(pos)
	if pos < elementHeader || from+uint64(n) > uint64(len(b)) {
		return nil, false
	}
	return b[from : from+uint64(n) : from+uint64(n)], true
}

// ascends tells whether key may follow low, which it may equal where it is the
// first of its page.
func ascends(low, key, high []byte, first bool) bool {
	if high != nil && bytes.Compare(key, high) >= 0 {
		return false
	}
	if low == nil {
		return true
	}
	n := bytes.Compare(low, key)
	return n < 0 || n == 0 && first
}

// bucket visits the values of a bucket without buckets in it.
func (c *checker) bucket(stored []byte, visit func(element) error) error {
	if len(stored) < bucketHeader || order.Uint64(stored[8:]) != 0 {
		return damaged("a bucket has a wrong header")
	}
	values := func(e element) error {
		if e.flags != 0 {
			return damaged("a bucket stands where only values are")
		}
		return visit(e)
	}
	if root := order.Uint64(stored); root != 0 {
		return c.walk(root, nil, nil, values)
	}
	inline := stored[bucketHeader:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != flagLeaf || order.Uint32(inline[12:]) != 0 || order.Uint64(inline) != 0 {
		return damaged("a small bucket has a wrong header")
	}
	return leaf(inline, nil, nil, values)
}

// log checks the log of commits.
func (c *checker) log(stored, head []byte) error {
	h, err := decodeLogHead(head)
	if err != nil {
		return err
	}
	if stored == nil {
		return damaged("the bucket %s is missing", bucketLog)
	}
	var region []byte
	err = c.bucket(stored, func(e element) error {
		if region != nil || !bytes.Equal(e.key, keyLog) {
			return damaged("there is more than the log")
		}
		region = e.value
		return nil
	})
	if err == nil {
		_, _, err = readLog(h, region)
	}
	if err != nil {
		return fmt.Errorf("in the log: %w", err)
	}
	return nil
}

// freelist checks that what bbolt would write to next holds nothing. It is
// called last, when all used pages are marked.
func (c *checker) freelist() error {
	if c.meta.freelist == noFreelist {
		return nil
	}
	b, err := c.page(c.meta.freelist)
	if err != nil {
		return fmt.Errorf("in the freelist: %w", err)
	}
	if order.Uint16(b[8:]) != flagFreelist {
		return damaged("page %d is no freelist", c.meta.freelist)
	}
	ids, count := b[pageHeader:], uint64(order.Uint16(b[10:]))
	if count == math.MaxUint16 && len(ids) >= 8 { // then the first one is the count
		ids, count = ids[8:], order.Uint64(ids)
	}
	if count > uint64(len(ids)/8) {
		return damaged("the freelist has no room for %d pages", count)
	}
	for i := range count {
		if id := order.Uint64(ids[i*8:]); id < 2 || !c.use(id, 1) {
			return damaged("page %d is free and in use", id)
		}
	}
	return nil
}
