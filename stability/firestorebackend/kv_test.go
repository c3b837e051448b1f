package firestorebackend

import (
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// A bucket that a read has found goes to the writer, and a commit changes it
// there while the read goes on. It is the race detector that looks on here.
func TestAReadSharesNothingWithTheCommitBesideIt(t *testing.T) {
	t.Parallel()
	reads := map[authstore.Kind]func(t *testing.T, b stability.Backend, small, large authstore.Key) map[authstore.Key][]byte{
		"event": func(t *testing.T, b stability.Backend, small, large authstore.Key) map[authstore.Key][]byte {
			got, err := b.Auth.Get(t.Context(), small, large)
			assert.NoError(t, err)
			return got
		},
		"appmac": func(t *testing.T, b stability.Backend, _, _ authstore.Key) map[authstore.Key][]byte {
			got := map[authstore.Key][]byte{}
			for e, err := range b.Auth.Scan(t.Context(), "appmac", "g1/regular/") {
				assert.NoError(t, err)
				got[e.Key] = e.Value
			}
			return got
		},
	}
	c := onSim(t, sim(t))
	for kind, read := range reads {
		small, large := authstore.Key{Kind: kind, ID: "g1/regular/1"}, authstore.Key{Kind: kind, ID: "g1/regular/2"}
		commit := func(b stability.Backend, epoch int64, k authstore.Key, size int) {
			require.NoError(t, b.Auth.Commit(t.Context(), epoch, authstore.Batch{Put: []authstore.Entry{{Key: k, Value: make([]byte, size)}}}))
		}
		for range 10 {
			b := opened(t, c, WithRoot("accounts/"+rand.Text()))
			epoch := hold(t, b).Epoch
			commit(b, epoch, small, 1)
			raw := b.Auth.(keyValues).b
			raw.mu.Lock()
			clear(raw.writer.know.buckets) // as in a term that has not met the bucket yet
			raw.mu.Unlock()
			var got map[authstore.Key][]byte
			var wg sync.WaitGroup
			wg.Go(func() { got = read(t, b, small, large) })
			require.Eventually(t, func() bool {
				raw.mu.Lock()
				defer raw.mu.Unlock()
				return raw.writer.know.buckets[placeOf(small).bucket] != nil
			}, time.Minute, time.Millisecond)
			commit(b, epoch, large, 100_000) // beside the bucket, which says so
			wg.Wait()
			require.Len(t, got[small], 1)
			if v, ok := got[large]; ok {
				require.Len(t, v, 100_000)
			}
		}
	}
}

// The client puts an answer that breaks off together with the answer to a second
// request. That is one moment where nobody else writes; others read again, in a
// transaction, which the client does not put together.
func TestAnAnswerInTwoPiecesIsOneMoment(t *testing.T) {
	t.Parallel()
	const project = "demo-two-pieces"
	c, w := onWire(t, project)
	c2, w2 := onWire(t, project)
	root := WithRoot("accounts/" + rand.Text())
	b, other := opened(t, c, root), opened(t, c2, root)
	rec := hold(t, b)
	commit := func(v string) {
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", v, "b", v)))
	}
	commit("1")
	require.NotEqual(t, placeOf(key("a")).bucket, placeOf(key("b")).bucket)
	cut := func(_ string, nth int) fault { return fault{cut: nth == 1} }
	read := func(b stability.Backend, w *wire) (got map[authstore.Key][]byte, rpcs map[string]int) {
		w.reset()
		w.fail(cut)
		got, err := b.Auth.Get(t.Context(), key("a"), key("b"))
		w.fail(nil)
		require.NoError(t, err)
		require.Equal(t, got[key("a")], got[key("b")])
		return got, w.reset().rpcs
	}
	got, rpcs := read(b, w)
	require.Equal(t, "1", string(got[key("a")]))
	require.Equal(t, map[string]int{"BatchGetDocuments": 2}, rpcs)
	got, rpcs = read(other, w2)
	require.Equal(t, "1", string(got[key("a")]))
	require.Equal(t, map[string]int{"BatchGetDocuments": 3, "BeginTransaction": 1, "Commit": 1}, rpcs)

	// A commit lands between the pieces.
	w2.fail(func(_ string, nth int) fault {
		if nth == 2 {
			commit("2")
		}
		return fault{cut: nth == 1}
	})
	got, err := other.Auth.Get(t.Context(), key("a"), key("b"))
	w2.fail(nil)
	require.NoError(t, err)
	require.Equal(t, map[authstore.Key][]byte{key("a"): []byte("2"), key("b"): []byte("2")}, got)
}

// A commit that failed left nothing behind, also in what the writer knows of
// its buckets: the same batch does its work the next time.
func TestFailedCommitIsNotRemembered(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 40_000)
	for name, c := range map[string]struct {
		batch authstore.Batch
		want  map[string]string
	}{
		"a delete":         {authstore.Batch{Delete: []authstore.Key{key("a")}}, map[string]string{"g1/b": "1"}},
		"a put":            {put("a", "2", "c", "2"), map[string]string{"g1/a": "2", "g1/b": "1", "g1/c": "2"}},
		"a move to itself": {put("a", large), map[string]string{"g1/a": large, "g1/b": "1"}},
		"all of a bucket":  {authstore.Batch{Delete: []authstore.Key{key("a"), key("b")}}, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t)
				b := opened(t, onSim(t, s))
				rec := hold(t, b)
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1", "b", "1")))
				s.Fault(firestoresim.PermissionDenied()).On(firestoresim.Commit).Now()
				require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, c.batch), ErrPermission)
				time.Sleep(maxPause)
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, c.batch))
				fresh := opened(t, onSim(t, s))
				require.Equal(t, c.want, values(t, fresh))
				got, err := fresh.Auth.Get(t.Context(), key("a"), key("b"), key("c"))
				require.NoError(t, err)
				require.Len(t, got, len(c.want))
			})
		})
	}
}

// A document that cannot be read, or that a newer library arranged, is an error
// in every call, and stays as it is.
func TestUnreadableDocumentIsNeverAnEmptyOne(t *testing.T) {
	t.Parallel()
	creds, misc := DefaultRoot+"/whatsmeow_auth/creds", authstore.Key{Kind: "misc", ID: "x"}
	for name, c := range map[string]struct {
		path, field string
		value       any
		want        error
		keys        []authstore.Key
	}{
		"a bucket":       {creds + "/keys/" + placeOf(key("a")).bucket, "data", "text", authstore.ErrCorrupt, []authstore.Key{key("a")}},
		"the record":     {creds, "creds", "text", authstore.ErrCorrupt, []authstore.Key{misc}},
		"a newer format": {creds, "format", int64(layoutVersion + 1), authstore.ErrNewerFormat, []authstore.Key{key("a"), misc}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t)
				b := opened(t, onSim(t, s))
				cont, d := paired(t, b)
				require.NoError(t, d.Sessions.PutSession(t.Context(), "1:0", ratchet(1)))
				require.NoError(t, cont.Close(t.Context()))
				rec := hold(t, b)
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
				s.Edit("demo-sim", c.path, func(m map[string]any) map[string]any { m[c.field] = c.value; return m })
				before := s.Snapshot("demo-sim")

				next := opened(t, onSim(t, s))
				rec = hold(t, next)
				for _, k := range c.keys {
					_, err := next.Auth.Get(t.Context(), k)
					require.ErrorIs(t, err, c.want)
					require.ErrorIs(t, next.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{{Key: k, Value: []byte("2")}}}), c.want)
					var last error
					for _, err := range next.Auth.Scan(t.Context(), k.Kind, "") {
						last = err
					}
					require.ErrorIs(t, last, c.want)
				}
				for _, d := range before {
					if d.Path == c.path {
						now, _ := s.Get("demo-sim", c.path)
						require.Equal(t, d.Fields, now.Fields)
					}
				}
			})
		})
	}
}
