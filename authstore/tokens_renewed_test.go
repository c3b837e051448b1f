package authstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// asking is a context that does something when it is asked for the n-th time.
type asking struct {
	context.Context
	asked *int
	n     int
	do    func()
}

func (a asking) Value(key any) any {
	if *a.asked++; *a.asked == a.n {
		a.do()
	}
	return a.Context.Value(key)
}

// A contact renews a token while expired ones are being removed: the new one stays,
// whenever it comes.
func TestTokenThatIsRenewedMeanwhileStays(t *testing.T) {
	for n := 1; ; n++ {
		_, d, _ := open(t, newMapKV())
		put := func(text string, at time.Time) {
			require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(5), Token: []byte(text), Timestamp: at}))
		}
		now := time.Now()
		put("old", now.Add(-2*time.Hour))
		asked := 0
		ctx := asking{bg, &asked, n, func() { put("new", now) }}
		removed, err := storeOf(d).DeleteExpiredPrivacyTokens(ctx, now.Add(-time.Hour))
		require.NoError(t, err)
		if asked < n {
			require.Greater(t, n, 2, "it came between the look and the removal")
			require.EqualValues(t, 1, removed)
			return
		}
		got, err := d.PrivacyTokens.GetPrivacyToken(bg, testJID(5))
		require.NoError(t, err)
		require.NotNil(t, got)
		require.Equal(t, "new", string(got.Token))
		require.Zero(t, removed)
	}
}
