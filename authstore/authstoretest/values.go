package authstoretest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

func testAbsent(t *testing.T, a Account) {
	hold(t, a)
	requireAbsent(t, a, keys("x", "creds/device")...)
	require.Empty(t, get(t, a), "a Get without keys reads nothing")
	require.Empty(t, scan(t, a, "session", ""))
}

func testReadYourWrites(t *testing.T, a Account) {
	epoch := hold(t, a)
	for i := range pick(20, 200) {
		v := fmt.Sprint("value ", i)
		commit(t, a, epoch, put("k", v, fmt.Sprint("k", i), v))
		got := get(t, a, keys("k", fmt.Sprint("k", i), "absent")...)
		require.Len(t, got, 2)
		require.Equal(t, v, string(got[key("k")]))
		require.Equal(t, v, scan(t, a, "session", "k")["k"])
	}
	require.Len(t, get(t, a, keys("k", "k")...), 1, "a key may be asked for twice")
}

func testEmptyValue(t *testing.T, a Account) {
	epoch := hold(t, a)
	commit(t, a, epoch, authstore.Batch{Put: []authstore.Entry{
		{Key: key("nil"), Value: nil}, {Key: key("empty"), Value: []byte{}},
	}})
	got := get(t, a, keys("nil", "empty", "absent")...)
	require.Len(t, got, 2)
	require.Empty(t, got[key("nil")])
	require.Empty(t, got[key("empty")])
	require.Equal(t, map[string]string{"nil": "", "empty": ""}, scan(t, a, "session", ""))
}

func testPutAndDelete(t *testing.T, a Account) {
	epoch := hold(t, a)
	commit(t, a, epoch, put("a", "1", "b", "1", "c", "1"))
	b := put("a", "2", "d", "2")
	b.Delete = keys("b", "never was")
	commit(t, a, epoch, b)
	require.Equal(t, map[string]string{"a": "2", "c": "1", "d": "2"}, scan(t, a, "session", ""))
	commit(t, a, epoch, authstore.Batch{Delete: keys("a", "b", "c", "d")})
	require.Empty(t, scan(t, a, "session", ""))
	commit(t, a, epoch, put("a", "3"))
	requireValue(t, a, key("a"), []byte("3"))
}

func testIdempotent(t *testing.T, a Account) {
	epoch := hold(t, a)
	commit(t, a, epoch, put("a", "1", "b", "1"))
	b := put("a", "2", "c", "2")
	b.Delete = keys("b")
	for range 3 {
		commit(t, a, epoch, b)
		require.Equal(t, map[string]string{"a": "2", "c": "2"}, scan(t, a, "session", ""))
	}
}

func testEmptyBatch(t *testing.T, a Account) {
	epoch := hold(t, a)
	require.NoError(t, a.KV.Commit(t.Context(), epoch, authstore.Batch{}))
	next := hold(t, a)
	require.ErrorIs(t, a.KV.Commit(t.Context(), epoch, authstore.Batch{}), authstore.ErrFenced)
	require.NoError(t, a.KV.Commit(t.Context(), next, authstore.Batch{}))
}

func testKinds(t *testing.T, a Account) {
	epoch := hold(t, a)
	long := authstore.Kind(strings.Repeat("k", 32))
	kinds := []authstore.Kind{"s", "session", "session_", "session_2", "session0", "0", "_", long}
	var b authstore.Batch
	for _, k := range kinds {
		b.Put = append(b.Put, authstore.Entry{Key: authstore.Key{Kind: k, ID: "same"}, Value: []byte(k)})
	}
	commit(t, a, epoch, b)
	for _, k := range kinds {
		require.Equal(t, map[string]string{"same": string(k)}, scan(t, a, k, ""))
		require.Equal(t, map[string]string{"same": string(k)}, scan(t, a, k, "sa"))
	}
	commit(t, a, epoch, authstore.Batch{Delete: keys("session/same")})
	require.Empty(t, scan(t, a, "session", ""))
	require.Len(t, scan(t, a, "session_", ""), 1)
}

// oddIDs are ids a stranger, a device list or a hash may give. Some differ
// only in what a careless encoding loses.
func oddIDs() []string {
	return []string{
		"/", "//", "a/b", "a//b", "a/b/", "/a", ".", "..", "__", "__a__", "a:b", "a@b", "49123:1@s.whatsapp.net",
		"_", "%", "%2F", "%2f", "a%b", "a_b", "a%00b", "*", "?", "#", "[a]", "`", "'", "\"", "\\", "a\\b", " ", "a ", " a",
		"\x00", "a\x00", "a\x00b", "\x00a", "\x00\x00", "\n", "a\nb", "\x7f",
		"é", "e\u0301", "日本語", "😀", "\u202e", "\ufeff", "\U0010ffff",
		"\xff", "\xff\xff", "a\xff", "\xffa", "\xc3", "\xc3(", "\xed\xa0\x80",
		"A", "a", "ab", "aB",
		strings.Repeat("x", 1500), strings.Repeat("x", 1499) + "y", strings.Repeat("\xff", 1500), strings.Repeat("/", 1500),
	}
}

func testOddIDs(t *testing.T, a Account) {
	epoch := hold(t, a)
	ids := oddIDs()
	want := map[string]string{}
	var ks []authstore.Key
	for i, id := range ids { // alone …
		b := put()
		k := authstore.Key{Kind: "session", ID: id}
		b.Put = []authstore.Entry{{Key: k, Value: fmt.Append(nil, "alone ", i)}}
		commit(t, a, epoch, b)
		requireValue(t, a, k, fmt.Append(nil, "alone ", i))
		ks = append(ks, k)
	}
	var b authstore.Batch
	for i, k := range ks { // … and together
		want[k.ID] = fmt.Sprint("value ", i)
		b.Put = append(b.Put, authstore.Entry{Key: k, Value: []byte(want[k.ID])})
	}
	commit(t, a, epoch, b)
	require.Equal(t, want, scan(t, a, "session", ""))
	got := get(t, a, ks...)
	require.Len(t, got, len(ks))
	for i, k := range ks {
		require.Equal(t, want[k.ID], string(got[k]), "id %q", short(k.ID))
		commit(t, a, epoch, authstore.Batch{Delete: ks[i : i+1]})
		delete(want, k.ID)
	}
	require.Empty(t, scan(t, a, "session", ""))
}

func testPrefixScans(t *testing.T, a Account) {
	epoch := hold(t, a)
	all := map[string]string{}
	var b authstore.Batch
	for i, id := range oddIDs() {
		all[id] = fmt.Sprint(i)
		b.Put = append(b.Put, authstore.Entry{Key: authstore.Key{Kind: "session", ID: id}, Value: []byte(all[id])},
			authstore.Entry{Key: authstore.Key{Kind: "session2", ID: id}, Value: []byte("another kind")})
	}
	commit(t, a, epoch, b)
	for _, id := range append(oddIDs(), "b", "49123", "49123:", "49124", "a\x00b\x00", "\xfe", "日本", "zzz") {
		// Some prefixes end inside a rune: an id is bytes.
		for _, prefix := range []string{id, id[:(len(id)+1)/2], id[:1]} {
			want := map[string]string{}
			for k, v := range all {
				if strings.HasPrefix(k, prefix) {
					want[k] = v
				}
			}
			require.Equal(t, want, scan(t, a, "session", prefix), "prefix %q", short(prefix))
		}
	}
}

func testRanges(t *testing.T, a Account) {
	many, ok := a.KV.(authstore.RangeScanner)
	if !ok {
		t.Skip("this KV reads one range with each request")
	}
	epoch := hold(t, a)
	var b authstore.Batch
	kinds := []authstore.Kind{"session", "identity", "session2", "prekey"}
	for _, kind := range kinds {
		for i, id := range oddIDs() {
			b.Put = append(b.Put, authstore.Entry{Key: authstore.Key{Kind: kind, ID: id}, Value: fmt.Append(nil, kind, i)})
		}
	}
	commit(t, a, epoch, b)
	for _, prefix := range append(oddIDs(), "", "\xff", "nothing begins with this") {
		ranges := []authstore.Range{{Kind: "identity", IDPrefix: prefix}, {Kind: "none of these"}, {Kind: "session"}, {Kind: "session2", IDPrefix: prefix[:len(prefix)/2]}}
		want := map[authstore.Key]string{}
		for _, r := range ranges {
			for id, v := range scan(t, a, r.Kind, r.IDPrefix) {
				want[authstore.Key{Kind: r.Kind, ID: id}] = v
			}
		}
		got := map[authstore.Key]string{}
		for e, err := range many.ScanRanges(t.Context(), ranges...) {
			require.NoError(t, err)
			require.NotContains(t, got, e.Key)
			got[e.Key] = string(e.Value)
		}
		require.Equal(t, want, got, "prefix %q", short(prefix))
	}
	for range many.ScanRanges(t.Context()) {
		require.Fail(t, "no range has an entry")
	}
	for e, err := range many.ScanRanges(t.Context(), authstore.Range{Kind: "prekey"}, authstore.Range{Kind: "session"}) { // may be left early
		require.NoError(t, err)
		require.NotEmpty(t, e.Value)
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var failed error
	for _, err := range many.ScanRanges(ctx, authstore.Range{Kind: "prekey"}) {
		failed = err
	}
	require.ErrorIs(t, failed, context.Canceled)
}

func testOwnership(t *testing.T, a Account) {
	epoch := hold(t, a)
	v := []byte("first")
	commit(t, a, epoch, authstore.Batch{Put: []authstore.Entry{{Key: key("k"), Value: v}}})
	copy(v, "XXXXX")
	requireValue(t, a, key("k"), []byte("first"))
	got := get(t, a, key("k"))[key("k")]
	copy(got, "YYYYY")
	_ = append(got, "YYYYY"...)
	requireValue(t, a, key("k"), []byte("first"))
	for e, err := range a.KV.Scan(t.Context(), "session", "") {
		require.NoError(t, err)
		copy(e.Value, "ZZZZZ")
	}
	requireValue(t, a, key("k"), []byte("first"))
	// A returned value stays as it was while the store goes on.
	kept := get(t, a, key("k"))[key("k")]
	for i := range 20 {
		commit(t, a, epoch, put("k", fmt.Sprint("later ", i), fmt.Sprint("filler", i), string(random(3000))))
	}
	require.Equal(t, "first", string(kept))
	// Values of one scan are apart: a change of one is not seen in another.
	commit(t, a, epoch, put("apart/1", "one", "apart/2", "two", "apart/3", "three"))
	var values [][]byte
	for e, err := range a.KV.Scan(t.Context(), "apart", "") {
		require.NoError(t, err)
		values = append(values, e.Value)
	}
	before := make([]string, len(values))
	for i, v := range values {
		before[i] = string(v)
	}
	for i, v := range values {
		require.Equal(t, before[i], string(v))
		_ = append(v, "WWWWWWWW"...)
		copy(v, "WWWWWWWW")
	}
}

func testScanBreak(t *testing.T, a Account) {
	epoch := hold(t, a)
	var b authstore.Batch
	for i := range 500 {
		b.Put = append(b.Put, authstore.Entry{Key: key(fmt.Sprint(i)), Value: []byte("v")})
	}
	commit(t, a, epoch, b)
	for range 20 {
		n := 0
		for _, err := range a.KV.Scan(t.Context(), "session", "") {
			require.NoError(t, err)
			if n++; n == 3 {
				break
			}
		}
		require.Equal(t, 3, n)
	}
	// Nothing the scan held blocks a commit that makes the store grow.
	commit(t, a, epoch, put("big", string(random(sizeWithin(a, 1<<20)))))
	seq := a.KV.Scan(t.Context(), "session", "")
	for range 2 { // the sequence can be ranged over again
		n := 0
		for _, err := range seq {
			require.NoError(t, err)
			n++
		}
		require.Equal(t, 501, n)
	}
}

func testScanWhileWriting(t *testing.T, a Account) {
	epoch := hold(t, a)
	const n = 600
	var b authstore.Batch
	for i := range n {
		b.Put = append(b.Put, authstore.Entry{Key: key(fmt.Sprintf("stays %04d", i)), Value: []byte("v")})
	}
	commit(t, a, epoch, b)
	seen := map[string]int{}
	for e, err := range a.KV.Scan(t.Context(), "session", "") {
		require.NoError(t, err)
		seen[e.Key.ID]++
		if len(seen)%100 == 1 { // in the loop's own goroutine: a scan holds no lock while it yields
			w := put(fmt.Sprint("a", len(seen)), "new", fmt.Sprint("z", len(seen)), string(random(sizeWithin(a, 200_000))))
			commit(t, a, epoch, w)
			require.NotEmpty(t, get(t, a, key(fmt.Sprint("a", len(seen)))))
		}
	}
	for i := range n {
		require.Equal(t, 1, seen[fmt.Sprintf("stays %04d", i)], "what was there all the time is yielded once")
	}
	for id, times := range seen {
		require.Equal(t, 1, times, id)
	}
}

func testCancelled(t *testing.T, a Account) {
	epoch := hold(t, a)
	commit(t, a, epoch, put("k", "v"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.KV.Commit(ctx, epoch, put("k", "w", "l", "w")), context.Canceled)
	_, err := a.KV.Get(ctx, key("k"))
	require.ErrorIs(t, err, context.Canceled)
	ends := 0
	for e, err := range a.KV.Scan(ctx, "session", "") {
		require.ErrorIs(t, err, context.Canceled, "%v", e)
		ends++
	}
	require.Equal(t, 1, ends, "a scan tells its error once and ends")
	require.Equal(t, map[string]string{"k": "v"}, scan(t, a, "session", ""))
}

func testModel(t *testing.T, a Account) {
	epoch := hold(t, a)
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	model := map[authstore.Key]string{}
	ks := keys("a/1", "a/10", "a/11", "a/2", "b/1", "b/10", "b/\x00", "b/\xff", "c/only", "ab/1")
	for range pick(60, 1000) {
		var b authstore.Batch
		for _, k := range ks {
			switch r.IntN(4) {
			case 0:
				v := string(random(r.IntN(5000)))
				b.Put = append(b.Put, authstore.Entry{Key: k, Value: []byte(v)})
				model[k] = v
			case 1:
				b.Delete = append(b.Delete, k)
				delete(model, k)
			}
		}
		commit(t, a, epoch, b)
		got := get(t, a, ks...)
		require.Len(t, got, len(model))
		for k, v := range model {
			require.True(t, v == string(got[k]), "%v", k)
		}
		kind, prefix := authstore.Kind([]string{"a", "b", "c", "ab"}[r.IntN(4)]), []string{"", "1", "10", "\x00", "\xff"}[r.IntN(5)]
		want := map[string]string{}
		for k, v := range model {
			if k.Kind == kind && strings.HasPrefix(k.ID, prefix) {
				want[k.ID] = v
			}
		}
		require.Equal(t, want, scan(t, a, kind, prefix))
	}
}
