package link

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Websocket opcodes (RFC 6455, section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// The reserved bits of a head. An extension that was negotiated gives them a
// meaning: with permessage-deflate (RFC 7692) the first one marks the first
// frame of a compressed message.
const (
	rsvNone    = 0x00
	rsvDeflate = 0x40
	rsvAny     = 0x70
)

// frameHeader is the head of one websocket frame.
type frameHeader struct {
	fin    bool
	rsv    byte
	opcode byte
	masked bool
	length uint64
	size   int // bytes of the head itself, mask included
}

// parseHeader reads the head of a frame; ok is false while p is too short,
// valid is false for what no client has to accept. rsv are the reserved bits
// that may be set.
func parseHeader(p []byte, rsv byte) (h frameHeader, ok, valid bool) {
	if len(p) < 2 {
		return h, false, true
	}
	h.fin = p[0]&0x80 != 0
	h.rsv = p[0] & rsvAny
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
	valid = h.rsv&^rsv == 0 && h.length>>63 == 0
	switch h.opcode {
	case opText, opBinary:
	case opContinuation:
		valid = valid && (h.rsv == 0 || rsv == rsvAny)
	case opClose, opPing, opPong:
		valid = valid && (h.rsv == 0 || rsv == rsvAny) && h.fin && h.length <= 125
	default:
		valid = false
	}
	return h, true, valid
}

// scanner walks over a stream of frames, looking at their heads only.
type scanner struct {
	rsv  byte   // reserved bits that may be set
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
		h, ok, valid := parseHeader(s.head, s.rsv)
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

// appendStored appends what appendFrame would, as a compressed message whose
// blocks are stored. The other side's window holds the same bytes then as if
// it had read the message in the form it was sent in.
func appendStored(dst, payload []byte) []byte {
	var blocks []byte
	for first := true; first || len(payload) > 0; first = false {
		n := min(len(payload), 1<<16-1)
		blocks = append(blocks, 0)
		blocks = binary.LittleEndian.AppendUint16(blocks, uint16(n))
		blocks = binary.LittleEndian.AppendUint16(blocks, ^uint16(n))
		blocks = append(blocks, payload[:n]...)
		payload = payload[n:]
	}
	blocks = append(blocks, 0) // the head of the empty block whose rest a sender leaves out
	at := len(dst)
	dst = appendFrame(dst, blocks)
	dst[at] |= rsvDeflate
	return dst
}

// inflate reads a compressed message, behind the bytes of those before it.
// More than limit bytes are an error.
func inflate(message, before []byte, limit int) ([]byte, error) {
	// The sender leaves the end of its last block out (RFC 7692, section 7.2.2);
	// a final block behind it lets the reader end.
	tail := strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")
	r := flate.NewReaderDict(io.MultiReader(bytes.NewReader(message), tail), before)
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(out) > limit {
		err = errors.New("too long")
	}
	return out, err
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
