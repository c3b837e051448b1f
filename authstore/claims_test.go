package authstore

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// Which claims on a session stand in each other's way, and which do not.

// whatsmeow asks for the move with each message of a contact. One that was made
// already breaks no send to that contact.
func TestMoveThatWasMadeBreaksNoSend(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	_, err := d.Sessions.GetManySessions(bg, []string{"900_1:0"})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { err = d.Sessions.MigratePNToLID(bg, pn, lid) })
	wg.Wait()
	require.NoError(t, err)
	require.NoError(t, d.Sessions.PutManySessions(bg, map[string][]byte{"900_1:0": validSession(t, 2)}))
}

// Looking for what abandoned sends hold leaves the sends that are under way.
func TestLookForAbandonedSendsLeavesThoseUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = d.Sessions.GetManySessions(bg, []string{"9:0"}) }) // writes nothing
		wg.Wait()
		time.Sleep(maxSendAge - time.Second)
		var sent error
		wg.Go(func() { sent = sendStep(t, d, []string{"1:0"}, 2*time.Second) })
		synctest.Wait()
		time.Sleep(time.Second)
		require.NoError(t, receiveStep(t, d, "2:0", 0)) // looks
		win := storeOf(d).win
		win.mu.Lock()
		_, held := win.held["9:0"]
		win.mu.Unlock()
		require.False(t, held)
		wg.Wait()
		require.NoError(t, sent)
	})
}

// A write of what was read and of what was not holds neither afterwards.
func TestWriteOfMoreThanWasReadHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		_, err := d.Sessions.GetManySessions(bg, []string{"1:0"})
		require.NoError(t, err)
		require.NoError(t, d.Sessions.PutManySessions(bg, map[string][]byte{"1:0": validSession(t, 1), "2:0": validSession(t, 1)}))
		start := time.Now()
		var wg sync.WaitGroup
		for _, addr := range []string{"1:0", "2:0"} {
			wg.Go(func() { require.NoError(t, receiveStep(t, d, addr, 0)) })
		}
		wg.Wait()
		require.Zero(t, time.Since(start))
		require.Empty(t, storeOf(d).win.held)
		require.Empty(t, storeOf(d).win.sends)
	})
}

// One who waits for a session keeps nobody from another one.
func TestWaitForASessionHoldsUpNoOtherContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "1:0", 2*time.Second)) })
		synctest.Wait()
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "1:0", 0)) })
		synctest.Wait()
		require.NoError(t, receiveStep(t, d, "2:0", 0))
		require.Zero(t, time.Since(start))
		wg.Wait()
	})
}

// A send waits for the answer to a retry receipt, which is soon written, and
// does not break it.
func TestSendWaitsForAnAnswerToARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var retried error
		var wg sync.WaitGroup
		wg.Go(func() { retried = retryStep(t, d, "1:0", time.Second) })
		synctest.Wait()
		require.NoError(t, sendStep(t, d, []string{"1:0"}, 0))
		wg.Wait()
		require.NoError(t, retried)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// A goroutine that answered a retry receipt without a write, and then receives,
// does not wait for itself.
func TestReceiveDoesNotWaitForItsOwnGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		_, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Zero(t, time.Since(start))
	})
}

// A receive behind one that takes long, as in an outage, is handled when that one
// is done.
func TestReceiveBehindALongOneIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "1:0", 5*time.Minute)) })
		synctest.Wait()
		wg.Go(func() { // wakes who waits
			time.Sleep(4 * time.Minute)
			require.NoError(t, receiveStep(t, d, "2:0", 0))
		})
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		wg.Wait()
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// Of several sessions that a goroutine has read one is written, and the others
// with its next send.
func TestSendAfterHalfOfItsRetriesIsWritten(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for _, addr := range []string{"1:0", "2:0", "3:0"} {
		_, err := d.Sessions.GetSession(bg, addr)
		require.NoError(t, err)
	}
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.Len(t, storeOf(d).win.sends[goroutineID()], 2)
	require.NoError(t, sendStep(t, d, []string{"2:0", "3:0"}, 0))
	require.Empty(t, storeOf(d).win.sends)
}

// A wait for a session ends with the term, and not when its turn would have come.
func TestWaitForASessionEndsWithTheTermAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d, _ := open(t, newMapKV())
		hold := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				_, err := d.Sessions.GetSession(ctx, "1:0")
				<-hold
				return err
			})
		})
		synctest.Wait()
		var waited error
		back := make(chan struct{})
		go func() {
			defer close(back)
			waited = receiveStep(t, d, "1:0", 0)
		}()
		synctest.Wait()
		require.NoError(t, c.EndTerm(bg))
		start := time.Now()
		<-back
		require.Zero(t, time.Since(start))
		require.ErrorIs(t, waited, context.Canceled)
		close(hold)
		wg.Wait()
	})
}

// A session that is removed under one name of a contact is removed under both.
func TestSessionsOfAContactGoUnderBothNames(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	for _, user := range []string{"1", "900"} {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
		for _, addr := range []string{"1:0", "1:3", "900_1:0", "900_1:3", "2:0", "900:0x"} {
			require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, 1)))
			require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{1}))
		}
		require.NoError(t, d.Sessions.DeleteAllSessions(bg, user))
		require.NoError(t, d.Identities.DeleteAllIdentities(bg, user))
		for _, addr := range []string{"1:0", "1:3", "900_1:0", "900_1:3"} {
			has, err := d.Sessions.HasSession(bg, addr)
			require.NoError(t, err)
			require.False(t, has, addr)
			trusted, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{2})
			require.NoError(t, err)
			require.True(t, trusted, addr)
		}
		has, err := d.Sessions.HasSession(bg, "2:0")
		require.NoError(t, err)
		require.True(t, has)
		trusted, err := d.Identities.IsTrustedIdentity(bg, "2:0", [32]byte{2})
		require.NoError(t, err)
		require.False(t, trusted)
	}
}

// A session that libsignal cannot parse is not taken for one that it can because
// it moved to the LID.
func TestSessionThatDoesNotParseIsSetAsideAfterItsMove(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	require.NoError(t, storeOf(d).write(bg, "test", put(tSession, "1:0", []byte("no session"))))
	_, d, _ = reopen(t, kv, c)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	v, err := d.Sessions.GetSession(bg, "900_1:0")
	require.NoError(t, err)
	require.Nil(t, v)
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.Zero(t, kv.count("session"))
}

// A holder of a session that wants another waits for it as long as an outage may
// take, and not behind those who hold nothing yet.
func TestReceiveThatHoldsASessionIsNotGivenUpNorQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "3:0", 30*time.Second)) })
		synctest.Wait()
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			require.NoError(t, second(d.Sessions.GetSession(ctx, "1:0")))
			wg.Go(func() {
				require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
					return second(d.Sessions.GetManySessions(ctx, []string{"1:0", "2:0"}))
				}))
			})
			synctest.Wait()
			require.NoError(t, second(d.Sessions.GetSession(ctx, "2:0")))
			require.Zero(t, time.Since(start))
			require.NoError(t, second(d.Sessions.GetSession(ctx, "3:0")))
			require.Equal(t, 30*time.Second, time.Since(start))
			return nil
		}))
		wg.Wait()
	})
}
