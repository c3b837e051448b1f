package localbackend

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// crashed opens a copy of a file as it is after a power cut, and reads it.
func crashed(t *testing.T, image []byte) (map[authstore.Key]string, error) {
	t.Helper()
	path := newPath(t)
	require.NoError(t, os.WriteFile(path, image, 0o600))
	b, err := Open(path)
	if err != nil {
		after, rerr := os.ReadFile(path)
		require.NoError(t, rerr)
		require.True(t, bytes.Equal(image, after), "refused and changed")
		return nil, err
	}
	hold(t, b)
	w, err := readAll(t, b)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	requireOneFile(t, path)
	return w.Auth, nil
}

func openFileOf(b stability.Backend) *file { return b.Lock.(lockStore).b.cur.Load().file }

func imageOf(t *testing.T, path string) []byte {
	image, err := os.ReadFile(path)
	require.NoError(t, err)
	return image
}

func randomBatch(r *rand.Rand, keys, size int) authstore.Batch {
	var b authstore.Batch
	seen := map[authstore.Key]bool{}
	for range 1 + r.IntN(4) {
		k := authstore.Key{Kind: worldKinds[r.IntN(3)], ID: fmt.Sprint(r.IntN(keys))}
		if seen[k] {
			continue
		}
		seen[k] = true
		if r.IntN(4) == 0 {
			b.Delete = append(b.Delete, k)
			continue
		}
		v := make([]byte, r.IntN(size))
		for i := range v {
			v[i] = byte(r.Uint32())
		}
		b.Put = append(b.Put, authstore.Entry{Key: k, Value: v})
	}
	return b
}

func applied(model map[authstore.Key]string, b authstore.Batch) map[authstore.Key]string {
	model = maps.Clone(model)
	for _, e := range b.Put {
		model[e.Key] = string(e.Value)
	}
	for _, k := range b.Delete {
		delete(model, k)
	}
	return model
}

// Through commits, foldings, restarts and crashes, what is read is what was
// committed: by Get, by Scan in order, and from a copy of the open file.
func TestWhatIsInTheLogIsReadAndSurvives(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	path := newPath(t)
	b, err := Open(path, smallLog)
	require.NoError(t, err)
	defer func() { _ = b.Close() }()
	rec := hold(t, b)
	model := map[authstore.Key]string{}
	logged, folded := 0, 0
	for range stabilitytest.Pick(120, 10_000) {
		batch := randomBatch(r, 30, 1+r.IntN(6000))
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
		model = applied(model, batch)
		if len(openFileOf(b).pending) > 0 {
			logged++
		} else {
			folded++
		}
		w, err := readAll(t, b)
		require.NoError(t, err)
		require.Equal(t, model, w.Auth)
		for k := range w.Auth {
			got, err := b.Auth.Get(t.Context(), k, authstore.Key{Kind: "session", ID: "none"})
			require.NoError(t, err)
			require.Equal(t, map[authstore.Key][]byte{k: []byte(model[k])}, got)
		}
		switch r.IntN(12) {
		case 0:
			require.NoError(t, b.Close())
			require.False(t, dirtyAt(t, path), "closed, it needs no log")
			b = openAt(t, path)
			rec = hold(t, b)
		case 1:
			got, err := crashed(t, imageOf(t, path))
			require.NoError(t, err)
			require.Equal(t, model, got)
		}
		last := ""
		for e, err := range b.Auth.Scan(t.Context(), "session", "") {
			require.NoError(t, err)
			require.Less(t, last, e.Key.ID)
			last = e.Key.ID
		}
	}
	t.Log(logged, "commits ended in the log,", folded, "were folded")
	require.Positive(t, logged)
	require.Positive(t, folded)
}

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

// After a failed write of the log nobody knows what the disk has, so the next
// commit goes into the tables and empties the log.
func TestAfterAFailedAppendEverythingIsFolded(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("first")))
	f := openFileOf(b)
	generation, real := f.log.generation, f.f
	closed, err := os.Open(path) // not for writing
	require.NoError(t, err)
	f.f = closed
	require.Error(t, b.Auth.Commit(t.Context(), rec.Epoch, one("failed")))
	f.f = real
	require.NoError(t, closed.Close())
	key := authstore.Key{Kind: "session", ID: "1"}
	got, err := b.Auth.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "first", string(got[key]))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("second")))
	require.Equal(t, generation+1, f.log.generation)
	require.Empty(t, f.pending)
	require.False(t, dirtyAt(t, path))
	model, err := crashed(t, imageOf(t, path))
	require.NoError(t, err)
	require.Equal(t, "second", model[key])
}

// What is deleted in the log is gone at once, though the tables still have it.
func TestDeletedInTheLogIsGone(t *testing.T) {
	b := openAt(t, newPath(t))
	rec := hold(t, b)
	key := authstore.Key{Kind: "session", ID: "1"}
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
	require.NoError(t, openFileOf(b).fold(nil, nil))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Delete: []authstore.Key{key}}))
	require.Len(t, openFileOf(b).pending, 1)
	got, err := b.Auth.Get(t.Context(), key)
	require.NoError(t, err)
	require.Empty(t, got)
	for e, err := range b.Auth.Scan(t.Context(), "session", "") {
		require.NoError(t, err)
		t.Fatal("still listed: ", e.Key.ID)
	}
	require.NoError(t, b.Close())
}

// One sync for a commit, and none of bbolt's transactions.
func TestACommitIsOneRecord(t *testing.T) {
	b := openAt(t, newPath(t))
	rec := hold(t, b)
	f := openFileOf(b)
	before := imageOf(t, f.path)
	for range 20 {
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, one("v")))
	}
	after := imageOf(t, f.path)
	require.True(t, bytes.Equal(before[:f.log.off], after[:f.log.off]), "what lies before the log is as it was")
	end := f.log.off + int64(f.log.sectors)*sectorSize
	require.True(t, bytes.Equal(before[end:], after[end:]), "what lies behind the log is as it was")
	require.EqualValues(t, 20, f.log.record)
}

// Format 1 is the same without a log.
func TestAFileOfFormat1GetsALog(t *testing.T) {
	path := newPath(t)
	want := fill(t, path, 40, rand.New(rand.NewPCG(7, 8)))
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		require.NoError(t, tx.DeleteBucket(bucketLog))
		require.NoError(t, tx.Bucket(bucketHead).Delete(keyLog))
		return putHead(tx, keyFormat, binary.LittleEndian.AppendUint32(nil, 1))
	}))
	require.NoError(t, db.Close())
	require.False(t, soundOrUntouched(t, path, want, "format 1"))
	h, region := regionOf(t, imageOf(t, path))
	require.NotZero(t, h.generation)
	require.Len(t, region, logSkip+logSize)
}

func BenchmarkReplay(b *testing.B) {
	path := filepath.Join(b.TempDir(), "wa.db")
	bk, err := Open(path)
	require.NoError(b, err)
	rec := hold(b, bk)
	for i := range 120 {
		require.NoError(b, bk.Auth.Commit(b.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{
			{Key: authstore.Key{Kind: "session", ID: lock.NewHolderID(fmt.Sprint(i))}, Value: make([]byte, 4000)}}}))
	}
	image, err := os.ReadFile(path)
	require.NoError(b, err)
	require.NoError(b, bk.Close())
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, os.WriteFile(path, image, 0o600))
		b.StartTimer()
		bk, err := Open(path)
		require.NoError(b, err)
		hold(b, bk)
		b.StopTimer()
		require.NoError(b, bk.Close())
		b.StartTimer()
	}
}
