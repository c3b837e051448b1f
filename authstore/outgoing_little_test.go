package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// A program that sends a little and is deployed every day fills no row, and a
// whatsmeow before 2026 never asks that old ones go.
func TestSentMessagesOfAnAccountThatSendsLittleGoWithTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, day := newMapKV(), WithRetention(Retention{Sent: 24 * time.Hour})
		c, d, _ := open(t, kv, day)
		for term := range 10 {
			for i := range 3 {
				require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), types.MessageID(string(rune('a'+i))), []byte("text")))
			}
			require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg), "as whatsmeow does with the first message that it receives")
			time.Sleep(25 * time.Hour)
			c, d, _ = reopen(t, kv, c, day)
			require.LessOrEqual(t, kv.count("outgoing"), 2, "after %d terms", term+1)
		}
		require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
		time.Sleep(time.Minute)
		require.Zero(t, kv.count("outgoing"))
	})
}

// The look at what was sent is a read of the whole table, so it is due twice a
// day for an account and not for a term.
func TestOldSentMessagesAreLookedForTwiceADayInHoweverManyTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		scans := func() int64 {
			before := kv.scans.Load()
			require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
			time.Sleep(time.Minute)
			return kv.scans.Load() - before
		}
		require.EqualValues(t, 1, scans())
		for range 3 {
			c, d, _ = reopen(t, kv, c)
			require.Zero(t, scans(), "it was done a minute ago, in an earlier term")
		}
		time.Sleep(outgoingEvery)
		c, d, _ = reopen(t, kv, c)
		require.EqualValues(t, 1, scans())

		c, d, _ = reopen(t, kv, c, WithRetention(Retention{Sent: -1}))
		require.EqualValues(t, 1, scans(), "nothing may be kept any more")

		require.NoError(t, storeOf(d).write(bg, "test", put(tMisc, outgoingNote, fieldsOf(time.Now().Add(1000*time.Hour).Unix()))))
		_, d, _ = reopen(t, kv, c)
		require.EqualValues(t, 1, scans(), "a clock was ahead")
	})
}
