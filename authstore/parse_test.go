package authstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// The sessions of a large group are parsed on all cores when they are asked for
// first.
func TestBadSessionsAmongManyAreSetAside(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	sessions := make(map[string][]byte)
	var addresses []string
	for i := range 200 {
		a := fmt.Sprintf("%d_1:0", i)
		addresses = append(addresses, a, "nobody"+a)
		sessions[a] = validSession(t, uint32(i+1))
		if i%50 == 7 {
			sessions[a] = []byte("no session")
		}
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
	_, d, _ = reopen(t, kv, c)
	require.Empty(t, storeOf(d).checked, "nothing is parsed before it is asked for")
	for range 2 {
		got, err := d.Sessions.GetManySessions(bg, addresses)
		require.NoError(t, err)
		require.Len(t, got, len(addresses))
		for i := range 200 {
			a := fmt.Sprintf("%d_1:0", i)
			if i%50 == 7 {
				require.Nil(t, got[a])
			} else {
				require.EqualValues(t, i+1, sessionCounter(t, got[a]))
			}
			require.Nil(t, got["nobody"+a])
		}
	}
	require.NoError(t, storeOf(d).flush("t"))
	require.Equal(t, 4, kv.count(kindQuarantine))
	require.Len(t, storeOf(d).checked, 196)
}
