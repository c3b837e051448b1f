package authstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// sendWith is a send whose message goes with the commit of its sessions.
func sendWith(t *testing.T, d *store.Device, n int, addresses ...string) {
	t.Helper()
	x := &Sending{Chat: testJID(1), ID: types.MessageID(fmt.Sprint("ID", n)), Plaintext: func() []byte { return fmt.Append(nil, "text ", n) }}
	sessions := make(map[string][]byte)
	for _, a := range addresses {
		sessions[a] = validSession(t, uint32(n+1))
	}
	require.NoError(t, d.Sessions.PutManySessions(WithSending(bg, x), sessions))
	require.True(t, x.Kept())
}

// killed is the account as the next process finds it after a crash.
func killed(t *testing.T, kv *mapKV, opts ...Option) *store.Device {
	t.Helper()
	kv.setEpoch(kv.epoch + 1)
	_, d, _ := open(t, kv, opts...)
	return d
}

func TestSentMessageIsAsDurableAsItsSend(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			_, d, _ := open(t, kv, opts...)
			require.NoError(t, storeOf(d).flush("test"))
			commits, puts := kv.Commits(), kv.puts.Load()
			const n = 3*packedCount - 1 // the last one writes session 1:0
			for i := range n {
				sendWith(t, d, i, fmt.Sprintf("%d:0", i%5))
			}
			require.EqualValues(t, n, kv.Commits()-commits, "no commit of their own")
			require.LessOrEqual(t, kv.puts.Load()-puts, int64(n+n/packedCount+1), "a row for sixteen, and when old ones were looked for")
			for range 2 { // and another crash, before anything is written
				d = killed(t, kv, opts...)
				for i := range n {
					requireSent(t, d, i)
				}
			}
			session, err := d.Sessions.GetSession(bg, "1:0")
			require.NoError(t, err)
			require.Equal(t, string(validSession(t, n)), string(session))
		})
	}
}

func TestSentMessageOutlivesTheSessionItStandsBeside(t *testing.T) {
	lid := types.JID{User: "777", Server: types.HiddenUserServer}
	for name, change := range map[string]func(d *store.Device) error{
		"written again": func(d *store.Device) error { return d.Sessions.PutSession(bg, "1:0", validSession(t, 99)) },
		"deleted": func(d *store.Device) error {
			if err := d.Sessions.DeleteSession(bg, "1:0"); err != nil {
				return err
			}
			return d.Sessions.PutSession(bg, "2:0", validSession(t, 99))
		},
		"moved": func(d *store.Device) error {
			return d.Sessions.MigratePNToLID(bg, types.JID{User: "1", Server: types.DefaultUserServer}, lid)
		},
		"of another form": func(d *store.Device) error {
			if err := d.Sessions.PutSession(bg, "1:0", []byte("no object")); err != nil {
				return err
			}
			return d.Sessions.PutSession(bg, "2:0", validSession(t, 99))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, term := range []string{"in its term", "in the next term"} {
				t.Run(term, func(t *testing.T) {
					kv := newMapKV()
					_, d, _ := open(t, kv)
					sendWith(t, d, 0, "1:0")
					if term == "in the next term" {
						d = killed(t, kv)
					}
					require.NoError(t, change(d))
					requireSent(t, killed(t, kv), 0)
				})
			}
		})
	}
}

func TestRowWithASentMessageIsASessionForOlderVersions(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	sendWith(t, d, 0, "1:0")
	s := storeOf(d)
	s.mu.Lock()
	data, ok := s.im.render(row{tSession, "1:0"}, nil)
	s.mu.Unlock()
	require.True(t, ok)
	require.Contains(t, string(data), string(keptSent))
	require.True(t, json.Valid(data))
	require.NoError(t, parseWithLibsignal(data))
	session, entries := splitBeside(slices.Clone(data))
	require.Equal(t, string(validSession(t, 1)), string(session))
	require.NotEmpty(t, entries)
	require.Equal(t, string(data), string(withBeside(session, entries)))
}

func TestSentMessagesBesideSessionsHaveBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		keep := WithRetention(Retention{Sent: aDay})
		c, d, _ := open(t, kv, keep)
		sendWith(t, d, 0, "1:0")
		big := &Sending{Chat: testJID(1), ID: "BIG", Plaintext: func() []byte { return make([]byte, besideMost+1) }}
		require.NoError(t, d.Sessions.PutManySessions(WithSending(bg, big), map[string][]byte{"2:0": validSession(t, 1)}))
		require.Equal(t, 1, kv.count("outgoing"), "what is large has its row at once")
		sendWith(t, d, 1, "3:0")
		require.NoError(t, c.Close(bg))
		require.Equal(t, 1, kv.count("outgoing"), "the end of a term writes nothing for what is durable")

		c, d, _ = reopen(t, kv, c, keep)
		time.Sleep(aDay + time.Hour)
		text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "ID1")
		require.NoError(t, err)
		require.Nil(t, text)
		require.NoError(t, d.EventBuffer.(interface {
			DeleteOldOutgoingEvents(context.Context) error
		}).DeleteOldOutgoingEvents(bg))
		synctest.Wait()
		time.Sleep(time.Minute)
		require.NoError(t, c.Close(bg))
		_, d, _ = reopen(t, kv, c, keep)
		s := storeOf(d)
		require.Empty(t, s.im.beside)
		require.Zero(t, kv.count("outgoing"))
		session, err := d.Sessions.GetSession(bg, "3:0")
		require.NoError(t, err)
		require.Equal(t, string(validSession(t, 2)), string(session))
	})
}

func TestSentMessagesMoveWithTheirDevice(t *testing.T) {
	for name, move := range map[string]func(t *testing.T, kv *mapKV, f *testFence) *mapKV{
		"imported": func(t *testing.T, kv *mapKV, f *testFence) *mapKV {
			to := newMapKV()
			_, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1))
			require.NoError(t, err)
			return to
		},
		"restored": func(t *testing.T, kv *mapKV, f *testFence) *mapKV {
			to := newMapKV()
			_, err := Restore(bg, bytes.NewReader(exported(t, FromKV("old", kv, f))), archiveKey, New(to), newFence(1))
			require.NoError(t, err)
			return to
		},
		"restored unchanged": func(t *testing.T, kv *mapKV, f *testFence) *mapKV {
			to := newMapKV()
			_, err := Restore(bg, bytes.NewReader(exported(t, FromKV("old", kv, f))), archiveKey, New(to), newFence(1), RestoredUnchanged())
			require.NoError(t, err)
			return to
		},
		"exported while it runs": func(t *testing.T, kv *mapKV, _ *testFence) *mapKV {
			to := newMapKV()
			c, _, _ := open(t, kv)
			_, err := Restore(bg, bytes.NewReader(exported(t, FromContainer(c))), archiveKey, New(to), newFence(1))
			require.NoError(t, err)
			return to
		},
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			_, d, _ := open(t, kv)
			for n := range 4 { // of two terms, beside two sessions
				sendWith(t, d, n, fmt.Sprintf("%d:0", n%2))
				if n == 1 {
					d = killed(t, kv)
				}
			}
			kv.setEpoch(kv.epoch + 1)
			to := move(t, kv, newFence(kv.epoch))
			for range 2 {
				d = killed(t, to)
				for n := range 4 {
					requireSent(t, d, n)
				}
			}
			session, err := d.Sessions.GetSession(bg, "1:0")
			require.NoError(t, err)
			if session != nil { // a restore drops those that went on
				require.Equal(t, string(validSession(t, 4)), string(session))
			}
		})
	}
}

// A row goes when the youngest of its messages is too old, whichever of them came
// into it last: one of an earlier term joins younger ones.
func TestRowOfSentMessagesIsAsOldAsItsYoungest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		sendWith(t, d, 100, "2:0")
		time.Sleep(6 * aDay)
		c, d, _ = reopen(t, kv, c)
		for i := range packedCount - 1 {
			sendWith(t, d, i, "1:0")
		}
		require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 200)))
		require.Equal(t, 1, kv.count("outgoing"), "the older one has made the row full")
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 300)), "the others stand in that row alone now")
		c, d, _ = reopen(t, kv, c)
		time.Sleep(2 * aDay)
		require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
		synctest.Wait()
		_, d, _ = reopen(t, kv, c)
		for i := range packedCount - 1 {
			requireSent(t, d, i)
		}
		text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "ID100")
		require.NoError(t, err)
		require.Nil(t, text, "that one is too old by itself")
	})
}
