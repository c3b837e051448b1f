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

// A row that is deleted in the log is gone at once, though the tables still have it.
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
