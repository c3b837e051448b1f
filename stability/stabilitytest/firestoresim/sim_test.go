package firestoresim

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
)

// A day of lease renewals by compare-and-set passes in a bubble, and a listener
// sees the last of them.
func TestADayInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New()
		defer s.Close()
		c, err := s.Client(t.Context(), "demo-day", Name("a"))
		require.NoError(t, err)
		defer c.Close()
		lease := c.Doc("root/doc/locks/wa")
		w, err := lease.Create(t.Context(), map[string]any{"n": 0})
		require.NoError(t, err)
		snaps := lease.Snapshots(t.Context())
		defer snaps.Stop()
		first, err := snaps.Next()
		require.NoError(t, err)
		require.True(t, first.Exists())
		const renewals = 2880
		for n := range renewals {
			time.Sleep(30 * time.Second)
			w, err = lease.Update(t.Context(), []firestore.Update{{Path: "n", Value: n}}, firestore.LastUpdateTime(w.UpdateTime))
			require.NoError(t, err)
		}
		for {
			snap, err := snaps.Next()
			require.NoError(t, err)
			if snap.Data()["n"] == int64(renewals-1) {
				require.Equal(t, w.UpdateTime, snap.UpdateTime)
				break
			}
		}
		require.Equal(t, renewals+1, s.Stats().RPCs[Commit])
		require.Equal(t, renewals+1, s.StatsOf("a").Writes)
		require.Zero(t, s.StatsOf("b").Writes)
	})
}

func BenchmarkCommit(b *testing.B) {
	s := New()
	defer s.Close()
	c, err := s.Client(b.Context(), "demo-bench")
	require.NoError(b, err)
	defer c.Close()
	for b.Loop() {
		_, err := c.Doc("a/b").Set(b.Context(), map[string]any{"n": b.N})
		require.NoError(b, err)
	}
}
