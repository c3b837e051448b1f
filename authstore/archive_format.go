package authstore

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// An archive is a header and a sequence of sealed chunks:
//
//	header  "wastarc" and a zero byte, format version (2 bytes), salt (32 bytes)
//	chunk   length (4 bytes), AES-256-GCM of at most 64 KiB
//
// Each archive has a key of its own, HKDF-SHA256 of the given one and the
// salt. The nonce of a chunk is its index and whether it is the last; the
// header is its associated data. So a chunk that was altered, moved, repeated,
// left out or taken from another archive does not open, nor does an archive
// end where its writer has not ended it.
//
// The chunks together are records: each a kind, an id and a value, with their
// lengths before them. The first is of kind "archive" and says what this is;
// the last is of kind "end" and counts them.

const (
	archiveMagic   = "wastarc\x00"
	archiveVersion = 1
	archiveSalt    = 32
	archiveHeader  = len(archiveMagic) + 2 + archiveSalt
	archiveChunk   = 64 << 10
	archiveTag     = 16
	archiveKeyInfo = "wastability archive 1"

	maxArchiveKind  = 32
	maxArchiveID    = 1 << 20
	maxArchiveValue = 1 << 30

	recordMeta = "archive"
	recordEnd  = "end"
)

// ErrArchive reports an archive that is damaged, incomplete, altered, or
// sealed with another key. Nothing of it was used.
var ErrArchive = errors.New("authstore: the archive is damaged or incomplete, or the key is another one")

// archiveMeta is the first record of an archive.
type archiveMeta struct {
	JID     string    `json:"jid"`
	Created time.Time `json:"created"`
}

func archiveCipher(key [32]byte, header []byte) (cipher.AEAD, error) {
	fileKey, err := hkdf.Key(sha256.New, key[:], header[len(archiveMagic)+2:], archiveKeyInfo, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(fileKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func chunkNonce(index uint64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce, index)
	nonce[11] = asByte(last)
	return nonce
}

// sealWriter writes what it is given in sealed chunks.
type sealWriter struct {
	w      io.Writer
	gcm    cipher.AEAD
	header []byte
	buf    []byte
	index  uint64
	n      int64
}

func newSealWriter(w io.Writer, key [32]byte) (*sealWriter, error) {
	header := make([]byte, archiveHeader)
	copy(header, archiveMagic)
	binary.BigEndian.PutUint16(header[len(archiveMagic):], archiveVersion)
	_, _ = rand.Read(header[len(archiveMagic)+2:])
	gcm, err := archiveCipher(key, header)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(header); err != nil {
		return nil, err
	}
	return &sealWriter{w: w, gcm: gcm, header: header, n: int64(len(header))}, nil
}

func (s *sealWriter) Write(p []byte) (int, error) {
	s.buf = append(s.buf, p...)
	for len(s.buf) > archiveChunk { // the last chunk stays until Close
		if err := s.chunk(s.buf[:archiveChunk], false); err != nil {
			return 0, err
		}
		s.buf = append(s.buf[:0], s.buf[archiveChunk:]...)
	}
	return len(p), nil
}

func (s *sealWriter) chunk(b []byte, last bool) error {
	out := make([]byte, 4, 4+len(b)+archiveTag)
	out = s.gcm.Seal(out, chunkNonce(s.index, last), b, s.header)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	s.index++
	s.n += int64(len(out))
	_, err := s.w.Write(out)
	return err
}

func (s *sealWriter) Close() error { return s.chunk(s.buf, true) }

// openReader reads what a sealWriter wrote. It gives nothing of a chunk that
// does not open, and ends with io.EOF only after the last one.
type openReader struct {
	r      io.Reader
	gcm    cipher.AEAD
	header []byte
	plain  []byte
	index  uint64
	last   bool
}

func newOpenReader(r io.Reader, key [32]byte) (*openReader, error) {
	header := make([]byte, archiveHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, archiveErr("the header", err)
	}
	if string(header[:len(archiveMagic)]) != archiveMagic {
		return nil, fmt.Errorf("%w: it does not begin like an archive", ErrArchive)
	}
	if v := binary.BigEndian.Uint16(header[len(archiveMagic):]); v > archiveVersion {
		return nil, fmt.Errorf("%w (archive format %d)", ErrNewerFormat, v)
	} else if v != archiveVersion {
		return nil, fmt.Errorf("%w: no known format", ErrArchive)
	}
	gcm, err := archiveCipher(key, header)
	if err != nil {
		return nil, err
	}
	return &openReader{r: r, gcm: gcm, header: header}, nil
}

// archiveErr tells a short archive from a reader that fails.
func archiveErr(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it breaks off in %s", ErrArchive, what)
	}
	return fmt.Errorf("read the archive: %w", err)
}

func (o *openReader) Read(p []byte) (int, error) {
	for len(o.plain) == 0 {
		if o.last {
			return 0, io.EOF
		}
		if err := o.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, o.plain)
	o.plain = o.plain[n:]
	return n, nil
}

func (o *openReader) next() error {
	var size [4]byte
	if _, err := io.ReadFull(o.r, size[:]); err != nil {
		return archiveErr("a chunk", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < archiveTag || n > archiveChunk+archiveTag {
		return fmt.Errorf("%w: a chunk of %d bytes", ErrArchive, n)
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(o.r, sealed); err != nil {
		return archiveErr("a chunk", err)
	}
	plain, err := o.gcm.Open(nil, chunkNonce(o.index, false), sealed, o.header)
	if err != nil {
		if plain, err = o.gcm.Open(nil, chunkNonce(o.index, true), sealed, o.header); err != nil {
			return fmt.Errorf("%w: chunk %d does not open", ErrArchive, o.index)
		}
		o.last = true
		if m, err := o.r.Read(size[:1]); m > 0 || err == nil {
			return fmt.Errorf("%w: something follows its end", ErrArchive)
		}
	} else if len(plain) != archiveChunk {
		return fmt.Errorf("%w: chunk %d is short", ErrArchive, o.index)
	}
	o.plain, o.index = plain, o.index+1
	return nil
}

func writeRecord(w io.Writer, kind, id string, value []byte) error {
	b := appendBytes(appendBytes(nil, []byte(kind)), []byte(id))
	b = binary.AppendUvarint(b, uint64(len(value)))
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, err := w.Write(value)
	return err
}

// readPiece reads a length and as many bytes. It allocates for the bytes
// that are there, not for the length that is claimed.
func readPiece(r *bufio.Reader, limit uint64) ([]byte, error) {
	var n uint64
	for shift := 0; ; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return nil, recordErr(err)
		}
		if n |= uint64(c&0x7f) << shift; c < 0x80 {
			break
		}
		if shift > 35 {
			return nil, fmt.Errorf("%w: a length that does not end", ErrArchive)
		}
	}
	if n > limit {
		return nil, fmt.Errorf("%w: a piece of %d bytes", ErrArchive, n)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, recordErr(err)
	}
	return b.Bytes(), nil
}

func recordErr(err error) error {
	if errors.Is(err, ErrArchive) {
		return err
	}
	return archiveErr("a record", err)
}

// archive is one that was read, all of it, and found whole.
type archive struct {
	meta   archiveMeta
	device types.JID
	im     *image
}

// readArchive reads an archive to its end.
func readArchive(r io.Reader, key [32]byte) (*archive, error) {
	or, err := newOpenReader(r, key)
	if err != nil {
		return nil, err
	}
	return readRecords(or)
}

func readRecords(r io.Reader) (*archive, error) {
	br := bufio.NewReaderSize(r, archiveChunk)
	tables := make(map[string]tableID)
	for t := range numTables {
		if t != tHead {
			tables[string(specOf(t).kind)] = t
		}
	}
	a := &archive{im: newImage()}
	for n := uint64(0); ; n++ {
		kind, err := readPiece(br, maxArchiveKind)
		if err != nil {
			return nil, err
		}
		id, err := readPiece(br, maxArchiveID)
		if err != nil {
			return nil, err
		}
		value, err := readPiece(br, maxArchiveValue)
		if err != nil {
			return nil, err
		}
		if (n == 0) != (string(kind) == recordMeta) {
			return nil, fmt.Errorf("%w: it does not say once what it is", ErrArchive)
		}
		switch t, ok := tables[string(kind)]; {
		case n == 0:
			if err := json.Unmarshal(value, &a.meta); err != nil {
				return nil, fmt.Errorf("%w: what it is does not parse", ErrArchive)
			}
			if a.device, err = types.ParseJID(a.meta.JID); err != nil || a.device.User == "" {
				return nil, fmt.Errorf("%w: its JID does not parse", ErrArchive)
			}
		case string(kind) == recordEnd:
			if want, w := binary.Uvarint(value); w != len(value) || want != n {
				return nil, fmt.Errorf("%w: its end names another number of records than it has", ErrArchive)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%w: something follows its end", ErrArchive)
			}
			return a, a.check()
		case !ok:
			return nil, fmt.Errorf("%w (archived kind %q)", ErrNewerFormat, kind)
		default:
			if err := a.im.load(row{t, string(id)}, value); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrArchive, err)
			}
		}
	}
}

// check finds what sealing cannot: an archive without the device it names.
func (a *archive) check() error {
	v, ok := a.im.get(tDevice, deviceID)
	if !ok {
		return fmt.Errorf("%w: it has no device", ErrArchive)
	}
	d, err := decodeDevice(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	if d.JID != a.meta.JID {
		return fmt.Errorf("%w: its first record names another device than its rows", ErrArchive)
	}
	return nil
}
