package authstore

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

func putKeys(t *testing.T, d *store.Device, group string, n, mark int) {
	t.Helper()
	for i := range n {
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, group, fmt.Sprintf("%d:0", i), validSenderKey([]byte{byte(mark), byte(i)})))
	}
}

// some commits that happen anyway
func goOn(t *testing.T, kv *mapKV, d *store.Device, n int) {
	t.Helper()
	commits := kv.Commits()
	for i := range n {
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(commits)+uint32(i))))
	}
	require.EqualValues(t, n, kv.Commits()-commits, "no commit of its own")
}

func TestUnusedSenderKeysGoWithOtherCommits(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv, opts...)
				tend(t, d)
				const n = 2*removeAtOnce + 5
				putKeys(t, d, "old@g.us", n, 1)
				putKeys(t, d, "new@g.us", 3, 1)
				// As a version stored it that noted no day.
				require.NoError(t, storeOf(d).write(bg, "put", put(tSenderKey, senderKeyID("old@g.us", "x:0"), validSenderKey([]byte{9}))))
				time.Sleep(170 * aDay)
				putKeys(t, d, "new@g.us", 3, 2)
				time.Sleep(12 * aDay)
				require.Equal(t, n+4, kv.count("senderkey"))
				tend(t, d)
				// One is used while it waits to go.
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "old@g.us", "7:0", validSenderKey([]byte{3})))
				goOn(t, kv, d, 4)
				require.Equal(t, 4, kv.count("senderkey"))
				for range 2 { // in this term, and in the next one
					key, err := d.SenderKeys.GetSenderKey(bg, "old@g.us", "3:0")
					require.NoError(t, err)
					require.Nil(t, key)
					key, err = d.SenderKeys.GetSenderKey(bg, "old@g.us", "7:0")
					require.NoError(t, err)
					require.Equal(t, validSenderKey([]byte{3}), key)
					key, err = d.SenderKeys.GetSenderKey(bg, "new@g.us", "2:0")
					require.NoError(t, err)
					require.Equal(t, validSenderKey([]byte{2, 2}), key)
					c, d, _ = reopen(t, kv, c, opts...)
				}
			})
		})
	}
}

// afterScan calls during when a look at the rows of a kind has read all of them.
type afterScan struct {
	*mapKV
	kind   Kind
	during atomic.Pointer[func()]
}

func (k *afterScan) Scan(ctx context.Context, kind Kind, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		k.mapKV.Scan(ctx, kind, prefix)(yield)
		if kind != k.kind {
			return
		}
		if f := k.during.Swap(nil); f != nil {
			(*f)()
		}
	}
}

func TestSenderKeyThatIsUsedDuringTheLookStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &afterScan{mapKV: newMapKV(), kind: specOf(tSenderKey).kind}
		c := New(kv)
		d, err := c.Device(bg, newFence(1))
		require.NoError(t, err)
		pair(t, d, testJID(1))
		tend(t, d)
		putKeys(t, d, "g@g.us", 2, 1)
		time.Sleep(182 * aDay)
		use := func() {
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", "0:0", validSenderKey([]byte{2})))
		}
		kv.during.Store(&use)
		tend(t, d)
		require.Nil(t, kv.during.Load(), "it was looked at")
		goOn(t, kv.mapKV, d, 2)
		key, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", "0:0")
		require.NoError(t, err)
		require.Equal(t, validSenderKey([]byte{2}), key)
		require.Equal(t, 1, kv.count("senderkey"))
		require.NoError(t, c.Close(bg))
	})
}

// A batch that the KV refuses takes along keys that were to go, and gives them
// back.
func TestOldSenderKeysOfARefusedCommitAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		tend(t, d)
		putKeys(t, d, "g@g.us", 5, 1)
		time.Sleep(182 * aDay)
		tend(t, d)
		kv.before.set(func(op string, b Batch) error {
			if op == "commit" && len(b.Put) > 0 {
				return fmt.Errorf("refused: %w", ErrTooLarge)
			}
			return nil
		})
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrTooLarge)
		require.Zero(t, kv.count("senderkey"))
	})
}

// An older library gives libsignal what stands in the row.
func TestDayOfUseIsIgnoredByWhoDoesNotKnowIt(t *testing.T) {
	now := time.Now()
	for _, form := range []string{`{"SenderKeyStates":[]}`, `{"SenderKeyStates":null}`} {
		stamped := stampUse([]byte(form), now)
		require.NoError(t, parseSenderKey(stamped))
		key, day, ok := cutUse(stamped)
		require.True(t, ok)
		require.Equal(t, form, string(key))
		require.Equal(t, now.Unix()/(24*60*60), day)
		until, ok := senderKeyTime(stamped)
		require.True(t, ok)
		require.Positive(t, until-now.Unix())
	}
	for _, form := range []string{"", "{}", "{", "}", "\x01\x02", `{"a":1`, `,"UsedDay":`, `{"a":1,"UsedDay":x}`} {
		key, _, ok := cutUse([]byte(form))
		require.False(t, ok)
		require.Equal(t, form, string(key))
	}
	require.Equal(t, "\x01\x02", string(stampUse([]byte("\x01\x02"), now)), "another form is left as it is")
	until, ok := senderKeyTime([]byte("\x01\x02"))
	require.True(t, ok)
	require.Greater(t, until, now.Add(100*365*aDay).Unix(), "and kept")
}

func TestNothingThatIsSentIsKeptOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv, WithRetention(Retention{Sent: -1}))
		s := storeOf(d)
		for i := range 3 * packedCount {
			id := types.MessageID(fmt.Sprint(i))
			require.NoError(t, s.KeepSent(bg, testJID(2), id, []byte("text")))
			require.NoError(t, s.AddOutgoingEvent(bg, testJID(2), id, "wa", []byte("text")))
		}
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		goOn(t, kv, d, 1)
		for _, id := range []types.MessageID{"1", "47"} {
			plaintext, err := s.Sent(bg, testJID(2), types.EmptyJID, id)
			require.NoError(t, err)
			require.Nil(t, plaintext)
			_, plaintext, err = s.GetOutgoingEvent(bg, testJID(2), types.EmptyJID, id)
			require.NoError(t, err)
			require.Nil(t, plaintext)
		}
		require.NoError(t, c.Close(bg))
		require.Zero(t, kv.count("outgoing"))
	})
}

// keepAll has one entry of each kind that is read on demand, and n sender keys.
func keepAll(t *testing.T, d *store.Device, n int) {
	t.Helper()
	s := storeOf(d)
	putKeys(t, d, "g@g.us", n, 1)
	putKeys(t, d, "g@g.us", n, 2) // again
	putSecrets(t, d, "a", 2)
	require.NoError(t, s.KeepSent(bg, testJID(2), "1", []byte("text")))
	require.NoError(t, s.AddOutgoingEvent(bg, testJID(2), "2", "wa", []byte("text")))
}

func sizesOf(t *testing.T, c *Container) [3]int {
	t.Helper()
	info, err := c.Info(bg)
	require.NoError(t, err)
	return [3]int{info.Counts["senderkey"], info.Counts["secret"], info.Counts["outgoing"]}
}

func TestSizesOfWhatIsReadOnDemandAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		tend(t, d)
		keepAll(t, d, 70)
		require.Equal(t, [3]int{70, 2, 2}, sizesOf(t, c))
		c, d, _ = reopen(t, kv, c)
		require.Equal(t, [3]int{70, 2, 2}, sizesOf(t, c), "the next holder knows them without a look")
		scans := kv.scans.Load()
		tend(t, d)
		require.Equal(t, scans, kv.scans.Load())
		time.Sleep(190 * aDay)
		tend(t, d)
		goOn(t, kv, d, 4)
		require.Equal(t, [3]int{}, sizesOf(t, c))
		require.NoError(t, c.Close(bg))
	})
}

// An account of an older version, or one whose data are kept for ever.
func TestTablesThatWereNeverCountedAreLookedAtOnce(t *testing.T) {
	for _, r := range []Retention{{Sent: Forever}, {MessageSecrets: Forever, SenderKeys: Forever, Sent: Forever}} {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			_, d, _ := open(t, kv, WithRetention(r))
			keepAll(t, d, 3)
			require.NoError(t, storeOf(d).flush("test"))
			require.NoError(t, storeOf(d).write(bg, "put", del(tMisc, sizesID), del(tMisc, agings[0].note), del(tMisc, agings[1].note)))
			storeOf(d).retire(ErrSuperseded) // as a process that is killed
			kv.setEpoch(2)
			c, e, _ := open(t, kv, WithRetention(r))
			require.Equal(t, [3]int{}, sizesOf(t, c))
			scans := kv.scans.Load()
			for range 3 {
				tend(t, e)
				time.Sleep(aDay)
			}
			require.Equal(t, scans+2, kv.scans.Load())
			require.Equal(t, [3]int{3, 2, 0}, sizesOf(t, c))
			c, e, _ = reopen(t, kv, c, WithRetention(r))
			scans = kv.scans.Load()
			tend(t, e)
			require.Equal(t, scans, kv.scans.Load())
			require.Equal(t, [3]int{3, 2, 0}, sizesOf(t, c))
			require.NoError(t, c.Close(bg))
		})
	}
}

// A table that was never counted stays so at the end of a term: nobody says that
// it is empty, and the next look counts it.
func TestTableThatWasNeverCountedIsNotEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		putSecrets(t, d, "S", 3)
		putKeys(t, d, "1@g.us", 4, 1)
		require.NoError(t, c.Close(bg))
		require.Contains(t, kv.data, Key{"misc", "d0/" + sizesID})
		delete(kv.data, Key{"misc", "d0/" + sizesID}) // as an older version leaves it
		for range 2 {
			c, d, _ = reopen(t, kv, c)
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
			info, err := c.Info(bg)
			require.NoError(t, err)
			require.NotContains(t, info.Counts, Kind("secret"))
			require.NotContains(t, info.Counts, Kind("senderkey"))
		}
		require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
		synctest.Wait()
		info, err := c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, 3, info.Counts["secret"])
		require.Equal(t, 4, info.Counts["senderkey"])
		require.NoError(t, c.Close(bg))
	})
}
