package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// All devices of a recipient ask for a message at once, before the damaged row
// has been removed.
func TestDamagedRowThatIsAskedForAgainIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		chat := types.NewJID("15550009", types.DefaultUserServer)
		require.NoError(t, storeOf(d).AddOutgoingEvent(bg, chat, "ID", "other", []byte("text")))
		told := 0
		require.NoError(t, c.Close(bg))
		kv.mu.Lock()
		for k, v := range kv.data {
			if k.Kind == "outgoing" {
				kv.data[k] = v[:len(v)-1] + "?"
			}
		}
		kv.mu.Unlock()
		_, d, _ = reopen(t, kv, c, WithOnIncident(func(Incident) { told++ }))
		for range 5 {
			format, _, err := storeOf(d).GetOutgoingEvent(bg, chat, types.EmptyJID, "ID")
			require.NoError(t, err)
			require.Empty(t, format)
		}
		time.Sleep(time.Minute)
		require.Equal(t, 1, told)
		require.Equal(t, 1, kv.count("quarantine"))
		require.Zero(t, kv.count("outgoing"))
	})
}
