package authstore

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// A value that has to be split goes into parts that fit into a batch, also where
// a batch is the smaller of the two limits.
func TestPartsFitIntoABatchThatIsSmallerThanAValue(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 4000, MaxBatch: 2500}
	c, d, _ := open(t, kv)
	want := validSenderKey(bytes.Repeat([]byte{7}, 20_000))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", want))
	_, d, _ = reopen(t, kv, c)
	got, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", "1:0")
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

// A value that one batch cannot take is split on every way into a store, also
// where MaxValue would allow it.
func TestEveryWayInSplitsWhatABatchCannotTake(t *testing.T) {
	const name = "LARGE"
	small := Limits{MaxValue: 60_000, MaxBatch: 4000, MaxKeys: 50}
	user := testJID(1)
	large := bytes.Repeat([]byte("large"), 1600) // between the two limits
	write := func(t *testing.T, kv *mapKV, opts ...Option) {
		t.Helper()
		c, d, _ := open(t, kv, opts...)
		furnish(t, d)
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, user, user, name, large))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "many@g.us", "7:0", validSenderKey(large)))
		require.NoError(t, c.Close(bg))
	}
	one := WithAEAD(NewAESGCM(keyOf(1)))
	ways := map[string]func(t *testing.T) (*mapKV, []Option){
		"commit": func(t *testing.T) (*mapKV, []Option) {
			kv := newMapKV()
			kv.limits = small
			write(t, kv)
			return kv, nil
		},
		"reseal": func(t *testing.T) (*mapKV, []Option) {
			kv := newMapKV()
			write(t, kv)
			kv.limits = small
			_, err := reseal(t, kv, one, WithPlaintextAllowed())
			require.NoError(t, err)
			return kv, []Option{one}
		},
		"names": func(t *testing.T) (*mapKV, []Option) {
			kv := newMapKV()
			write(t, kv)
			_, err := reseal(t, kv, one, WithPlaintextAllowed())
			require.NoError(t, err)
			kv.limits = small
			_, err = reseal(t, kv, one, WithSealedNames())
			require.NoError(t, err)
			require.Empty(t, telling(kv))
			return kv, []Option{one}
		},
		"import": func(t *testing.T) (*mapKV, []Option) {
			from, to := newMapKV(), newMapKV()
			write(t, from)
			to.limits = small
			_, err := Import(bg, FromKV("old", from, newFence(from.epoch)), New(to), newFence(to.epoch))
			require.NoError(t, err)
			return to, nil
		},
		"restore": func(t *testing.T) (*mapKV, []Option) {
			from, to := newMapKV(), newMapKV()
			write(t, from)
			var archive bytes.Buffer
			_, err := Export(bg, FromKV("old", from, newFence(from.epoch)), &archive, keyOf(9))
			require.NoError(t, err)
			to.limits = small
			_, err = Restore(bg, &archive, keyOf(9), New(to), newFence(to.epoch), RestoredUnchanged())
			require.NoError(t, err)
			return to, nil
		},
		"set aside": func(t *testing.T) (*mapKV, []Option) {
			kv := newMapKV()
			write(t, kv)
			kv.data[Key{"session", "d0/bad:0"}] = "\x01\x00" + string(large)
			kv.limits = small
			kv.setEpoch(kv.epoch + 1)
			c, _, _ := open(t, kv)
			require.NoError(t, c.Close(bg))
			require.NotContains(t, kv.data, Key{"session", "d0/bad:0"})
			require.Greater(t, kv.count(kindQuarantine), 1)
			return kv, nil
		},
	}
	for way, prepare := range ways {
		t.Run(way, func(t *testing.T) {
			kv, opts := prepare(t)
			if way != "set aside" {
				require.Positive(t, kv.count(kindPart))
			}
			kv.setEpoch(kv.epoch + 1)
			c, d, _ := open(t, kv, opts...)
			got, _, err := d.MsgSecrets.GetMessageSecret(bg, user, user, name)
			require.NoError(t, err)
			require.True(t, bytes.Equal(large, got))
			key, err := d.SenderKeys.GetSenderKey(bg, "many@g.us", "7:0")
			require.NoError(t, err)
			require.True(t, bytes.Equal(validSenderKey(large), key))
			require.NoError(t, c.Close(bg))
		})
	}
}
