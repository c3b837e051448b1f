package sqlcompare

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// BenchmarkMemory is what a loaded device holds: 5,000 sessions of 1 KiB with
// their identities, and the sender keys of 200 groups with 100 members, which
// stay outside until they are used.
func BenchmarkMemory(b *testing.B) {
	kv := &mapKV{data: map[authstore.Key]string{}, epoch: 1}
	c := authstore.New(kv)
	d, err := c.Device(b.Context(), fence{1})
	require.NoError(b, err)
	pair(b, d)
	sessions := make(map[string][]byte)
	for i := range 5000 {
		sessions[memberAddress(i)] = make([]byte, 1024)
		require.NoError(b, d.Identities.PutIdentity(b.Context(), memberAddress(i), [32]byte{1}))
	}
	require.NoError(b, d.Sessions.PutManySessions(b.Context(), sessions))
	for g := range 200 {
		for m := range 100 {
			require.NoError(b, d.SenderKeys.PutSenderKey(b.Context(), memberAddress(g)+"@g.us", memberAddress(m), make([]byte, 300)))
		}
	}
	require.NoError(b, c.Close(b.Context()))
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		c := authstore.New(kv)
		d, err := c.Device(b.Context(), fence{1})
		require.NoError(b, err)
		b.ReportMetric((heap()-before)/(1<<20), "MiB")
		runtime.KeepAlive(d)
		require.NoError(b, c.Close(b.Context()))
	}
}

func memberAddress(i int) string { return fmt.Sprintf("77%d_1:0", i) }
