package authstore

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// Sessions are stored while the sender keys of a number move to its LID. Only
// the race detector can see this test fail for sure.
func TestSenderKeysMoveBesideSendsWithoutARace(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	session, key := validSession(t, 1), validSenderKey([]byte{1})
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", session))
	require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
	for n := range 200 {
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, fmt.Sprintf("%d@g.us", n), "1:0", key))
	}
	moved := make(chan struct{})
	var sends sync.WaitGroup
	sends.Go(func() {
		for s := storeOf(d); ; {
			select {
			case <-moved:
				return
			default:
				s.trust("5:0") // as each session that is stored or parsed
			}
		}
	})
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	close(moved)
	sends.Wait()
	got, err := d.SenderKeys.GetSenderKey(bg, "199@g.us", "900_1:0")
	require.NoError(t, err)
	require.Equal(t, key, got)
}
