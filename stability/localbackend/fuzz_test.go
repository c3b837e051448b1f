package localbackend

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// FuzzLog: whatever stands in a log, be it behind good checksums, is read or
// refused as damage: no panic, and nothing is read that is not there.
func FuzzLog(f *testing.F) {
	h := logHead{identity: [8]byte{1, 2, 3}, generation: 7}
	value := func(key, v string) change {
		return change{0, key, seal(logged[0], []byte(key), []byte(v))}
	}
	one := encodeRecord(h, 0, 0, encodeChanges([]change{value("session\x001", "one"), {0, "event\x002", nil}}))
	f.Add(one, false)
	second := nextRecord(len(one) / sectorSize)
	two := append(append(one, make([]byte, second*sectorSize-len(one))...),
		encodeRecord(h, 1, second, encodeChanges([]change{value("k", string(make([]byte, 2000)))}))...)
	f.Add(two, false)
	f.Add(two[:len(two)-sectorSize], true)
	f.Add(encodeChanges([]change{{2, "x", nil}}), true)
	f.Fuzz(func(t *testing.T, raw []byte, mend bool) {
		sectors := max(len(raw)/sectorSize+1, logPage/sectorSize)
		region := make([]byte, logSkip+sectors*sectorSize)
		copy(region[logSkip:], raw)
		if mend {
			for i := range sectors {
				if s := region[logSkip+i*sectorSize:][:sectorSize]; [sectorSize]byte(s) != noSector {
					binary.LittleEndian.PutUint32(s, sectorSum(h, i, s))
				}
			}
		}
		changes, dirty, err := readLog(h, region)
		if err != nil {
			require.ErrorIs(t, err, authstore.ErrCorrupt)
			require.Empty(t, changes)
			return
		}
		size := 0
		for _, c := range changes {
			size += len(c.key) + len(c.stored)
			if c.stored != nil {
				_, err := unseal(logged[c.bucket], []byte(c.key), c.stored)
				require.NoError(t, err)
			}
		}
		require.LessOrEqual(t, size, len(region))
		if len(changes) > 0 {
			require.True(t, dirty)
			// A list that was read is one that a writer would have written.
			again, err := decodeChanges(encodeChanges(changes))
			require.NoError(t, err)
			require.Equal(t, changes, again)
		}
	})
}

// FuzzRecords: the small records of a file, of any content.
func FuzzRecords(f *testing.F) {
	f.Add(totals{1, 2, 3}.encode())
	f.Add(logHead{generation: 1}.encode())
	f.Add([]byte(`{"holder":"a","epoch":3}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, e1 := decodeTotals(raw)
		_, e2 := decodeLogHead(raw)
		_, e3 := decodeFormat(raw)
		_, e4 := decodeLock(raw)
		_, e5 := unseal(bucketHead, keyLock, raw)
		_, e6 := decodeChanges(raw)
		for _, err := range []error{e1, e2, e3, e4, e5, e6} {
			if err != nil {
				require.ErrorIs(t, err, authstore.ErrCorrupt)
			}
		}
	})
}
