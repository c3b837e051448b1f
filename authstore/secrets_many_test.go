package authstore

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

const manySecrets = 20_000

// historySync stores the secrets of a history, as whatsmeow does: in one call.
func historySync(t *testing.T, d *store.Device) {
	t.Helper()
	inserts := make([]store.MessageSecretInsert, manySecrets)
	for i := range inserts {
		inserts[i] = store.MessageSecretInsert{Chat: testJID(2), Sender: testJID(2), ID: fmt.Sprint("M", i), Secret: []byte("secret")}
	}
	require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, inserts))
}

// smallKV takes few keys at once, and its time for each commit.
func smallKV() *mapKV {
	kv := newMapKV()
	kv.limits = Limits{MaxKeys: 100}
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" {
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	})
	return kv
}

func TestSecretsOfAHistorySyncHoldNothingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := smallKV()
		c, d, _ := open(t, kv)
		historySync(t, d)
		synctest.Wait() // the first of them are on their way
		for i := range 5 {
			before := kv.Commits()
			require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				return d.Sessions.PutSession(ctx, "1:0", validSession(t, uint32(i)))
			}))
			require.LessOrEqual(t, kv.Commits()-before, int64(3), "the one on its way, and its own")
			time.Sleep(time.Second)
		}
		require.Less(t, kv.count("secret"), manySecrets)
		time.Sleep(time.Minute)
		require.Equal(t, manySecrets, kv.count("secret"))
		commits := kv.Commits()
		time.Sleep(time.Minute)
		require.Equal(t, commits, kv.Commits(), "nothing is left")
		require.NoError(t, c.Close(bg))
	})
}

func TestShutdownBehindAHistorySyncLosesNoSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := smallKV()
		c, d, _ := open(t, kv)
		historySync(t, d)
		require.NoError(t, c.EndTerm(bg))
		require.Equal(t, manySecrets, kv.count("secret"))
		require.NoError(t, c.Close(bg))
	})
}

// A backend without transactions of many keys takes them one by one.
func TestSecretsAreDurableWithABackendThatTakesOneKeyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxKeys: 1}
		_, d, _ := open(t, kv)
		before := kv.Commits()
		for i := range 3 {
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(2), testJID(2), fmt.Sprint("M", i), []byte("secret")))
		}
		time.Sleep(time.Minute)
		require.Equal(t, 3, kv.count("secret"))
		require.LessOrEqual(t, kv.Commits()-before, int64(6))
		d = killed(t, kv)
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(2), testJID(2), "M2")
		require.NoError(t, err)
		require.Equal(t, []byte("secret"), secret)
	})
}
