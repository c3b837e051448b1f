package authstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// Values and batches beyond the KV's limits, with a crash after every commit.
func TestWhatIsTooLargeIsSplitAndACrashOnTheWayIsHarmless(t *testing.T) {
	t.Parallel()
	for crashAt := int64(0); crashAt < stabilitytest.Pick[int64](25, 60); crashAt++ {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			kv.limits = Limits{MaxValue: 4096, MaxBatch: 10_000, MaxKeys: 20}
			c, d, f := open(t, kv)
			require.NoError(t, d.Sessions.PutSession(bg, "900_1:0", validSession(t, 0)))
			_, err := d.PreKeys.GetOrGenPreKeys(bg, 812)
			require.NoError(t, err)
			require.NoError(t, storeOf(d).flush("t"))
			f.setUntil(time.Now().Add(time.Second))
			left := crashAt
			kv.before.set(func(op string, _ Batch) error {
				if op == "commit" {
					if left == 0 {
						return errDown
					}
					left--
				}
				return nil
			})
			plain := bytes.Repeat([]byte("0123456789abcdef"), 6000)
			hash := [32]byte{9}
			err = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				v, _ := d.Sessions.GetSession(ctx, "900_1:0")
				_ = d.Sessions.PutSession(ctx, "900_1:0", validSession(t, sessionCounter(t, v)+1))
				_ = d.PreKeys.RemovePreKey(ctx, 3)
				return d.EventBuffer.PutBufferedEvent(ctx, hash, plain, time.Unix(1, 0))
			})
			kv.before.set(nil)
			_ = c.Close(bg)
			kv.setEpoch(2)
			_, d, _ = open(t, kv)
			synctest.Wait()
			e, gerr := d.EventBuffer.GetBufferedEvent(bg, hash)
			require.NoError(t, gerr)
			v, gerr := d.Sessions.GetSession(bg, "900_1:0")
			require.NoError(t, gerr)
			pk, gerr := d.PreKeys.GetPreKey(bg, 3)
			require.NoError(t, gerr)
			if err == nil {
				require.NotNil(t, e)
			}
			if e != nil {
				require.Equal(t, plain, e.Plaintext)
			} else {
				require.Zero(t, sessionCounter(t, v), "the event lands before the session")
				require.Zero(t, kv.count(kindPart), "orphans are removed")
			}
			if sessionCounter(t, v) == 0 {
				require.NotNil(t, pk, "the prekey goes after the session")
			}
			// Overwritten and removed, its parts go too.
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
			require.NoError(t, storeOf(d).flush("t"))
			require.Zero(t, kv.count(kindPart))
		})
	}
}

func TestHugeBatchesAreSplit(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 60_000, MaxBatch: 100_000, MaxKeys: 50}
	c, d, _ := open(t, kv)
	sessions := make(map[string][]byte)
	for i := range 1000 {
		sessions[fmt.Sprintf("%d_1:0", i)] = validSession(t, uint32(i+1))
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
	var secrets []store.MessageSecretInsert
	var lids []store.LIDMapping
	for i := range 2000 {
		secrets = append(secrets, store.MessageSecretInsert{Chat: testJID(1), Sender: testJID(2), ID: fmt.Sprint(i), Secret: []byte{1}})
		lids = append(lids, store.LIDMapping{LID: types.NewJID(fmt.Sprint("9", i), types.HiddenUserServer), PN: types.NewJID(fmt.Sprint(i), types.DefaultUserServer)})
	}
	require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets))
	require.NoError(t, d.LIDs.PutManyLIDMappings(bg, lids))
	_, d, _ = reopen(t, kv, c)
	got, err := d.Sessions.GetManySessions(bg, []string{"0_1:0", "999_1:0"})
	require.NoError(t, err)
	require.EqualValues(t, 1000, sessionCounter(t, got["999_1:0"]))
	secret, sender, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "1999")
	require.NoError(t, err)
	require.Equal(t, []byte{1}, secret)
	require.Equal(t, testJID(2).ToNonAD(), sender)
}

// Random writes under random limits read back the same, before and after a
// restart.
func TestAnySizeReadsBackUnderAnyLimits(t *testing.T) {
	for seed := range stabilitytest.Pick(20, 300) {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		kv := newMapKV()
		kv.limits = Limits{MaxValue: 1500 + r.IntN(3000), MaxBatch: 5000 + r.IntN(8000), MaxKeys: 3 + r.IntN(20)}
		c, d, _ := open(t, kv)
		want := make(map[string][]byte)
		for range 30 {
			id := fmt.Sprintf("%d:0", r.IntN(6))
			v := make([]byte, r.IntN(20_000))
			for i := range v {
				v[i] = byte(r.Uint32())
			}
			v = validSenderKey(v)
			want[id] = v
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", id, v))
		}
		_, d, _ = reopen(t, kv, c)
		for id, v := range want {
			got, err := d.SenderKeys.GetSenderKey(bg, "g", id)
			require.NoError(t, err)
			require.True(t, bytes.Equal(v, got))
		}
	}
}
