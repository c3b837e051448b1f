package authstoretest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// largest is the size up to which values are tested: a WhatsApp frame's limit.
const largest = 16 << 20

// sizeWithin is n, or less where one value or batch cannot be that large.
// 64 bytes are left for the key.
func sizeWithin(a Account, n int) int {
	l := a.KV.Limits()
	if l.MaxValue > 0 {
		n = min(n, l.MaxValue)
	}
	if l.MaxBatch > 0 {
		n = min(n, l.MaxBatch-64)
	}
	return n
}

func testLargeValues(t *testing.T, a Account) {
	epoch := hold(t, a)
	most := sizeWithin(a, largest)
	for _, n := range []int{1, 4095, 4096, 4097, 65_536, 1 << 20, most} {
		v := random(min(n, most))
		commit(t, a, epoch, authstore.Batch{Put: []authstore.Entry{{Key: key("large"), Value: v}}})
		requireValue(t, a, key("large"), v)
	}
	commit(t, a, epoch, put("large", "small again"))
	require.Equal(t, map[string]string{"large": "small again"}, scan(t, a, "session", ""))
}

func testBeyondLimits(t *testing.T, a Account) {
	epoch := hold(t, a)
	l := a.KV.Limits()
	commit(t, a, epoch, put("old", "v"))
	tooLarge := func(b authstore.Batch) {
		t.Helper()
		b.Put = append([]authstore.Entry{{Key: key("small"), Value: []byte("v")}}, b.Put...)
		b.Delete = append(b.Delete, key("old"))
		err := a.KV.Commit(t.Context(), epoch, b)
		require.ErrorIs(t, err, authstore.ErrTooLarge)
		require.NotErrorIs(t, err, authstore.ErrFenced)
		require.Equal(t, map[string]string{"old": "v"}, scan(t, a, "session", ""), "nothing of it was written")
	}
	const affordable = 128 << 20 // what a test may allocate
	if l.MaxValue > 0 && l.MaxValue < affordable {
		tooLarge(authstore.Batch{Put: []authstore.Entry{{Key: key("huge"), Value: make([]byte, l.MaxValue+1)}}})
	}
	if l.MaxBatch > 0 && l.MaxBatch < affordable {
		one := make([]byte, sizeWithin(a, 1<<20))
		var b authstore.Batch
		for i := 0; i*len(one) <= l.MaxBatch; i++ {
			b.Put = append(b.Put, authstore.Entry{Key: key(fmt.Sprint("part", i)), Value: one})
		}
		tooLarge(b)
	}
	if l.MaxKeys > 0 {
		var b authstore.Batch
		for i := range l.MaxKeys {
			b.Delete = append(b.Delete, key(fmt.Sprint("gone", i)))
		}
		tooLarge(b)
	}
	long := make([]byte, 1501)
	tooLarge(authstore.Batch{Put: []authstore.Entry{{Key: key(string(long)), Value: nil}}})
	commit(t, a, epoch, put("after", "v"))
	requireValue(t, a, key("after"), []byte("v"))
}

func testLargeBatch(t *testing.T, a Account) {
	epoch := hold(t, a)
	l := a.KV.Limits()
	n, size := 5000, 250
	if l.MaxKeys > 0 {
		n = min(n, l.MaxKeys)
	}
	if l.MaxBatch > 0 {
		n = min(n, l.MaxBatch/(size+32))
	}
	want := map[string]string{}
	var b authstore.Batch
	for i := range n {
		id := fmt.Sprintf("%d:%d", i*7919%n, i%3)
		want[id] = string(random(size))
		b.Put = append(b.Put, authstore.Entry{Key: key(id), Value: []byte(want[id])})
	}
	commit(t, a, epoch, b)
	got := scan(t, a, "session", "")
	require.Len(t, got, len(want))
	require.True(t, fmt.Sprint(want) == fmt.Sprint(got), "what was read differs from what was written")
	all := get(t, a, func() (ks []authstore.Key) {
		for id := range want {
			ks = append(ks, key(id))
		}
		return ks
	}()...)
	require.Len(t, all, len(want))
	var d authstore.Batch
	for _, e := range b.Put {
		d.Delete = append(d.Delete, e.Key)
	}
	commit(t, a, epoch, d)
	require.Empty(t, scan(t, a, "session", ""))
}
