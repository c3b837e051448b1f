package authstore

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// manyRows is more than any step takes at a time, several times over.
const manyRows = 450

// crowded is a closed account with many rows of each of some kinds.
func crowded(t testing.TB, opts ...Option) *mapKV {
	t.Helper()
	kv := newMapKV()
	c, d, _ := open(t, kv, opts...)
	sessions := make(map[string][]byte)
	for i := range manyRows {
		addr := fmt.Sprintf("%d:0", 1000+i)
		sessions[addr] = validSession(t, 1)
		require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{1}))
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), types.MessageID(addr), []byte{1}))
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
	require.NoError(t, c.Close(bg))
	kv.setEpoch(kv.epoch + 1)
	require.Equal(t, manyRows, kv.count("session"))
	return kv
}

// rowsUnder counts what stands under a generation.
func rowsUnder(kv *mapKV, gen string) (n int) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	for k := range kv.data {
		if g, _ := genAndID(k); g == gen {
			n++
		}
	}
	return n
}

// A call that goes through many rows goes through all of them.
func TestManyRowsAreAllDealtWith(t *testing.T) {
	t.Run("damaged rows are set aside, listed and purged", func(t *testing.T) {
		kv := crowded(t)
		for k := range kv.data {
			if k.Kind == "session" {
				kv.data[k] = "\x01\x00damaged"
			}
		}
		c, _, f := open(t, kv)
		require.NoError(t, storeOf(c.current.device).flush("t"))
		require.Zero(t, kv.count("session"))
		q, err := c.Quarantined(bg)
		require.NoError(t, err)
		require.Len(t, q.Rows, manyRows)
		require.NoError(t, c.PurgeRows(bg, f))
		require.Zero(t, kv.count(kindQuarantine))
	})
	t.Run("a deleted device is purged", func(t *testing.T) {
		kv := crowded(t)
		c, d, f := open(t, kv)
		require.NoError(t, d.Delete(bg))
		require.NoError(t, c.PurgeDevice(bg, f))
		require.Zero(t, rowsUnder(kv, "d0"))
	})
	t.Run("a replaced device is purged", func(t *testing.T) {
		kv := crowded(t)
		c, d, f := open(t, kv)
		require.NoError(t, d.Delete(bg))
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(2))
		login(t, d)
		c.cfg.background.Wait()
		require.Zero(t, rowsUnder(kv, "d0"))
	})
	t.Run("parts of nothing are removed", func(t *testing.T) {
		kv := crowded(t)
		for i := range manyRows {
			kv.data[Key{kindPart, fmt.Sprintf("d0/session-%08x-ABCDEFGHIJKLMNOP/0", i)}] = "left over"
		}
		c, _, _ := open(t, kv)
		c.cfg.background.Wait()
		require.Zero(t, kv.count(kindPart))
	})
	t.Run("a key is changed", func(t *testing.T) {
		kv := crowded(t, WithAEAD(NewAESGCM(keyOf(1))))
		_, err := reseal(t, kv, WithAEAD(NewAESGCM(keyOf(2), keyOf(1))))
		require.NoError(t, err)
		inner := codec{aead: NewAESGCM(keyOf(2)), opener: NewAESGCM(keyOf(2))}
		for k, v := range kv.data {
			_, err := inner.decode(k, k.ID, []byte(v))
			require.NoError(t, err)
		}
	})
	t.Run("names are sealed", func(t *testing.T) {
		kv := crowded(t)
		c, _, _ := open(t, kv, WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed(), WithSealedNames())
		c.cfg.background.Wait()
		require.Equal(t, manyRows, kv.count("session"))
		for k, v := range kv.data {
			if k.Kind == "session" || k.Kind == "secret" {
				_, id := genAndID(k)
				require.True(t, isSealedName(id, []byte(v)), "%v", k)
			}
		}
	})
	t.Run("an account is moved, and an unfinished move dropped", func(t *testing.T) {
		kv := crowded(t)
		src := FromKV("old", kv, newFence(kv.epoch))
		to := newMapKV()
		ctx, cancel := context.WithCancel(bg)
		_, err := Import(ctx, src, New(to), newFence(1), OnProgress(func(p Progress) {
			if p.Kind == "contact" {
				cancel()
			}
		}))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, manyRows, to.count("session"))
		require.NoError(t, DropImport(bg, New(to), newFence(1)))
		require.Empty(t, to.data)
		_, err = Import(bg, src, New(to), newFence(1))
		require.NoError(t, err)
		require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1))))
	})
	t.Run("expired rows are removed", func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		var tokens []store.PrivacyToken
		for i := range manyRows {
			tokens = append(tokens, store.PrivacyToken{User: testJID(i), Token: []byte("t"), Timestamp: time.Unix(9, 0)})
		}
		tokens = append(tokens, store.PrivacyToken{User: testJID(manyRows), Token: []byte("t"), Timestamp: time.Unix(11, 0)})
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, tokens...))
		n, err := storeOf(d).DeleteExpiredPrivacyTokens(bg, time.Unix(10, 0))
		require.NoError(t, err)
		require.EqualValues(t, manyRows, n)
		kept, err := d.PrivacyTokens.GetPrivacyToken(bg, testJID(manyRows))
		require.NoError(t, err)
		require.NotNil(t, kept)
	})
}

// Parts that a rewritten value leaves go at once, also when some other row keeps
// Reseal from finishing, and however often it runs.
func TestResealLeavesNoPartsBehind(t *testing.T) {
	limits := Limits{MaxValue: 4096, MaxBatch: 16_000, MaxKeys: 20}
	kv := newMapKV()
	kv.limits = limits
	one, both := WithAEAD(NewAESGCM(keyOf(1))), WithAEAD(NewAESGCM(keyOf(2), keyOf(1)))
	c, d, _ := open(t, kv, one)
	large := bytes.Repeat([]byte("0123456789"), 2000)
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{7}, large, time.Unix(1, 0)))
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	bad := rowKey(d, tSession, "1:0")
	require.NoError(t, c.Close(bg))
	parts := kv.count(kindPart)
	require.Greater(t, parts, 2)
	good := kv.data[bad]
	kv.data[bad] = "\x01\x01damaged"

	_, err := reseal(t, kv, both)
	require.ErrorIs(t, err, ErrCorrupt, "one row is left as it is")
	require.Equal(t, parts, kv.count(kindPart))
	kv.data[bad] = good
	for range 3 { // the first changes the key of the last row, and the others nothing
		_, err = reseal(t, kv, both)
		require.NoError(t, err)
		require.Equal(t, parts, kv.count(kindPart))
	}
	kv.setEpoch(2)
	_, d, _ = open(t, kv, WithAEAD(NewAESGCM(keyOf(2))))
	e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{7})
	require.NoError(t, err)
	require.True(t, bytes.Equal(large, e.Plaintext))
}
