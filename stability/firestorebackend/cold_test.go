package firestorebackend

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

// coldAccount stores what an account with 5,000 sessions has.
func coldAccount(t testing.TB, b stability.Backend, rec lock.Record) {
	t.Helper()
	value := []byte(strings.Repeat("s", 1000))
	for i := 0; i < 5000; i += 1000 {
		var batch authstore.Batch
		for n := i; n < i+1000; n++ {
			batch.Put = append(batch.Put, authstore.Entry{Key: key(fmt.Sprint(n)), Value: value})
		}
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
	}
	batch := authstore.Batch{Put: []authstore.Entry{
		{Key: authstore.Key{Kind: "account", ID: "g/head"}, Value: []byte("g1")},
		{Key: authstore.Key{Kind: "device", ID: "g1/device"}, Value: value},
	}}
	for i := range 256 {
		batch.Put = append(batch.Put, authstore.Entry{Key: authstore.Key{Kind: "lid", ID: fmt.Sprintf("g/%x", i)}, Value: value})
	}
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
}

// coldStart reads as authstore.Container does: the account, then every kind at
// once.
func coldStart(t testing.TB, b stability.Backend) int {
	t.Helper()
	head := authstore.Key{Kind: "account", ID: "g/head"}
	got, err := b.Auth.Get(t.Context(), head)
	require.NoError(t, err)
	require.Equal(t, "g1", string(got[head]))
	var wg sync.WaitGroup
	var sessions atomic.Int64
	for _, kind := range []authstore.Kind{
		"device", "misc", "session", "identity", "prekey", "appkey", "appstate", "contact", "chat", "token", "lid", "event", "seen", "part",
	} {
		wg.Go(func() {
			for _, err := range b.Auth.Scan(t.Context(), kind, "g1/") {
				if err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				if kind == "session" {
					sessions.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(sessions.Load())
}
