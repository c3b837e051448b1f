package authstore

import (
	"bytes"
	"testing"
	"time"

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

// A value of any size can be written, read and set aside, whichever of the limits
// is the smaller one: also one that fits with nothing to spare, or by one byte
// not.
func TestValuesAroundTheLimitsAreKept(t *testing.T) {
	const lim = 8000
	for name, limits := range map[string]Limits{
		"a value":            {MaxValue: lim},
		"a batch":            {MaxBatch: lim},
		"a value of a batch": {MaxValue: lim, MaxBatch: lim},
		"a smaller value":    {MaxValue: lim, MaxBatch: lim + 150},
		"a smaller batch":    {MaxValue: lim + 150, MaxBatch: lim},
	} {
		for form, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
			t.Run(name+", "+form, func(t *testing.T) {
				kv := newMapKV()
				kv.limits = limits
				c, d, _ := open(t, kv, opts...)
				text := func(n int) []byte { return bytes.Repeat([]byte{byte(n), 'x'}, n)[:n] }
				hash := func(n int) [32]byte { return [32]byte{byte(n), byte(n >> 8)} }
				parts := 0 // values that stand in parts
				const from, to = lim - 250, lim + 20
				for n := from; n < to; n++ {
					before := kv.count(kindPart)
					require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash(n), text(n), time.Unix(1, 0)), "%d bytes", n)
					if kv.count(kindPart) > before {
						parts++
					}
				}
				require.Greater(t, parts, 20)
				require.Less(t, parts, to-from-20, "what fits stands in one piece")
				c, d, _ = reopen(t, kv, c, opts...)
				for n := from; n < to; n++ {
					e, err := d.EventBuffer.GetBufferedEvent(bg, hash(n))
					require.NoError(t, err)
					require.NotNil(t, e, "%d bytes", n)
					require.True(t, bytes.Equal(text(n), e.Plaintext), "%d bytes", n)
				}
				// Damaged, they are set aside, whole.
				damaged := 0
				for k, v := range kv.data {
					if k.Kind == "event" && len(v) > 1000 {
						kv.data[k] = v[:len(v)-1] + string(v[len(v)-1]^1)
						damaged++
					}
				}
				c, _, _ = reopen(t, kv, c, opts...)
				require.NoError(t, storeOf(c.current.device).flush("test"))
				q, err := c.Quarantined(bg)
				require.NoError(t, err)
				require.Len(t, q.Rows, damaged)
				require.Empty(t, locked(c.current, func() int { return len(c.current.damage.asides) }))
			})
		}
	}
}

func locked(s *deviceStore, f func() int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f()
}
