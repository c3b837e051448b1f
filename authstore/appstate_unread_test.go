package authstore

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// MACs that cannot be read are not there for nobody: a second look fails like the
// first, and nothing is written over them.
func TestMACsThatCannotBeReadAreNotWrittenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		index := []byte("index")
		patch := func(version uint64, value string) error {
			if err := d.AppState.PutAppStateVersion(bg, "regular", version, [128]byte{byte(version)}); err != nil {
				return err
			}
			return d.AppState.PutAppStateMutationMACs(bg, "regular", version, []store.AppStateMutationMAC{{IndexMAC: index, ValueMAC: []byte(value)}})
		}
		require.NoError(t, patch(1, "value"))
		require.NoError(t, c.Close(bg))
		kv.mu.Lock()
		var newer Key
		for k, v := range kv.data {
			if k.Kind == "appmac" {
				newer, kv.data[k] = k, string(rune(formatVersion+1))+v[1:]
			}
		}
		stored := strings.Clone(kv.data[newer])
		kv.mu.Unlock()
		_, d, _ = reopen(t, kv, c)
		for range 2 {
			_, err := d.AppState.GetAppStateMutationMAC(bg, "regular", index)
			require.ErrorIs(t, err, ErrNewerFormat)
			require.ErrorIs(t, patch(2, "other"), ErrNewerFormat)
		}
		time.Sleep(time.Minute)
		kv.mu.Lock()
		defer kv.mu.Unlock()
		require.Equal(t, stored, kv.data[newer])
	})
}
