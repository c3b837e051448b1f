package localbackend

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "wa.db")
	bk, err := Open(path)
	require.NoError(b, err)
	rec := hold(b, bk)
	var batch authstore.Batch
	for i := range 5000 {
		batch.Put = append(batch.Put, authstore.Entry{
			Key: authstore.Key{Kind: "session", ID: fmt.Sprintf("49%012d:%d", rand.Uint64N(1e12), i%5)}, Value: make([]byte, 1500),
		})
	}
	require.NoError(b, bk.Auth.Commit(b.Context(), rec.Epoch, batch))
	require.NoError(b, bk.Close())
	info, err := os.Stat(path)
	require.NoError(b, err)
	b.SetBytes(info.Size())
	b.Run("check", func(b *testing.B) {
		f, err := os.Open(path)
		require.NoError(b, err)
		defer f.Close()
		b.ReportAllocs()
		for b.Loop() {
			_, err := check(f, info.Size())
			require.NoError(b, err)
		}
	})
	b.Run("acquire-and-close", func(b *testing.B) {
		for b.Loop() {
			bk, err := Open(path)
			require.NoError(b, err)
			hold(b, bk)
			require.NoError(b, bk.Close())
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{0, 5000} {
		b.Run(fmt.Sprint("beside-", n), func(b *testing.B) {
			bk, err := Open(filepath.Join(b.TempDir(), "wa.db"))
			require.NoError(b, err)
			defer bk.Close()
			rec := hold(b, bk)
			key := func(i int) authstore.Key {
				return authstore.Key{Kind: "session", ID: fmt.Sprintf("49%08d:0", i*7919%(n+1))}
			}
			var batch authstore.Batch
			for i := range n {
				batch.Put = append(batch.Put, authstore.Entry{Key: key(i), Value: make([]byte, 1500)})
			}
			require.NoError(b, bk.Auth.Commit(b.Context(), rec.Epoch, batch))
			i := 0
			for b.Loop() {
				i++
				m := authstore.Batch{Put: []authstore.Entry{{Key: key(i), Value: make([]byte, 1500)}, {Key: authstore.Key{Kind: "buffer", ID: "x"}, Value: make([]byte, 300)}}}
				if err := bk.Auth.Commit(b.Context(), rec.Epoch, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
