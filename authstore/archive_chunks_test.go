package authstore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The chunks of an archive stand in their order, each once, and none is sealed as
// another one was: with one nonce for two, the key of the archive could be found.
func TestChunksOfAnArchiveAreToldApart(t *testing.T) {
	kv, f := source(t)
	c, d, _ := open(t, kv)
	for i := range 4 {
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(i), testJID(1), "LARGE", bytes.Repeat([]byte("same"), archiveChunk/4)))
	}
	require.NoError(t, c.Close(bg))
	whole := exported(t, FromKV("old", kv, f))
	var chunks [][]byte
	rest := whole
	for len(rest) > 0 { // from the end of the header, which has no length
		n := len(rest)
		if n >= 4 && binary.BigEndian.Uint32(rest) == archiveChunk+archiveTag {
			n = 4 + archiveChunk + archiveTag
		} else if len(chunks) == 0 {
			rest = rest[1:]
			continue
		}
		chunks = append(chunks, rest[:n])
		rest = rest[n:]
	}
	require.Greater(t, len(chunks), 3)
	header := whole[:len(whole)-len(bytes.Join(chunks, nil))]
	joined := func(order ...int) []byte {
		out := slices.Clone(header)
		for _, i := range order {
			out = append(out, chunks[i]...)
		}
		return out
	}
	var all []int
	for i := range chunks {
		all = append(all, i)
	}
	_, err := readArchive(bytes.NewReader(joined(all...)), archiveKey)
	require.NoError(t, err)
	swapped := slices.Clone(all)
	swapped[0], swapped[1] = 1, 0
	twice := slices.Clone(all)
	twice[1] = 0
	for name, order := range map[string][]int{"swapped": swapped, "one twice": twice, "one missing": all[1:], "the last missing": all[:len(all)-1]} {
		_, err := readArchive(bytes.NewReader(joined(order...)), archiveKey)
		require.ErrorIs(t, err, ErrArchive, name)
	}
	nonces := make(map[string]bool)
	for i := range uint64(5) {
		for _, last := range []bool{false, true} {
			nonce := string(chunkNonce(i, last))
			require.False(t, nonces[nonce], "a nonce twice")
			nonces[nonce] = true
		}
	}
	require.False(t, nonces[string(chunkNonce(1<<40, false))])
}
