package localbackend

import (
	"bytes"
	"fmt"
	"hash/crc64"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// world is everything an account holds.
type world struct {
	Epoch     int64
	Auth      map[authstore.Key]string
	State     reconnect.State
	Incidents []guard.Incident
}

var worldKinds = []authstore.Kind{"session", "sender_key", "prekey", "creds", "empty"}

func readAll(t testing.TB, b stability.Backend) (w world, err error) {
	w.Auth = map[authstore.Key]string{}
	for _, kind := range worldKinds {
		for e, err := range b.Auth.Scan(t.Context(), kind, "") {
			if err != nil {
				return w, err
			}
			w.Auth[e.Key] = string(e.Value)
		}
	}
	if w.State, err = b.State.Load(t.Context()); err != nil {
		return w, err
	}
	w.Incidents, err = b.Incidents.List(t.Context())
	return w, err
}

// smallLog makes files that can be damaged byte by byte within the time of a
// test.
func smallLog(b *backend) { b.log = 16 << 10 }

// fill writes and deletes as a life would, so that there are pages in use, free
// pages, branches, large and small buckets, and values over several pages.
func fill(t testing.TB, path string, entries int, r *rand.Rand) world {
	b, err := Open(path, smallLog)
	require.NoError(t, err)
	defer b.Close()
	rec := hold(t, b)
	for round := range 4 {
		var batch authstore.Batch
		for i := range entries {
			if round > 0 && r.IntN(3) > 0 {
				continue
			}
			k := authstore.Key{Kind: worldKinds[r.IntN(3)], ID: fmt.Sprintf("%d:%d", 1000+i, i%3)}
			if round > 0 && r.IntN(4) == 0 {
				batch.Delete = append(batch.Delete, k)
				continue
			}
			v := make([]byte, r.IntN(600))
			for j := range v {
				v[j] = byte(r.Uint32())
			}
			batch.Put = append(batch.Put, authstore.Entry{Key: k, Value: v})
		}
		batch.Put = append(batch.Put, authstore.Entry{Key: authstore.Key{Kind: "creds", ID: "device"}, Value: make([]byte, 3000*round)})
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{InstanceID: "one", RetryCount: 7, ConnectedAt: now}))
	for i := range 5 {
		_, _, err := b.Incidents.Raise(t.Context(), guard.Incident{ID: fmt.Sprint("incident ", i), DetectedAt: now.Add(time.Duration(i)), Runbook: string(make([]byte, 200*i))})
		require.NoError(t, err)
	}
	w, err := readAll(t, b)
	require.NoError(t, err)
	w.Epoch = rec.Epoch
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	return w
}

// soundOrUntouched is the guarantee: what is at path is refused and left as it
// is, or it is what was written. It tells whether it was refused.
func soundOrUntouched(t testing.TB, path string, want world, what string) (refused bool) {
	t.Helper()
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	b, err := Open(path)
	if err != nil {
		require.ErrorIs(t, err, authstore.ErrCorrupt, what)
		after, rerr := os.ReadFile(path)
		require.NoError(t, rerr)
		require.True(t, bytes.Equal(before, after), "%s: the file was changed, and refused: %v", what, err)
		// The check that Acquire makes for itself refuses it as well.
		_, err = openFile(t.Context(), path, logSize)
		require.ErrorIs(t, err, authstore.ErrCorrupt, what)
		after, rerr = os.ReadFile(path)
		require.NoError(t, rerr)
		require.True(t, bytes.Equal(before, after), "%s: the file was changed, and refused: %v", what, err)
		return true
	}
	for i := int64(1); i <= 2; i++ { // the second time after a commit
		rec := hold(t, b)
		require.Equal(t, want.Epoch+i, rec.Epoch, what)
		got, err := readAll(t, b)
		require.NoError(t, err, what)
		got.Epoch = want.Epoch
		require.Equal(t, want, got, what)
		k := authstore.Key{Kind: "session", ID: "after"}
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{{Key: k, Value: make([]byte, 9000)}}}), what)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Delete: []authstore.Key{k}}), what)
		require.NoError(t, b.Lock.Release(t.Context(), rec))
	}
	require.NoError(t, b.Close())
	return false
}

func TestADamagedFileIsRefusedUntouchedOrSound(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	path := filepath.Join(dir, "wa.db")
	want := fill(t, path, 400, r)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	page := os.Getpagesize()
	pages := len(good) / page
	refused, n := 0, stabilitytest.Pick(80, 20_000)
	for i := range n {
		bad := bytes.Clone(good)
		var what string
		at := r.IntN(len(bad))
		switch r.IntN(8) {
		case 0:
			bad = bad[:at]
			what = fmt.Sprintf("truncated to %d", at)
		case 1:
			at -= at % page
			bad = bad[:at]
			what = fmt.Sprintf("truncated to page %d", at/page)
		case 2:
			end := min(len(bad), at+1+r.IntN(2*page))
			clear(bad[at:end])
			what = fmt.Sprintf("zeroes in %d to %d", at, end)
		case 3:
			a, b := r.IntN(pages)*page, r.IntN(pages)*page
			copy(bad[a:a+page], good[b:b+page])
			what = fmt.Sprintf("page %d over page %d", b/page, a/page)
		case 4: // what leads bbolt: headers of pages and of their first elements
			at = r.IntN(pages)*page + r.IntN(96)
			bad[at] = byte(r.Uint32())
			what = fmt.Sprintf("byte %d is %d", at, bad[at])
		case 5:
			bad = append(bad, make([]byte, r.IntN(3*page))...)
			what = "zeroes behind the end"
		default:
			for range 1 + r.IntN(3) {
				at = r.IntN(len(bad))
				bad[at] ^= 1 << r.IntN(8)
				what += fmt.Sprintf(" bit in byte %d", at)
			}
		}
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		if soundOrUntouched(t, path, want, fmt.Sprint(i, ": ", what)) {
			refused++
		}
	}
	t.Logf("%d of %d refused", refused, n)
	require.Greater(t, refused, n/10, "much damage hits what is in use")
}

// Every single byte of a small file, and every single truncation.
func TestEveryByteThatMattersIsChecked(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	path := newPath(t)
	want := fill(t, path, 40, r)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = check(bytes.NewReader(good), int64(len(good)))
	require.NoError(t, err)
	var sound []int
	stride := stabilitytest.Pick(17, 1)
	bad := bytes.Clone(good)
	all := contents(t, good)
	for at := 0; at < len(good); at += stride {
		bad[at] ^= byte(1 + r.IntN(255))
		if _, err := check(bytes.NewReader(bad), int64(len(bad))); err == nil {
			sound = append(sound, at)
			require.True(t, all == contents(t, bad), "byte %d", at)
		}
		bad[at] = good[at]
	}
	t.Logf("%d of %d bytes matter", len(good)-len(sound)*stride, len(good))
	require.NotEmpty(t, sound)
	// bbolt reads right each file that the check lets pass.
	for range stabilitytest.Pick(12, 2000) {
		at := sound[r.IntN(len(sound))]
		bad[at] ^= byte(1 + r.IntN(255))
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		_, err := check(bytes.NewReader(bad), int64(len(bad)))
		if err == nil {
			soundOrUntouched(t, path, want, fmt.Sprint("byte ", at))
		}
		bad[at] = good[at]
	}
	c, err := readMetas(good)
	require.NoError(t, err)
	for size := 0; size < int(c.next)*int(c.pageSize); size += stabilitytest.Pick(211, 1) {
		_, err := check(bytes.NewReader(good[:size]), int64(size))
		require.ErrorIs(t, err, authstore.ErrCorrupt, "truncated to %d", size)
	}
}

// contents is a hash of all that a walk finds.
func contents(t *testing.T, file []byte) uint64 {
	out := crc64.New(crc64.MakeTable(crc64.ECMA))
	c, head, buckets, err := readRoot(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	buckets["head"] = head
	for _, name := range []string{"head", "auth", "state", "incidents"} {
		require.NoError(t, c.bucket(buckets[name], func(e element) error {
			for _, part := range [][]byte{[]byte(name), e.key, e.value} {
				_, _ = out.Write(order.AppendUint64(nil, uint64(len(part))))
				_, _ = out.Write(part)
			}
			return nil
		}))
	}
	return out.Sum64()
}

// Damage that no checksum of a value finds, one by one.
func TestDamageBesideTheValuesIsFound(t *testing.T) {
	path := newPath(t)
	fill(t, path, 400, rand.New(rand.NewPCG(5, 6)))
	for range 2 { // the newer meta page is the one, then the other
		b := openAt(t, path)
		hold(t, b)
		require.NoError(t, b.Close())
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		m, err := readMetas(good)
		require.NoError(t, err)
		c, _, _, err := readRoot(bytes.NewReader(good), int64(len(good)))
		require.NoError(t, err)
		size := int(m.pageSize)
		page := func(id int) []byte { return good[id*size:] }

		refused := func(what string, change func(bad []byte)) {
			t.Helper()
			bad := bytes.Clone(good)
			change(bad)
			_, err := check(bytes.NewReader(bad), int64(len(bad)))
			require.ErrorIs(t, err, authstore.ErrCorrupt, what)
		}
		for i := range 2 {
			refused("a meta page", func(bad []byte) { bad[i*size+pageHeader+50] ^= 1 })
			refused("a lost meta page", func(bad []byte) { copy(bad[i*size:(i+1)*size], good[(1-i)*size:]) })
		}
		require.NoError(t, c.bucket(bucketOf(t, good, "auth"), func(element) error { return nil }))
		leaves, overlaps := 0, 0
		var inUse int
		for id := 2; id < int(m.next)-1; id++ {
			if c.used[id/64]&(1<<(id%64)) == 0 || order.Uint64(page(id)) != uint64(id) || order.Uint16(page(id)[8:]) != flagLeaf {
				continue
			}
			inUse = id
			leaves++
			refused("a leaf that lost its last element", func(bad []byte) {
				order.PutUint16(bad[id*size+10:], order.Uint16(page(id)[10:])-1)
			})
			if c.used[(id+1)/64]&(1<<((id+1)%64)) != 0 && order.Uint32(page(id)[12:]) == 0 {
				overlaps++
				refused("a page that reaches into the next", func(bad []byte) { order.PutUint32(bad[id*size+12:], 1) })
			}
		}
		require.Greater(t, leaves, 10)
		require.Positive(t, overlaps)
		require.Positive(t, order.Uint16(page(int(m.freelist))[10:]), "there are free pages")
		refused("a page in use that counts as free", func(bad []byte) {
			order.PutUint64(bad[int(m.freelist)*size+pageHeader:], uint64(inUse))
		})
		refused("a freelist longer than its page", func(bad []byte) { order.PutUint16(bad[int(m.freelist)*size+10:], math.MaxUint16-1) })
		refused("a file that shrank", func(bad []byte) {
			for i := range 2 {
				p := bad[i*size+pageHeader:]
				order.PutUint64(p[40:], uint64(len(bad)/size+1))
				h := fnv.New64a()
				_, _ = h.Write(p[:56])
				order.PutUint64(p[56:], h.Sum64())
			}
		})
	}
}

func bucketOf(t *testing.T, file []byte, name string) []byte {
	_, _, buckets, err := readRoot(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	return buckets[name]
}

func readMetas(file []byte) (meta, error) {
	return (&checker{r: bytes.NewReader(file), size: int64(len(file))}).metas()
}

func TestForeignFilesAreRefusedUntouched(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": "hello", "zeroes": string(make([]byte, 1<<16)), "sqlite": "SQLite format 3\x00" + string(make([]byte, 8192)),
	} {
		path := newPath(t)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.True(t, soundOrUntouched(t, path, world{}, name))
	}
	path := newPath(t)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("mine")); return err }))
	require.NoError(t, db.Close())
	require.True(t, soundOrUntouched(t, path, world{}, "bbolt of another program"))
}

func TestANewerFormatIsRefusedUntouched(t *testing.T) {
	path := newPath(t)
	fill(t, path, 20, rand.New(rand.NewPCG(1, 2)))
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket([]byte("what the future needs")); err != nil {
			return err
		}
		return putHead(tx, keyFormat, []byte{formatVersion + 1, 0, 0, 0})
	}))
	require.NoError(t, db.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = Open(path)
	require.ErrorIs(t, err, authstore.ErrNewerFormat)
	require.NotErrorIs(t, err, authstore.ErrCorrupt)
	_, err = openFile(t.Context(), path, logSize)
	require.ErrorIs(t, err, authstore.ErrNewerFormat)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
}

// A file that bbolt's own tools have rewritten is still ours.
func TestACompactedFileIsRead(t *testing.T) {
	path := newPath(t)
	want := fill(t, path, 200, rand.New(rand.NewPCG(3, 4)))
	src, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	compacted := newPath(t)
	dst, err := bbolt.Open(compacted, 0o600, &bbolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	require.NoError(t, bbolt.Compact(dst, src, 0))
	require.NoError(t, dst.Close())
	require.NoError(t, src.Close())
	require.False(t, soundOrUntouched(t, compacted, want, "compacted"))
}
