package authstore

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Somebody forgets to pass the old key. Nothing that it would open is touched,
// neither a row nor the parts in which it stands.
func TestResealWithoutTheOldKeyTouchesNothing(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 4 << 10}
	old := WithAEAD(NewAESGCM([32]byte{1}))
	c, d, f := open(t, kv, old)
	text := bytes.Repeat([]byte("text "), 4000)
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, text, time.Unix(1, 0)))
	require.NoError(t, c.Close(bg))
	before := maps.Clone(kv.data)
	require.NotZero(t, kv.count("part"))
	err := New(kv, WithAEAD(NewAESGCM([32]byte{2}))).Reseal(bg, f, nil)
	require.ErrorIs(t, err, ErrWrongKey)
	require.Equal(t, before, kv.data)
	_, d, _ = open(t, kv, old)
	e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{1})
	require.NoError(t, err)
	require.Equal(t, text, e.Plaintext)
}
