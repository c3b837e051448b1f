package localbackend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// regionOf finds the log in an image of a file.
func regionOf(t *testing.T, image []byte) (h logHead, region []byte) {
	_, head, buckets, err := readRoot(bytes.NewReader(image), int64(len(image)))
	require.NoError(t, err)
	c, _, _, err := readRoot(bytes.NewReader(image), int64(len(image)))
	require.NoError(t, err)
	found, err := c.head(head)
	require.NoError(t, err)
	h, err = decodeLogHead(found[string(keyLog)])
	require.NoError(t, err)
	require.NoError(t, c.bucket(buckets["log"], func(e element) error { region = e.value; return nil }))
	return h, region
}

func dirtyAt(t *testing.T, path string) bool {
	h, region := regionOf(t, imageOf(t, path))
	_, dirty, err := readLog(h, region)
	require.NoError(t, err)
	return dirty
}

// torn is a run of commits, with an image of the file after each.
func torn(t *testing.T, r *rand.Rand, commits int) (images [][]byte, models []map[authstore.Key]string, off int64) {
	path := newPath(t)
	b, err := Open(path, func(b *backend) { b.log = 40 << 10 }) // nothing is folded meanwhile
	require.NoError(t, err)
	defer b.Close()
	rec := hold(t, b)
	model := map[authstore.Key]string{}
	for range 5 { // what an earlier generation leaves
		batch := randomBatch(r, 9, 900)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
		model = applied(model, batch)
	}
	f := openFileOf(b)
	require.NoError(t, f.fold(nil, nil))
	off = f.log.off
	require.Zero(t, off%logPage, "no page has sectors of two records")
	images, models = append(images, imageOf(t, path)), append(models, model)
	for i := range commits {
		batch := randomBatch(r, 9, 900)
		batch.Put = append(batch.Put, authstore.Entry{Key: authstore.Key{Kind: "empty", ID: fmt.Sprint(i)}, Value: make([]byte, 700)})
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
		model = applied(model, batch)
		images, models = append(images, imageOf(t, path)), append(models, model)
		require.EqualValues(t, i+1, f.log.record, "they stand in the log")
	}
	return images, models, off
}

// A power cut lets any of the sectors of the commit on its way arrive: it has
// happened whole or not at all, and those before it have happened.
func TestACommitCutOffAnywhereHasHappenedOrNot(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(rand.Uint64(), 1))
	images, models, off := torn(t, r, 3)
	whole, none := 0, 0
	for k := 1; k < len(images); k++ {
		before, after := images[k-1], images[k]
		var changed []int
		for at := off; at < int64(len(after)); at += sectorSize {
			if !bytes.Equal(before[at:at+sectorSize], after[at:at+sectorSize]) {
				changed = append(changed, int(at))
			}
		}
		require.Greater(t, len(changed), 1)
		for set := range 1 << min(len(changed), stabilitytest.Pick(4, 8)) {
			image := bytes.Clone(before)
			all := true
			for i, at := range changed {
				if set&(1<<min(i, 8)) != 0 || i >= stabilitytest.Pick(4, 8) && set%2 == 1 {
					copy(image[at:at+sectorSize], after[at:])
				} else {
					all = false
				}
			}
			got, err := crashed(t, image)
			require.NoError(t, err, "commit %d, sectors %b", k, set)
			if all {
				whole++
				require.Equal(t, models[k], got, "commit %d, sectors %b", k, set)
			} else {
				none++
				require.Equal(t, models[k-1], got, "commit %d, sectors %b", k, set)
			}
		}
	}
	require.Positive(t, whole)
	require.Positive(t, none)
}

// A log cut at every byte is what it was up to there, or refused.
func TestDamageInALogIsRefusedUntouchedOrSound(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(rand.Uint64(), 2))
	images, models, off := torn(t, r, 4)
	good, want := images[4], models[4]
	h, region := regionOf(t, good)
	at := int64(bytes.Index(good, region))
	require.EqualValues(t, off, int(at)+logSkip)
	wantChanges, dirty, err := readLog(h, region)
	require.NoError(t, err)
	require.True(t, dirty)

	used := nextRecord(0)
	for i := range (len(region) - logSkip) / sectorSize { // behind the last sector in use
		if _, current, _ := readSector(h, i, region[logSkip+i*sectorSize:][:sectorSize]); current {
			used = i + 1
		}
	}
	refused := 0
	for i := 0; i < used*sectorSize; i += stabilitytest.Pick(3, 1) {
		bad := bytes.Clone(region)
		bad[logSkip+i] ^= byte(1 + r.IntN(255))
		if got, _, err := readLog(h, bad); err == nil {
			require.Equal(t, wantChanges, got, "byte %d", i)
		} else {
			require.ErrorIs(t, err, authstore.ErrCorrupt)
			refused++
		}
		// Bytes that never arrived: what follows is as it was before the commit.
		bad = bytes.Clone(region)
		copy(bad[logSkip+i:], regionAt(t, images[3], at, len(region))[logSkip+i:])
		got, _, err := readLog(h, bad)
		if i%sectorSize != 0 && err != nil {
			require.ErrorIs(t, err, authstore.ErrCorrupt)
			continue
		}
		require.NoError(t, err, "cut at %d", i)
		require.True(t, isPrefix(got, wantChanges), "cut at %d", i)
	}
	require.Greater(t, refused, used*sectorSize/10)

	// A record in the middle that is lost is found by the one after it.
	const perPage = logPage
	for record, start := 0, 0; record < 3; record++ {
		bad := bytes.Clone(good)
		first, current, err := readSector(h, start/sectorSize, region[logSkip+start:][:sectorSize])
		require.NoError(t, err)
		require.True(t, current)
		clear(bad[off+int64(start):][:int(first.parts)*sectorSize])
		_, err = crashed(t, bad)
		require.ErrorIs(t, err, authstore.ErrCorrupt, "record %d is lost", record)
		start += (int(first.parts)*sectorSize + perPage - 1) / perPage * perPage
	}
	got, err := crashed(t, good)
	require.NoError(t, err)
	require.Equal(t, want, got)
	// A sector of the same place in another account is nobody's.
	other := h
	other.identity[0] ^= 1
	_, _, err = readLog(other, region)
	require.ErrorIs(t, err, authstore.ErrCorrupt)
	older := h
	older.generation--
	_, _, err = readLog(older, region)
	require.ErrorIs(t, err, authstore.ErrCorrupt, "of a generation that is not yet")
}

func regionAt(t *testing.T, image []byte, at int64, n int) []byte {
	require.GreaterOrEqual(t, int64(len(image)), at+int64(n))
	return image[at : at+int64(n)]
}

func isPrefix(got, want []change) bool {
	for i, c := range got {
		if i >= len(want) || c.key != want[i].key || !bytes.Equal(c.stored, want[i].stored) {
			return false
		}
	}
	return true
}
