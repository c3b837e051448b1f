package authstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Of more sent messages than are kept the oldest go: contacts ask again for what
// came last.
func TestOldestOutgoingEventsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		s := storeOf(d)
		const more = 3
		for i := range outgoingMost + more {
			require.NoError(t, s.AddOutgoingEvent(bg, testJID(2), types.MessageID(fmt.Sprint(i)), "fb", []byte("sent")))
			time.Sleep(time.Millisecond)
		}
		_, d, _ = reopen(t, kv, c)
		s = storeOf(d)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(2 * lazily)
		synctest.Wait()
		require.Equal(t, outgoingMost, kv.count("outgoing"))
		for _, i := range []int{0, more - 1, more, outgoingMost + more - 1} {
			_, text, err := s.GetOutgoingEvent(bg, testJID(2), types.EmptyJID, types.MessageID(fmt.Sprint(i)))
			require.NoError(t, err)
			require.Equal(t, i >= more, text != nil, "event %d", i)
		}
	})
}

// A sent message is kept for a week, but not in memory; and one that has left memory
// is still found.
func TestSentEventsLeaveMemoryWhenTheyAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		s := storeOf(d)
		for i := range 2000 {
			require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), fmt.Sprint("ID", i), "wa", fmt.Append(nil, "text ", i)))
			if i%50 == 0 {
				require.NoError(t, s.flush("test"))
			}
		}
		require.NoError(t, s.flush("test"))
		s.mu.Lock()
		held := len(s.im.flat[tOutgoing])
		s.mu.Unlock()
		require.Less(t, held, 500)
		for _, i := range []int{0, 1000, 1999} {
			_, text, err := s.GetOutgoingEvent(bg, testJID(1), types.EmptyJID, fmt.Sprint("ID", i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("text ", i), string(text))
		}
	})
}

// Newer versions of whatsmeow look for what they sent by themselves.
func TestLookupsOfOutgoingEventsAreCounted(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	counts := func() [3]uint64 {
		found, missing, failed := c.OutgoingAsked()
		return [3]uint64{found, missing, failed}
	}
	s := storeOf(d)
	for _, format := range []string{"wa", "fb"} {
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(2), types.MessageID(format), format, []byte("sent")))
		_, _, err := s.GetOutgoingEvent(bg, testJID(3), testJID(2), types.MessageID(format))
		require.NoError(t, err)
	}
	require.Equal(t, [3]uint64{2, 0, 0}, counts())
	_, _, err := s.GetOutgoingEvent(bg, testJID(2), types.EmptyJID, "unknown")
	require.NoError(t, err)
	require.Equal(t, [3]uint64{2, 1, 0}, counts())
	require.NoError(t, c.EndTerm(bg))
	_, _, err = s.GetOutgoingEvent(bg, testJID(2), types.EmptyJID, "wa")
	require.Error(t, err)
	require.Equal(t, [3]uint64{2, 1, 1}, counts())
}

func TestOutgoingEventRidesWithItsSend(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	s := storeOf(d)
	before, reads, puts := kv.Commits(), kv.Reads(), kv.puts.Load()
	for i := range 300 { // more than memory keeps
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), fmt.Sprint("ID", i), "wa", fmt.Append(nil, "text ", i)))
		if i > 0 {
			require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		}
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(i))))
	}
	require.EqualValues(t, 300, kv.Commits()-before, "one a send")
	require.LessOrEqual(t, kv.puts.Load()-puts, int64(300+300/packedCount+1), "its sessions, a row for sixteen, and when old ones were looked for")
	require.LessOrEqual(t, kv.Reads()-reads, int64(1), "one look for old ones")

	check := func(s *deviceStore) {
		for i := range 300 {
			for _, chats := range [][2]types.JID{{testJID(1)}, {testJID(2), testJID(1)}} {
				format, text, err := s.GetOutgoingEvent(bg, chats[0], chats[1], fmt.Sprint("ID", i))
				require.NoError(t, err)
				require.Equal(t, "wa", format)
				require.Equal(t, fmt.Sprint("text ", i), string(text))
			}
		}
		format, text, err := s.GetOutgoingEvent(bg, testJID(2), testJID(3), "ID1")
		require.NoError(t, err)
		require.Empty(t, format)
		require.Nil(t, text)
	}
	check(s)
	_, d, _ = reopen(t, kv, c)
	check(storeOf(d))
	require.NoError(t, storeOf(d).AddOutgoingEvent(bg, testJID(1), "ID7", "fb", []byte("again")))
	for _, chats := range [][2]types.JID{{testJID(1)}, {testJID(2), testJID(1)}} {
		format, text, err := storeOf(d).GetOutgoingEvent(bg, chats[0], chats[1], "ID7")
		require.NoError(t, err)
		require.Equal(t, "fb again", format+" "+string(text))
	}
}

func TestOldOutgoingEventsGoBesideTheSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		s := storeOf(d)
		began := time.Now()
		has := func(id string) bool {
			rowID := outgoingID(testJID(1), id)
			_, ok := s.get(bg, tOutgoing, rowID)
			if !ok {
				var err error
				_, ok, err = s.readRow("test", row{tOutgoing, rowID})
				require.NoError(t, err)
			}
			format, _, err := s.GetOutgoingEvent(bg, testJID(1), types.EmptyJID, id)
			require.NoError(t, err)
			if id == "old" && time.Since(began) > outgoingTTL {
				require.Empty(t, format, "too old to be given")
			}
			return ok
		}
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "old", "fb", []byte("x")))
		time.Sleep(outgoingTTL - time.Hour)
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "young", "fb", []byte("y")))
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(2 * time.Hour)
		require.True(t, has("old"))
		scans := kv.scans.Load()
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.Equal(t, scans, kv.scans.Load(), "it was done two hours ago")
		require.True(t, has("old"))

		time.Sleep(outgoingEvery)
		down := errors.New("down")
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				return down
			}
			return nil
		})
		require.NoError(t, s.DeleteOldOutgoingEvents(bg), "no send fails of it")
		time.Sleep(time.Minute)
		kv.before.set(nil)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.True(t, has("old"), "not again so soon")
		time.Sleep(outgoingAgain)
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		require.False(t, has("old"))
		require.True(t, has("young"))
		require.Equal(t, 1, kv.count("outgoing"))
	})
}

// A message that is sent again under its id is as young as the last time.
func TestEventSentAgainIsNotAnOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		s := storeOf(d)
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "ID", "wa", []byte("once")))
		time.Sleep(outgoingTTL + time.Hour)
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(1), "ID", "wa", []byte("again")))
		require.NoError(t, s.DeleteOldOutgoingEvents(bg))
		time.Sleep(time.Minute)
		_, text, err := s.GetOutgoingEvent(bg, testJID(1), types.EmptyJID, "ID")
		require.NoError(t, err)
		require.Equal(t, "again", string(text))
	})
}

// Where nothing that is sent may be kept, none of the ways in keeps a plaintext,
// and what an earlier term has kept goes.
func TestNothingSentIsKeptWhereThatIsForbidden(t *testing.T) {
	forbidden := WithRetention(Retention{Sent: -1})
	text := []byte("a text that nobody may find")
	ways := map[string]func(d *store.Device) error{
		"an outgoing event": func(d *store.Device) error {
			return storeOf(d).AddOutgoingEvent(bg, testJID(1), "ID", packedKind, text)
		},
		"an outgoing event of another format": func(d *store.Device) error {
			return storeOf(d).AddOutgoingEvent(bg, testJID(1), "ID", "fb", text)
		},
		"a sent message": func(d *store.Device) error { return storeOf(d).KeepSent(bg, testJID(1), "ID", text) },
		"a large sent message": func(d *store.Device) error {
			return storeOf(d).KeepSent(bg, testJID(1), "ID", bytes.Repeat(text, packedBytes/len(text)+1))
		},
		"a send": func(d *store.Device) error {
			x := &Sending{Chat: testJID(1), ID: "ID", Plaintext: func() []byte { return text }}
			return d.Sessions.PutManySessions(WithSending(bg, x), map[string][]byte{"1:0": validSession(t, 1)})
		},
	}
	stored := func(kv *mapKV) (n int) {
		for _, v := range kv.data {
			n += strings.Count(v, string(text)) + strings.Count(v, string(keptSent))
		}
		return n
	}
	look := func(t *testing.T, d *store.Device) {
		t.Helper()
		format, plaintext, err := storeOf(d).GetOutgoingEvent(bg, testJID(1), types.EmptyJID, "ID")
		require.NoError(t, err)
		require.Empty(t, format)
		require.Empty(t, plaintext)
		plaintext, err = storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "ID")
		require.NoError(t, err)
		require.Nil(t, plaintext)
	}
	for name, keep := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv, forbidden)
				require.NoError(t, keep(d))
				look(t, d)
				require.NoError(t, storeOf(d).flush("test"))
				c, d, _ = reopen(t, kv, c, forbidden)
				look(t, d)
				require.Zero(t, stored(kv))
				require.Zero(t, kv.count("outgoing"))
				require.NoError(t, c.Close(bg))
			})
		})
		t.Run(name+" of an earlier term", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				require.NoError(t, keep(d))
				c, d, _ = reopen(t, kv, c, forbidden)
				require.Positive(t, stored(kv))
				time.Sleep(time.Second)
				look(t, d)
				require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
				synctest.Wait()
				time.Sleep(lazily + 1)
				synctest.Wait()
				require.Zero(t, stored(kv))
				require.Zero(t, kv.count("outgoing"))
				require.NoError(t, c.Close(bg))
			})
		})
	}
}
