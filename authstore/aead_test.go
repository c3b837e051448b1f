package authstore

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// keysWithOneID finds two keys whose ids are the same.
func keysWithOneID() (one, other [32]byte) {
	seen := make(map[[keyIDSize]byte][32]byte)
	for n := uint32(0); one == other; n++ {
		var key [32]byte
		binary.BigEndian.PutUint32(key[:], n)
		id := newGCMKey(key).id
		if first, ok := seen[id]; ok {
			one, other = first, key
		}
		seen[id] = key
	}
	return one, other
}

// The id of a key in front of a value is short, so two keys may share it. What
// was sealed with either is read with both, and Reseal leaves nothing under the
// old one: after it, the new key is enough.
func TestKeysThatShareTheirIDAreToldApart(t *testing.T) {
	one, other := keysWithOneID()
	kv := newMapKV()
	c, d, _ := open(t, kv, WithAEAD(NewAESGCM(other)))
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
	require.NoError(t, c.Close(bg))
	read := func(opts ...Option) {
		t.Helper()
		kv.setEpoch(kv.epoch + 1)
		c, d, _ := open(t, kv, opts...)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 7, sessionCounter(t, v))
		require.NoError(t, c.Close(bg))
		require.Zero(t, kv.count(kindQuarantine))
	}
	both := WithAEAD(NewAESGCM(one, other))
	read(both)
	_, err := reseal(t, kv, both)
	require.NoError(t, err)
	read(WithAEAD(NewAESGCM(one)))
}

// A key that stands among its own old ones is one key: what it sealed is left
// alone.
func TestKeyThatIsPassedTwiceIsOneKey(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv, WithAEAD(NewAESGCM(keyOf(1), keyOf(1), keyOf(1))))
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
	require.NoError(t, c.Close(bg))
	before := kv.commits.Load()
	_, err := reseal(t, kv, WithAEAD(NewAESGCM(keyOf(1), keyOf(2), keyOf(1))))
	require.NoError(t, err)
	require.Equal(t, before, kv.commits.Load())
	kv.setEpoch(kv.epoch + 1)
	_, d, _ = open(t, kv, WithAEAD(NewAESGCM(keyOf(1))))
	v, err := d.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.EqualValues(t, 7, sessionCounter(t, v))
}
