package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A row that was set aside and that nobody can open keeps its name. The move to
// sealed names ends all the same: else each hour brings one more look at all rows,
// and each read of a row stays two.
func TestRowSetAsideThatNobodyOpensDoesNotHoldUpTheMove(t *testing.T) {
	kv := plainNames(t)
	other := codec{aead: NewAESGCM([32]byte{99})}
	lost := Key{kindQuarantine, "session/d0/1:0/1/0"}
	value, err := other.encode(lost, "", false, []byte("of a key that is gone"))
	require.NoError(t, err)
	kv.data[lost] = string(value)
	_, d, _ := open(t, kv, nameSeal, WithSealedNames())
	require.NoError(t, storeOf(d).moveNames(bg))
	require.False(t, moving(t, kv))
	kv.mu.Lock()
	defer kv.mu.Unlock()
	require.Equal(t, string(value), kv.data[lost])
}
