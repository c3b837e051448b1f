package link

import "encoding/binary"

// Websocket opcodes (RFC 6455, section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// frameHeader is the head of one websocket frame.
type frameHeader struct {
	fin    bool
	opcode byte
	masked bool
	length uint64
	size   int // bytes of the head itself, mask included
}

// parseHeader reads the head of a frame; ok is false while p is too short,
// valid is false for what no client has to accept.
func parseHeader(p []byte) (h frameHeader, ok, valid bool) {
	if len(p) < 2 {
		return h, false, true
	}
	h.fin = p[0]&0x80 != 0
	h.opcode = p[0] & 0x0f
	h.masked = p[1]&0x80 != 0
	h.size = 2
	switch l := p[1] & 0x7f; l {
	case 126:
		h.size += 2
		if len(p) < h.size {
			return h, false, true
		}
		h.length = uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		h.size += 8
		if len(p) < h.size {
			return h, false, true
		}
		h.length = binary.BigEndian.Uint64(p[2:])
	default:
		h.length = uint64(l)
	}
	if h.masked {
		h.size += 4
	}
	valid = p[0]&0x70 == 0 && h.length>>63 == 0
	switch h.opcode {
	case opContinuation, opText, opBinary:
	case opClose, opPing, opPong:
		valid = valid && h.fin && h.length <= 125
	default:
		valid = false
	}
	return h, true, valid
}

// scanner walks over a stream of frames, looking at their heads only.
type scanner struct {
	head []byte // the beginning of a head, if it came in pieces
	skip uint64 // payload still to come
	bad  bool   // lost the thread; says nothing from then on
}

// scan consumes p and calls head for each frame that begins in it.
func (s *scanner) scan(p []byte, head func(frameHeader)) {
	for len(p) > 0 && !s.bad {
		if s.skip > 0 {
			n := min(s.skip, uint64(len(p)))
			p, s.skip = p[n:], s.skip-n
			continue
		}
		before := len(s.head)
		s.head = append(s.head, p[:min(len(p), 14-before)]...)
		h, ok, valid := parseHeader(s.head)
		if !valid {
			s.bad = true
			return
		}
		if !ok {
			return // head took all of p: it is longer than what is there
		}
		head(h)
		// The mask, if there is one, counts as payload here: it may not have come yet.
		if h.masked {
			h.size -= 4
			h.length += 4
		}
		p, s.head, s.skip = p[h.size-before:], s.head[:0], h.length
	}
}

// appendFrame appends an unmasked binary frame, as a server sends it.
func appendFrame(dst, payload []byte) []byte {
	dst = append(dst, 0x80|opBinary)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = append(dst, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}
