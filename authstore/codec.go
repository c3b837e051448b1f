package authstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
)

// Every stored value begins with a header of two bytes, the format version and
// flags, and a CRC-32C over header, key path and body. The body of a sealed
// value is the AEAD's output, bound to the same path and header. The path is
// in the sum so that a row which turns up under another key is damage, not
// data. The sum stands over a seal too. A wrong sum is damage, so a seal that
// does not open under a right sum means another key.

const (
	formatVersion = 1

	flagSealed = 1 << 0 // the rest is ciphertext
	flagSplit  = 1 << 1 // the body is a manifest; the value stands in parts
	flagLongID = 1 << 2 // the id in the key is a hash; the body begins with the id
	flagNames  = 1 << 3 // of the record of the account's device: rows have sealed names
	flagsKnown = flagSealed | flagSplit | flagLongID | flagNames

	headerSize = 2
	sumSize    = 4

	// maxPlainID is the longest id kept readable. Longer ones, and those with
	// bytes that a backend might not like in a key, are hashed: some of them
	// come from strangers.
	maxPlainID = 200
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// codec turns values into stored bytes and back. It is the only place that
// knows how.
type codec struct {
	aead       AEAD // seals; nil: plain
	opener     AEAD // opens what is sealed
	allowPlain bool // with an AEAD: read rows that were written without one
}

// opened is a stored value, opened.
type opened struct {
	id    string // as given to encode, without the hash
	data  []byte
	split *manifest
}

// manifest says where the parts of a split value are.
type manifest struct {
	nonce string
	count int
	size  int
}

// keyID is id in the form in which it stands in a Key: itself, or its hash.
func keyID(id string) (out string, hashed bool) {
	plain := len(id) > 0 && len(id) <= maxPlainID && (id[0] != '~' || strings.Contains(id, "/"))
	for i := 0; plain && i < len(id); i++ {
		plain = id[i] > ' ' && id[i] < 0x7f
	}
	if plain {
		return id, false
	}
	sum := sha256.Sum256([]byte(id))
	return "~" + hex.EncodeToString(sum[:]), true
}

func pathOf(k Key, header []byte) []byte {
	return appendPath(make([]byte, 0, len(header)+len(k.Kind)+1+len(k.ID)+1), k, header)
}

func appendPath(path []byte, k Key, header []byte) []byte {
	path = append(path, header...)
	path = append(path, k.Kind...)
	path = append(path, 0)
	path = append(path, k.ID...)
	return append(path, 0)
}

// encode makes the stored form of data. longID is the original id when k
// holds its hash, else empty.
func (c codec) encode(k Key, longID string, hashed bool, data []byte) ([]byte, error) {
	flags := byte(0)
	if hashed {
		flags |= flagLongID
		body := make([]byte, 0, binary.MaxVarintLen64+len(longID)+len(data))
		body = appendBytes(body, []byte(longID))
		data = append(body, data...)
	}
	return c.wrap(k, flags, data)
}

func (c codec) encodeManifest(k Key, m manifest) ([]byte, error) {
	body := appendBytes(nil, []byte(m.nonce))
	body = binary.AppendUvarint(body, uint64(m.count))
	body = binary.AppendUvarint(body, uint64(m.size))
	return c.wrap(k, flagSplit, body)
}

func (c codec) wrap(k Key, flags byte, body []byte) ([]byte, error) {
	if c.aead != nil {
		flags |= flagSealed
		ct, err := c.aead.Encrypt(body, pathOf(k, []byte{formatVersion, flags}))
		if err != nil {
			return nil, fmt.Errorf("authstore: seal a value of kind %s: %w", k.Kind, err)
		}
		body = ct
	}
	out := make([]byte, headerSize+sumSize, headerSize+sumSize+len(body))
	out[0], out[1] = formatVersion, flags
	binary.LittleEndian.PutUint32(out[headerSize:], checksum(k, out[:headerSize], body))
	return append(out, body...), nil
}

// paths are buffers: a start takes the sums of thousands of rows.
var paths = sync.Pool{New: func() any { return new([]byte) }}

func checksum(k Key, header, body []byte) uint32 {
	path := paths.Get().(*[]byte)
	defer paths.Put(path)
	*path = appendPath((*path)[:0], k, header)
	return crc32.Update(crc32.Checksum(*path, castagnoli), castagnoli, body)
}

// current says whether raw is sealed as it would be if it were written now.
func (c codec) current(raw []byte) bool {
	if len(raw) < headerSize+sumSize || raw[0] != formatVersion {
		return false
	}
	if sealed := raw[1]&flagSealed != 0; c.aead == nil || !sealed {
		return sealed == (c.aead != nil)
	}
	a, ok := c.aead.(currentKey)
	return ok && a.Current(raw[headerSize+sumSize:])
}

// cut makes parts and a manifest of an encoded value that does not fit into a
// batch of its own.
func (c codec) cut(lim Limits, k Key, value []byte) (parts []Entry, m manifest, main []byte, err error) {
	m = manifest{nonce: rand.Text()[:16], size: len(value)}
	// A part has a header and sum of its own, and perhaps a seal.
	step := len(value)
	if lim.MaxValue > 0 {
		step = min(step, max(lim.MaxValue-256, lim.MaxValue/4, 1))
	}
	if lim.MaxBatch > 0 {
		step = min(step, max(lim.MaxBatch-1024, lim.MaxBatch/4, 1))
	}
	m.count = (len(value) + step - 1) / step
	for i, pk := range partKeys(k, m) {
		v, err := c.wrap(pk, 0, value[i*step:min((i+1)*step, len(value))])
		if err != nil {
			return nil, m, nil, err
		}
		parts = append(parts, Entry{pk, v})
	}
	main, err = c.encodeManifest(k, m)
	return parts, m, main, err
}

// decode opens a stored value. id is the id part of k, without generation.
func (c codec) decode(k Key, id string, raw []byte) (opened, error) {
	if len(raw) < headerSize {
		return opened{}, fmt.Errorf("%w: a value of kind %s is %d bytes short", ErrCorrupt, k.Kind, headerSize-len(raw))
	}
	header, body := raw[:headerSize], raw[headerSize:]
	if header[0] > formatVersion || header[0] == formatVersion && header[1]&^flagsKnown != 0 {
		return opened{}, fmt.Errorf("%w (kind %s, format %d, flags %#x)", ErrNewerFormat, k.Kind, header[0], header[1])
	}
	if header[0] != formatVersion {
		return opened{}, fmt.Errorf("%w: a value of kind %s has no known format", ErrCorrupt, k.Kind)
	}
	if len(body) < sumSize {
		return opened{}, fmt.Errorf("%w: a value of kind %s has no checksum", ErrCorrupt, k.Kind)
	}
	sum := binary.LittleEndian.Uint32(body)
	if body = body[sumSize:]; sum != checksum(k, header, body) {
		return opened{}, fmt.Errorf("%w: the checksum of a value of kind %s is wrong", ErrCorrupt, k.Kind)
	}
	switch sealed := header[1]&flagSealed != 0; {
	case sealed && c.opener == nil:
		return opened{}, fmt.Errorf("%w (kind %s): pass WithAEAD with the key it was sealed with", ErrSealed, k.Kind)
	case sealed:
		plain, err := c.opener.Decrypt(body, pathOf(k, header))
		if errors.Is(err, ErrCorrupt) {
			return opened{}, fmt.Errorf("authstore: the seal of a value of kind %s does not open: %w", k.Kind, err)
		} else if err != nil {
			return opened{}, fmt.Errorf("%w (kind %s): %w", ErrWrongKey, k.Kind, err)
		}
		body = plain
	case c.aead != nil && !c.allowPlain:
		return opened{}, fmt.Errorf("%w (kind %s): pass WithPlaintextAllowed while existing data is being sealed", ErrNotSealed, k.Kind)
	}
	rec := opened{id: id, data: body}
	if header[1]&flagSplit != 0 {
		m, err := decodeManifest(body)
		if err != nil {
			return opened{}, err
		}
		rec.data, rec.split = nil, &m
		return rec, nil
	}
	if header[1]&flagLongID != 0 {
		long, rest, ok := takeBytes(body)
		if !ok {
			return opened{}, fmt.Errorf("%w: a value of kind %s has no id", ErrCorrupt, k.Kind)
		}
		rec.id, rec.data = string(long), rest
	}
	return rec, nil
}

func decodeManifest(b []byte) (manifest, error) {
	nonce, rest, ok := takeBytes(b)
	count, n := binary.Uvarint(rest)
	if !ok || n <= 0 {
		return manifest{}, fmt.Errorf("%w: bad manifest", ErrCorrupt)
	}
	size, n2 := binary.Uvarint(rest[n:])
	if n2 <= 0 || count == 0 || count > 1<<20 || size > 1<<30 || len(nonce) == 0 || len(nonce) > 64 {
		return manifest{}, fmt.Errorf("%w: bad manifest", ErrCorrupt)
	}
	return manifest{nonce: string(nonce), count: int(count), size: int(size)}, nil
}

// encodePacked stores many small entries in one value, in the order of ids.
func encodePacked(ids []string, value func(id string) []byte) []byte {
	var out []byte
	for _, id := range ids {
		out = appendBytes(out, []byte(id))
		out = appendBytes(out, value(id))
	}
	return out
}

func decodePacked(b []byte, yield func(id string, value []byte)) error {
	for len(b) > 0 {
		id, rest, ok := takeBytes(b)
		if !ok {
			return fmt.Errorf("%w: a packed row breaks off", ErrCorrupt)
		}
		value, rest, ok := takeBytes(rest)
		if !ok {
			return fmt.Errorf("%w: a packed row breaks off", ErrCorrupt)
		}
		yield(string(id), value)
		b = rest
	}
	return nil
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func takeBytes(b []byte) (head, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	return b[w : w+int(n) : w+int(n)], b[w+int(n):], true
}

// fields reads the pieces of a small record one after the other. After the
// first failure everything is zero and err is set.
type fields struct {
	b   []byte
	err error
}

func (f *fields) bytes() []byte {
	if f.err != nil {
		return nil
	}
	head, rest, ok := takeBytes(f.b)
	if !ok {
		f.fail()
		return nil
	}
	f.b = rest
	return head
}

func (f *fields) varint() int64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.fail()
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) byte() byte {
	if f.err != nil || len(f.b) == 0 {
		f.fail()
		return 0
	}
	v := f.b[0]
	f.b = f.b[1:]
	return v
}

func (f *fields) fail() {
	if f.err == nil {
		f.err = fmt.Errorf("%w: a record breaks off", ErrCorrupt)
	}
	f.b = nil
}
