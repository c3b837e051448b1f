package link

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTheScannerSeesTheSameFramesHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type frame struct {
			op     byte
			size   int
			masked bool
		}
		frames := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) frame {
			f := frame{op: rapid.SampledFrom([]byte{opContinuation, opText, opBinary, opClose, opPing, opPong}).Draw(t, "op"), masked: rapid.Bool().Draw(t, "masked")}
			limit := 70_000
			if f.op >= opClose {
				limit = 125
			}
			f.size = rapid.IntRange(0, limit).Draw(t, "size")
			return f
		}), 0, 8).Draw(t, "frames")

		var stream []byte
		for _, f := range frames {
			one := appendFrame(nil, make([]byte, f.size))
			one[0] = 0x80 | f.op
			if f.masked {
				head := len(one) - f.size
				one[1] |= 0x80
				one = append(one[:head:head], append([]byte{0xff, 0xff, 0xff, 0xff}, one[head:]...)...)
			}
			stream = append(stream, one...)
		}

		var s scanner
		seen := 0
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "piece")
			s.scan(stream[:n], func(h frameHeader) {
				if seen < len(frames) {
					require.Equal(t, frames[seen].op, h.opcode)
					require.EqualValues(t, frames[seen].size, h.length)
				}
				seen++
			})
			stream = stream[n:]
		}
		require.Len(t, frames, seen)
		require.Zero(t, s.skip)
		require.False(t, s.bad)
	})
}

func TestNoBytesMakeTheParsersPanic(t *testing.T) {
	l := New(Config{})
	rapid.Check(t, func(t *rapid.T) {
		ext := rapid.SampledFrom([]string{"", "permessage-deflate; server_no_context_takeover", "permessage-x"}).Draw(t, "extensions")
		s := scanner{rsv: reservedBits(ext)}
		for _, p := range rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "stream") {
			s.scan(p, func(frameHeader) {})
			b := newBody(l.newConn(true), nil, ext)
			b.in = p
			_, _ = b.parse()
		}
	})
}
