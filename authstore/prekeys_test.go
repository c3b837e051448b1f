package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/util/keys"
)

// Of the keys that were made only those that the service took are not offered
// again, also across the wrap of their ids.
func TestOnlyUploadedPreKeysAreNotOfferedAgain(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	for _, first := range []uint32{firstPreKey, lastPreKey - 4} {
		require.NoError(t, storeOf(d).submit("t", []change{put(tMisc, nextPreKey, []byte{byte(first), byte(first >> 8), byte(first >> 16), 0})}, Batch{}))
		before, err := d.PreKeys.UploadedPreKeyCount(bg)
		require.NoError(t, err)
		list, err := d.PreKeys.GetOrGenPreKeys(bg, 10)
		require.NoError(t, err)
		require.Equal(t, first, list[0].KeyID)
		ids := func(list []*keys.PreKey) (out []uint32) {
			for _, k := range list {
				out = append(out, k.KeyID)
			}
			return out
		}
		for _, upTo := range []int{2, 6, 9} { // the last passes the wrap
			require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[upTo].KeyID))
			n, err := d.PreKeys.UploadedPreKeyCount(bg)
			require.NoError(t, err)
			require.Equal(t, before+upTo+1, n)
			c, d, _ = reopen(t, kv, c)
			next, err := d.PreKeys.GetOrGenPreKeys(bg, uint32(9-upTo))
			require.NoError(t, err)
			require.Equal(t, ids(list[upTo+1:]), ids(next))
			for i := range next {
				require.Equal(t, list[upTo+1+i].Priv, next[i].Priv, "the same key under the same id")
			}
		}
	}
}

func TestPreKeysAreWhatWhatsmeowWouldMake(t *testing.T) {
	seen := make(map[[32]byte]bool)
	for id := range uint32(200) {
		key := newPreKey(id)
		require.Equal(t, id, key.KeyID)
		require.Nil(t, key.Signature)
		require.Equal(t, keys.NewKeyPairFromPrivateKey(*key.Priv), &key.KeyPair, "the public key is the private one's")
		require.Zero(t, key.Priv[0]&7, "a multiple of the cofactor")
		require.EqualValues(t, 64, key.Priv[31]&192)
		require.False(t, seen[*key.Priv])
		seen[*key.Priv] = true
	}
}

func BenchmarkPreKey(b *testing.B) {
	for name, make := range map[string]func(uint32) *keys.PreKey{"ours": newPreKey, "whatsmeow": keys.NewPreKey} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				make(1)
			}
		})
	}
}

// A peer that fetches a key and writes nothing leaves it here. Such keys have a
// bound, and their removal costs no commit.
func TestKeysThatNobodyUsedHaveABound(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	upload := func(n uint32) (ids []uint32) {
		t.Helper()
		list, err := d.PreKeys.GetOrGenPreKeys(bg, n)
		require.NoError(t, err)
		was := kv.commits.Load()
		require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[n-1].KeyID))
		require.Equal(t, was+1, kv.commits.Load())
		for _, k := range list {
			ids = append(ids, k.KeyID)
		}
		return ids
	}
	there := func(id uint32) bool {
		k, err := d.PreKeys.GetPreKey(bg, id)
		require.NoError(t, err)
		return k != nil
	}
	first := upload(812)
	for range 10 { // 10,002 in all
		upload(919)
	}
	require.False(t, there(first[0]))
	require.False(t, there(first[1]))
	require.True(t, there(first[2]))
	fresh, err := d.PreKeys.GetOrGenPreKeys(bg, 50)
	require.NoError(t, err)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, fresh[0].KeyID))
	require.False(t, there(first[51]))
	require.True(t, there(first[52]))
	for _, k := range fresh {
		require.True(t, there(k.KeyID))
	}
	last := upload(2000)
	require.True(t, there(first[52+fewPreKeys]), "no commit becomes large")
	for range 4 {
		last = upload(1)
	}
	_, d, _ = reopen(t, kv, c)
	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, keptPreKeys, n)
	require.True(t, there(last[0]))
}

// Behind the wrap the key whose id comes next is the oldest of all: it is offered
// first, and an upload of the newest marks it too.
func TestPreKeyWhoseIDComesNextIsTheOldest(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	s := storeOf(d)
	changes := []change{put(tMisc, nextPreKey, []byte{5, 0, 0, 0})}
	for _, id := range []uint32{3, 4, 5, 6} {
		changes = append(changes, put(tPreKey, preKeyID(id), preKeyValue(newPreKey(id), preKeyFresh)))
	}
	require.NoError(t, s.submit("test", changes, Batch{}))
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 4)
	require.NoError(t, err)
	var ids []uint32
	for _, k := range list {
		ids = append(ids, k.KeyID)
	}
	require.Equal(t, []uint32{5, 6, 3, 4}, ids)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, 4))
	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, 4, n)
}
