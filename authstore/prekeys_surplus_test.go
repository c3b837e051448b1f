package authstore

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// Retry receipts make keys of their own, so there may be more of them than are kept
// while an upload that failed waits to be made again. When it is made, its keys are
// the oldest, and just given out: they stay.
func TestKeysThatAreJustUploadedAreNotSurplus(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	s := storeOf(d)
	waiting, err := d.PreKeys.GetOrGenPreKeys(bg, 2)
	require.NoError(t, err)
	last := waiting[1].KeyID
	s.mu.Lock()
	for i := range uint32(keptPreKeys) {
		id := last + 1 + i
		s.im.apply(put(tPreKey, preKeyID(id), preKeyValue(waiting[0], preKeyUploaded)))
	}
	s.im.apply(put(tMisc, nextPreKey, binary.LittleEndian.AppendUint32(nil, last+1+keptPreKeys)))
	s.mu.Unlock()
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, last))
	for _, k := range waiting {
		key, err := d.PreKeys.GetPreKey(bg, k.KeyID)
		require.NoError(t, err)
		require.NotNil(t, key, "offered by the service from now on")
		require.Equal(t, *k.Priv, *key.Priv)
	}
}
