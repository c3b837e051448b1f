package authstore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// A recipient who asks again gets the message: "none is kept" is an answer, and a
// lookup that failed is not one.
func TestLookupThatFailsIsNoMissingMessage(t *testing.T) {
	down := fmt.Errorf("%w: the backend is down", ErrTooLarge)
	last := fmt.Sprint("ID", packedCount-1) // it stands beside no session
	for _, op := range []string{"get", "scan"} {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		for i := range packedCount {
			sendKept(t, d, i)
		}
		_, d, _ = reopen(t, kv, c)
		kv.before.set(func(o string, _ Batch) error {
			if o == op {
				return down
			}
			return nil
		})
		_, _, err := storeOf(d).GetOutgoingEvent(bg, testJID(1), types.EmptyJID, last)
		require.ErrorIs(t, err, down, op)
		_, err = storeOf(d).Sent(bg, testJID(1), types.EmptyJID, last)
		require.Equal(t, op == "scan", errors.Is(err, down))
		kv.before.set(nil)
		requireSent(t, d, packedCount-1)
	}
}

// A message that was in memory at a lookup is found when it has left memory since.
func TestLookupFindsWhatLeavesMemoryAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, storeOf(d).flush("test"))
		for i := range packedCount {
			require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), fmt.Sprint("ID", i), fmt.Append(nil, "text ", i)))
		}
		text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "unknown")
		require.NoError(t, err)
		require.Nil(t, text)
		require.NoError(t, storeOf(d).flush("test"))
		s := storeOf(d)
		s.mu.Lock()
		for id := range s.im.flat[tOutgoing] {
			delete(s.im.flat[tOutgoing], id) // as when others take its place
		}
		s.mu.Unlock()
		for i := range packedCount {
			requireSent(t, d, i)
		}
	})
}

// A message that was sent again under its id, an edit say, is the newer one,
// whatever row is read first.
func TestNewerOfTwoSentMessagesIsGiven(t *testing.T) {
	older, newer := packedEntry("ID", 1, []byte("older")), packedEntry("ID", 2, []byte("newer"))
	for _, entries := range [][]byte{append(append([]byte{}, older...), newer...), append(append([]byte{}, newer...), older...)} {
		out := make(map[string][]byte)
		unpack(out, entries)
		f := fields{b: out["ID"]}
		require.EqualValues(t, 2, f.varint())
		require.Equal(t, "newer", string(f.b))
	}
}

// Rows that an earlier term has left beside a session are taken over once, and go when
// all of them are too old, not before.
func TestMessageBesideASessionIsTakenOverOnce(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	sendWith(t, d, 0, "1:0")
	sendWith(t, d, 1, "2:0")
	d = killed(t, kv)
	for i := range 3 * packedCount {
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(10+i))))
	}
	require.Zero(t, kv.count("outgoing"))
	require.Equal(t, 1, storeOf(d).pack.count)
	require.NoError(t, storeOf(d).deleteOldOutgoing("test"))
	require.NoError(t, storeOf(d).flush("test"))
	d = killed(t, kv)
	requireSent(t, d, 0)
	requireSent(t, d, 1)
}

// A message that waits for a commit waits for packedWait before it makes a row of its own in
// one that happens anyway.
func TestMessageThatWaitsMakesNoRowAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, storeOf(d).flush("test"))
		write := func(n int) {
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "2:0", validSenderKey([]byte{byte(n)})))
		}
		require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), "ID0", []byte("text 0")))
		write(1)
		require.Zero(t, kv.count("outgoing"))
		time.Sleep(packedWait)
		write(2)
		require.Equal(t, 1, kv.count("outgoing"))
		requireSent(t, d, 0)
	})
}

// A connection to the store that is not made in time is an outage: net's error matches
// context.DeadlineExceeded too.
func TestSentMessageIsLookedForInNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				return fmt.Errorf("dial: %w", context.DeadlineExceeded)
			}
			return nil
		})
		_, err := storeOf(d).Sent(bg, testJID(2), types.EmptyJID, "nothing")
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, f.cuts.Load())
	})
}
