package authstore

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// sendKept is a send to one contact, with its plaintext kept as it leaves.
func sendKept(t *testing.T, d *store.Device, n int) {
	t.Helper()
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(n+1))))
	require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), fmt.Sprint("ID", n), fmt.Append(nil, "text ", n)))
}

func requireSent(t *testing.T, d *store.Device, n int) {
	t.Helper()
	for _, chats := range [][2]types.JID{{testJID(1)}, {testJID(2), testJID(1)}} {
		text, err := storeOf(d).Sent(bg, chats[0], chats[1], fmt.Sprint("ID", n))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("text ", n), string(text))
	}
}

func TestKeptSendsCostNoCommitAndFewRows(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	require.NoError(t, storeOf(d).flush("test"))
	const n = 10 * packedCount
	commits, puts, reads := kv.Commits(), kv.puts.Load(), kv.Reads()
	for i := range n {
		sendKept(t, d, i)
	}
	require.EqualValues(t, n, kv.Commits()-commits, "one a send")
	require.LessOrEqual(t, kv.puts.Load()-puts, int64(n+n/packedCount))
	require.LessOrEqual(t, kv.Reads()-reads, int64(1), "one look for old ones")
	require.NoError(t, storeOf(d).flush("test"))
	require.Equal(t, n/packedCount, kv.count("outgoing"))
}

func TestSentMessageIsFoundAfterHandOvers(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			c, d, _ := open(t, kv, opts...)
			for i := range 3*packedCount + 5 {
				sendKept(t, d, i)
				requireSent(t, d, i)
			}
			for range 2 {
				for i := range 3*packedCount + 5 {
					requireSent(t, d, i)
				}
				text, err := storeOf(d).Sent(bg, testJID(2), types.EmptyJID, "ID1")
				require.NoError(t, err)
				require.Nil(t, text, "of another chat")
				c, d, _ = reopen(t, kv, c, opts...)
				require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), "between", []byte("x")))
			}
			// A message that is sent after the rows were read is found too.
			requireSent(t, d, 0)
			sendKept(t, d, 1000)
			requireSent(t, d, 1000)
		})
	}
}

func TestKeptSendIsAnOutgoingEventForNewerVersions(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	sendKept(t, d, 0)
	sendWith(t, d, 1, "1:0")
	for _, d := range []*store.Device{d, killed(t, kv)} {
		for n := range 2 {
			format, text, err := storeOf(d).GetOutgoingEvent(bg, testJID(2), testJID(1), fmt.Sprint("ID", n))
			require.NoError(t, err)
			require.Equal(t, "wa", format)
			require.Equal(t, fmt.Sprint("text ", n), string(text))
		}
		format, text, err := storeOf(d).GetOutgoingEvent(bg, testJID(2), types.EmptyJID, "ID0")
		require.NoError(t, err)
		require.Empty(t, format)
		require.Nil(t, text)
	}
}

// A quiet account writes what its client has sent with its next commit: beside a
// session, or after a few seconds with whatever is written, and never for that alone.
func TestQuietAccountKeepsWhatItSentWithItsNextCommit(t *testing.T) {
	for name, write := range map[string]func(d *store.Device) error{
		"a session": func(d *store.Device) error { return d.Sessions.PutSession(bg, "2:0", validSession(t, 1)) },
		"another row": func(d *store.Device) error {
			return d.SenderKeys.PutSenderKey(bg, "1@g.us", "2:0", []byte("key"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				_, d, _ := open(t, kv)
				require.NoError(t, storeOf(d).flush("test"))
				sendKept(t, d, 0)
				commits := kv.Commits()
				time.Sleep(time.Hour)
				require.Equal(t, commits, kv.Commits())
				require.Zero(t, kv.count("outgoing"))
				require.NoError(t, write(d))
				require.Equal(t, commits+1, kv.Commits())
				requireSent(t, d, 0)
				requireSent(t, killed(t, kv), 0)
			})
		})
	}
}

func TestSentMessageIsGoneAfterItsRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv, WithRetention(Retention{Sent: aDay}))
		for i := range packedCount {
			sendKept(t, d, i)
		}
		time.Sleep(aDay - time.Hour)
		requireSent(t, d, 0)
		c, d, _ = reopen(t, kv, c, WithRetention(Retention{Sent: aDay}))
		time.Sleep(2 * time.Hour)
		text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "ID0")
		require.NoError(t, err)
		require.Nil(t, text)
		require.Equal(t, 1, kv.count("outgoing"))
		for i := range packedCount {
			sendKept(t, d, 100+i)
		}
		synctest.Wait()
		require.NoError(t, c.Close(bg))
		require.Equal(t, 1, kv.count("outgoing"), "the new ones")
	})
}

// A device is read anew within a term when a client that hangs is given up.
func TestSentMessagesOfADeviceReadAnewStandBesideTheOlder(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	const n = packedCount + 3
	for i := range n {
		sendKept(t, d, i)
	}
	require.NoError(t, c.EndTerm(bg))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	for i := range n {
		sendKept(t, d, n+i)
	}
	require.NoError(t, c.EndTerm(bg))
	_, d, _ = reopen(t, kv, c)
	for i := range 2 * n {
		requireSent(t, d, i)
	}
}

// A commit that one batch cannot take is written in several, and a crash between
// any two of them costs no message that an earlier send has kept: the row of
// sixteen is there before the session beside which they stood is written anew.
func TestSentMessagesOutliveACrashBetweenTwoBatches(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	require.NoError(t, storeOf(d).flush("test"))
	for i := range packedCount - 1 {
		sendWith(t, d, i, "1:0")
	}
	require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
	kv.limits = Limits{MaxKeys: 1}
	var crashes []map[Key]string
	kv.after.set(func(string, Batch) error {
		kv.mu.Lock()
		defer kv.mu.Unlock()
		crashes = append(crashes, maps.Clone(kv.data))
		return nil
	})
	sendWith(t, d, packedCount-1, "1:0")
	kv.after.set(nil)
	require.Greater(t, len(crashes), 1)
	for at, data := range crashes {
		left := newMapKV()
		left.data = data
		d := killed(t, left)
		if session, err := d.Sessions.GetSession(bg, "1:0"); sessionCounter(t, session) == packedCount {
			require.NoError(t, err)
			trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
			require.NoError(t, err)
			require.False(t, trusted, "an identity is not later than its session")
		}
		for i := range packedCount - 1 {
			text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, types.MessageID(fmt.Sprint("ID", i)))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("text ", i), string(text), "after batch %d", at)
		}
	}
}
