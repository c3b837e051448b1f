package localbackend

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// change is one value put or deleted; stored is nil when it was deleted.
type change struct {
	bucket byte // in logged
	key    string
	stored []byte
}

func encodeChanges(changes []change) []byte {
	n := 0
	for _, c := range changes {
		n += 2*binary.MaxVarintLen32 + 1 + len(c.key) + len(c.stored)
	}
	b := make([]byte, 0, n)
	for _, c := range changes {
		b = append(b, c.bucket)
		b = binary.AppendUvarint(b, uint64(len(c.key)))
		b = append(b, c.key...)
		if c.stored == nil {
			b = binary.AppendUvarint(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(c.stored))+1)
		b = append(b, c.stored...)
	}
	return b
}

func decodeChanges(b []byte) (out []change, err error) {
	bad := damaged("a record of the log does not parse")
	take := func() ([]byte, bool) {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, false
		}
		head := b[w : w+int(n) : w+int(n)]
		b = b[w+int(n):]
		return head, true
	}
	for len(b) > 0 {
		c := change{bucket: b[0]}
		b = b[1:]
		key, ok := take()
		if !ok || int(c.bucket) >= len(logged) {
			return nil, bad
		}
		c.key = string(key)
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w)+1 {
			return nil, bad
		}
		b = b[w:]
		if n > 0 {
			c.stored, b = b[:n-1:n-1], b[n-1:]
			if _, err := unseal(logged[c.bucket], key, c.stored); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func sectorSum(h logHead, index int, sector []byte) uint32 {
	var at [4]byte
	binary.LittleEndian.PutUint32(at[:], uint32(index))
	c := crc32.Update(0, castagnoli, h.identity[:])
	c = crc32.Update(c, castagnoli, at[:])
	return crc32.Update(c, castagnoli, sector[4:])
}

func sectorsOf(n int) int { return max((n+sectorData-1)/sectorData, 1) }

// encodeRecord makes the sectors of a record that begins at sector first.
func encodeRecord(h logHead, record uint32, first int, payload []byte) []byte {
	parts := sectorsOf(len(payload))
	out := make([]byte, parts*sectorSize)
	for i := range parts {
		s := out[i*sectorSize:][:sectorSize]
		n := copy(s[sectorHead:], payload)
		payload = payload[n:]
		binary.LittleEndian.PutUint64(s[4:], h.generation)
		binary.LittleEndian.PutUint32(s[12:], record)
		binary.LittleEndian.PutUint32(s[16:], uint32(i))
		binary.LittleEndian.PutUint32(s[20:], uint32(parts))
		binary.LittleEndian.PutUint32(s[24:], uint32(n))
		binary.LittleEndian.PutUint32(s, sectorSum(h, first+i, s))
	}
	return out
}

// sector is a sector of the current generation.
type sector struct {
	record, part, parts uint32
	data                []byte
}

var noSector [sectorSize]byte

// readSector looks at one sector; current is false for an old one.
func readSector(h logHead, index int, b []byte) (s sector, current bool, err error) {
	if bytes.Equal(b, noSector[:]) {
		return s, false, nil
	}
	generation := binary.LittleEndian.Uint64(b[4:])
	n := binary.LittleEndian.Uint32(b[24:])
	if binary.LittleEndian.Uint32(b) != sectorSum(h, index, b) || generation > h.generation || n > sectorData {
		return s, false, damaged("sector %d of the log is neither written nor empty", index)
	}
	return sector{
		record: binary.LittleEndian.Uint32(b[12:]), part: binary.LittleEndian.Uint32(b[16:]), parts: binary.LittleEndian.Uint32(b[20:]),
		data: b[sectorHead : sectorHead+n],
	}, generation == h.generation, nil
}

// nextRecord is where a record may begin, at sector i or later.
func nextRecord(i int) int {
	const perPage = logPage / sectorSize
	return (i + perPage - 1) / perPage * perPage
}

// readLog returns what a log holds, in order. dirty says that there is anything
// of this generation, be it a record that was never acknowledged.
func readLog(h logHead, region []byte) (changes []change, dirty bool, err error) {
	if len(region) < logSkip+logPage {
		return nil, false, damaged("the log has %d bytes", len(region))
	}
	region = region[logSkip:]
	sectors := len(region) / sectorSize
	look := func(i int) (sector, bool, error) {
		return readSector(h, i, region[i*sectorSize:][:sectorSize])
	}
	var (
		record  uint32
		at      int  // where it begins
		torn    bool // it is not whole
		payload []byte
	)
	for at < sectors && !torn {
		first, current, err := look(at)
		if err != nil {
			return nil, false, err
		}
		if !current {
			break
		}
		if first.parts == 0 || uint64(first.parts) > uint64(sectors-at) {
			return nil, false, damaged("a record of the log has %d sectors", first.parts)
		}
		payload = payload[:0]
		for part := range int(first.parts) {
			s, current, err := look(at + part)
			if err != nil {
				return nil, false, err
			}
			if !current {
				torn = true
				break
			}
			if s.record != record || s.part != uint32(part) || s.parts != first.parts {
				return nil, false, damaged("sector %d of the log belongs elsewhere", at+part)
			}
			payload = append(payload, s.data...)
		}
		if torn {
			break
		}
		got, err := decodeChanges(bytes.Clone(payload))
		if err != nil {
			return nil, false, err
		}
		changes = append(changes, got...)
		record, at = record+1, nextRecord(at+int(first.parts))
	}
	dirty = record > 0
	for i := at; i < sectors; i++ {
		s, current, err := look(i)
		if err != nil {
			return nil, false, err
		}
		if !current {
			continue
		}
		// Only a record whose write was cut off may have sectors here.
		if s.record != record || int(s.part) != i-at || s.part >= s.parts {
			return nil, false, damaged("sector %d of the log follows a gap: what stood before it is lost", i)
		}
		dirty = true
	}
	return changes, dirty, nil
}
