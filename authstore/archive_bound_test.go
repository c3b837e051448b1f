package authstore

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// A damaged byte in the length of a chunk claims up to four gigabytes. Who reads
// the archive is told that it is damaged, and keeps the memory.
func TestDamagedLengthInAnArchiveCostsNoMemory(t *testing.T) {
	kv, f := source(t)
	whole := exported(t, FromKV("old", kv, f))
	for i := range 4 {
		damaged := bytes.Clone(whole)
		damaged[archiveHeader+i] ^= 0xf0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readArchive(bytes.NewReader(damaged), archiveKey)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, ErrArchive)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
	}
}
