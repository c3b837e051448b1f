package authstore

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// A send that was broken for one recipient has failed for all, so what the
// others send is decrypted at once.
func TestBrokenSendHoldsNoOtherRecipient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		sent, end := make(chan error, 1), make(chan struct{})
		defer close(end)
		go func() {
			sent <- sendStep(t, d, []string{"1:0", "2:0"}, 4*time.Second)
			<-end // the goroutine lives on, and sends nothing more
		}()
		synctest.Wait()
		received := make(chan error, 1)
		receive := func(addr string) { received <- receiveStep(t, d, addr, 0) }
		go receive("1:0")
		require.NoError(t, <-received)
		require.ErrorIs(t, <-sent, ErrWindowBroken)
		began := time.Now()
		go receive("2:0")
		require.NoError(t, <-received)
		require.Zero(t, time.Since(began))
	})
}

// Two retry receipts of one peer wait for each other, so both are answered.
func TestRetriesOfOnePeerWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- retryStep(t, d, "1:0", time.Second) }()
		}
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// A receive that moves a number's sessions to the LID breaks a send under the
// number: its session would come back where no answer finds it.
func TestMoveInAReceiveBreaksTheSendUnderTheNumber(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 50)))
		sent := make(chan error, 1)
		go func() { sent <- sendStep(t, d, []string{"1:0"}, time.Minute) }()
		synctest.Wait()
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			return d.Sessions.MigratePNToLID(ctx, pn, lid)
		}))
		require.ErrorIs(t, <-sent, ErrWindowBroken)
		has, err := d.Sessions.HasSession(bg, "1:0")
		require.NoError(t, err)
		require.False(t, has)
		v, err := d.Sessions.GetSession(bg, "900_1:0")
		require.NoError(t, err)
		require.EqualValues(t, 50, sessionCounter(t, v))
	})
}

// A gateway sends in a goroutine per request. A send that loses its connection
// between its read and its write leaves nothing for long, not even its context.
func TestAbandonedSendsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		w := storeOf(d).win
		count := func() (sends, held, broken int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.sends), len(w.held), len(w.broken)
		}
		in := func(f func()) {
			done := make(chan struct{})
			go func() { defer close(done); f() }()
			<-done
		}
		const n = 500
		for i := range n {
			in(func() {
				_, err := d.Sessions.GetManySessions(bg, []string{"1:0", fmt.Sprint(2+i, ":0")})
				require.NoError(t, err)
			})
			in(func() {
				_, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
			})
		}
		sends, _, _ := count()
		require.Positive(t, sends)
		time.Sleep(maxSendAge)
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		sends, held, _ := count()
		require.Zero(t, sends)
		require.Zero(t, held)
		time.Sleep(maxLost + maxSendAge)
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		_, _, broken := count()
		require.Zero(t, broken)
	})
}

// A send that lost all its addresses to another one is forgotten at once.
func TestClaimGoesWithItsLastAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		for range 10 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err := d.Sessions.GetManySessions(bg, []string{"1:0"})
				require.NoError(t, err)
			}()
			<-done
		}
		w := storeOf(d).win
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Len(t, w.sends, 1)
	})
}

// A send that is later than any send can be must not write over what came meanwhile.
func TestWriteOfAnAbandonedSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		sent := make(chan error, 1)
		go func() { sent <- sendStep(t, d, []string{"1:0"}, 2*maxSendAge) }()
		time.Sleep(maxSendAge)
		require.NoError(t, receiveStep(t, d, "2:0", 0))
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.ErrorIs(t, <-sent, ErrWindowBroken)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 1, sessionCounter(t, v))
	})
}

// A read that failed is followed by no write, so a receive waits for nothing.
func TestFailedReadOfASendHoldsNothing(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 50)))
		require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
		done, end := make(chan error, 1), make(chan struct{})
		defer close(end)
		go func() {
			_, err := d.Sessions.GetManySessions(bg, []string{"1:0", "2:0"})
			done <- err
			<-end // the goroutine lives on
		}()
		require.ErrorIs(t, <-done, ErrWindowBroken)
		began := time.Now()
		require.NoError(t, receiveStep(t, d, "2:0", 0))
		require.Zero(t, time.Since(began))
	})
}
