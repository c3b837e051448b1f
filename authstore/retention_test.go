package authstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

const aDay = 24 * time.Hour

// tend is what whatsmeow asks twice a day.
func tend(t *testing.T, d *store.Device) {
	t.Helper()
	require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
	synctest.Wait()
}

func putSecrets(t *testing.T, d *store.Device, name string, n int) {
	t.Helper()
	for i := range n {
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), fmt.Sprint(name, i), []byte(name)))
	}
	require.NoError(t, storeOf(d).flush("test"))
}

// Message secrets go when they are too old, with commits that happen anyway, and
// after one look at them all in a twelfth of their age.
func TestOldSecretsGoWithOtherCommits(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				opts := append(opts, WithRetention(Retention{Sent: Forever}))
				c, d, _ := open(t, kv, opts...)
				tend(t, d)
				// As a version stored them that noted no time.
				value := appendBytes(appendBytes(appendBytes(appendBytes(nil, []byte("c")), []byte("s")), []byte("old")), []byte("x"))
				require.NoError(t, storeOf(d).later(bg, "put", soon, put(tSecret, secretPrefix("old")+shortHash("c", "s")+"/"+epochID(1), value)))
				putSecrets(t, d, "a", 2*removeAtOnce)
				time.Sleep(100 * aDay)
				tend(t, d)
				putSecrets(t, d, "b", 10)
				time.Sleep(90 * aDay)
				require.Equal(t, 2*removeAtOnce+11, kv.count("secret"))
				scans := kv.scans.Load()
				tend(t, d)
				require.Equal(t, scans+2, kv.scans.Load(), "of secrets and of sender keys")
				commits := kv.Commits()
				for i := range 4 {
					require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(i))))
				}
				require.EqualValues(t, 4, kv.Commits()-commits, "no commit of its own")
				require.Equal(t, 10, kv.count("secret"))
				for range 20 {
					time.Sleep(aDay / 2)
					tend(t, d)
				}
				require.Equal(t, scans+2, kv.scans.Load(), "not so soon again")
				c, d, _ = reopen(t, kv, c, opts...)
				c.cfg.background.Wait()
				scans = kv.scans.Load()
				tend(t, d)
				require.Equal(t, scans, kv.scans.Load(), "nor in the next term")
				got, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "b3")
				require.NoError(t, err)
				require.Equal(t, []byte("b"), got)
				got, _, err = d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "a3")
				require.NoError(t, err)
				require.Nil(t, got)
			})
		})
	}
}

// Secrets that the host wants to keep for ever stay, and are not looked at.
func TestSecretsAreKeptForeverOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv, WithRetention(Retention{MessageSecrets: Forever, SenderKeys: Forever, Sent: Forever}))
		tend(t, d)
		putSecrets(t, d, "a", 5)
		time.Sleep(400 * aDay)
		scans := kv.scans.Load()
		tend(t, d)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.Equal(t, 5, kv.count("secret"))
		require.Equal(t, scans, kv.scans.Load())
	})
}

// A batch that the KV refuses takes along what was to go, and gives it back.
func TestRemovalsOfARefusedCommitAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		tend(t, d)
		putSecrets(t, d, "a", 5)
		time.Sleep(181 * aDay)
		tend(t, d)
		kv.before.set(func(op string, b Batch) error {
			if op == "commit" && len(b.Put) > 0 {
				return fmt.Errorf("refused: %w", ErrTooLarge)
			}
			return nil
		})
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrTooLarge)
		require.Zero(t, kv.count("secret"))
	})
}

// A message that no handler has finished is not removed by its age; a finished one goes,
// and so do tokens that nobody has renewed.
func TestUnfinishedEventStaysHoweverOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("unhandled"), time.Now()))
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{2}, []byte("handled"), time.Now()))
		require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{2}))
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(4), Token: []byte("t"), Timestamp: time.Now()}))
		require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("901", types.HiddenUserServer), types.NewJID("1", types.DefaultUserServer)))
		time.Sleep(200 * aDay)
		info, err := c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, []int{1, 1, 1, 1}, []int{info.Counts["event"], info.Counts["seen"], info.Counts["token"], info.Counts["lid"]})
		tend(t, d)
		c, d, _ = reopen(t, kv, c)
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{1})
		require.NoError(t, err)
		require.Equal(t, []byte("unhandled"), e.Plaintext)
		e, err = d.EventBuffer.GetBufferedEvent(bg, [32]byte{2})
		require.NoError(t, err)
		require.Nil(t, e)
		tok, err := d.PrivacyTokens.GetPrivacyToken(bg, testJID(4))
		require.NoError(t, err)
		require.Nil(t, tok)
		info, err = c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, 1, info.Counts["lid"])
	})
}

// The clock of the machine that looked last was ahead: nothing waits for that time.
func TestSweepMarkOfTheFutureIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		tend(t, d)
		putSecrets(t, d, "a", 3)
		putKeys(t, d, "g@g.us", 1, 1)
		for _, a := range agings {
			ahead := sweepValue(time.Now(), time.Now().Add(5*365*aDay))
			require.NoError(t, storeOf(d).later(bg, "put", soon, put(tMisc, a.note, ahead)))
		}
		c, d, _ = reopen(t, kv, c)
		time.Sleep(200 * aDay)
		for _, kind := range []Kind{"secret", "senderkey"} {
			require.Positive(t, kv.count(kind))
		}
		for range 2 {
			tend(t, d)
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		}
		for _, kind := range []Kind{"secret", "senderkey"} {
			require.Zero(t, kv.count(kind), kind)
		}
		require.NoError(t, c.Close(bg))
	})
}
