package authstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

func TestAReceiveWaitsForASendAndThenBreaksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var sent error
		var wg sync.WaitGroup
		wg.Go(func() { sent = sendStep(t, d, []string{"1:0", "2:0"}, time.Minute) })
		synctest.Wait()
		start := time.Now()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Equal(t, 3*time.Second, time.Since(start))
		wg.Wait()
		require.ErrorIs(t, sent, ErrWindowBroken)
		require.NotErrorIs(t, sent, context.Canceled)
		v, err := d.Sessions.GetSession(bg, "2:0")
		require.NoError(t, err)
		require.Nil(t, v, "all or nothing")
		require.NoError(t, sendStep(t, d, []string{"1:0", "2:0"}, 0), "the next send works")
	})
}

func TestASendThatEndsInTimeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, sendStep(t, d, []string{"1:0"}, 2*time.Second)) })
		synctest.Wait()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		wg.Wait()
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// A send that fails before PutManySessions leaves its window open. Nobody
// waits for it longer than once, and the next send not at all.
func TestAnAbandonedSendHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		abandon := func(ctx context.Context) {
			wg.Go(func() { _, _ = d.Sessions.GetManySessions(ctx, []string{"1:0"}) })
			wg.Wait()
		}
		abandon(bg)
		start := time.Now()
		require.NoError(t, sendStep(t, d, []string{"1:0"}, 0))
		require.Zero(t, time.Since(start))
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Zero(t, time.Since(start))

		ctx, cancel := context.WithCancel(bg)
		abandon(ctx)
		cancel()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Zero(t, time.Since(start), "a cancelled send is over")

		abandon(bg)
		time.Sleep(10 * time.Minute)
		start = time.Now()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Zero(t, time.Since(start), "an old one too")
	})
}

func TestADeleteBreaksASendAndNothingIsResurrected(t *testing.T) {
	for name, do := range map[string]func(d *store.Device) error{
		"DeleteSession":     func(d *store.Device) error { return d.Sessions.DeleteSession(bg, "1:0") },
		"DeleteAllSessions": func(d *store.Device) error { return d.Sessions.DeleteAllSessions(bg, "1") },
		"MigratePNToLID": func(d *store.Device) error {
			return d.Sessions.MigratePNToLID(bg, types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, d, _ := open(t, newMapKV())
				require.NoError(t, sendStep(t, d, []string{"1:0"}, 0))
				var sent error
				var wg sync.WaitGroup
				wg.Go(func() { sent = sendStep(t, d, []string{"1:0"}, time.Second) })
				synctest.Wait()
				start := time.Now()
				require.NoError(t, do(d))
				require.Zero(t, time.Since(start), "without waiting")
				wg.Wait()
				require.ErrorIs(t, sent, ErrWindowBroken)
				v, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.Nil(t, v)
			})
		})
	}
}

// whatsmeow deletes an untrusted session in the middle of its own send.
func TestADeleteInsideOnesOwnSendBreaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, sendStep(t, d, []string{"1:0"}, 0))
		_, err := d.Sessions.GetManySessions(bg, []string{"1:0"})
		require.NoError(t, err)
		require.NoError(t, d.Sessions.DeleteSession(bg, "1:0"))
		require.NoError(t, d.Sessions.PutManySessions(bg, map[string][]byte{"1:0": validSession(t, 9)}))
	})
}

// The write that is already on its way to the disk is not broken any more.
func TestACommitUnderWayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		kv.before.set(func(op string, b Batch) error { time.Sleep(9 * time.Second); return nil })
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, sendStep(t, d, []string{"1:0"}, 0)) })
		wg.Go(func() { // another one's window ends in the meantime, and wakes who waits
			_ = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				_, _ = d.Sessions.GetSession(ctx, "2:0")
				time.Sleep(5 * time.Second)
				return errDown
			})
		})
		synctest.Wait()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		wg.Wait()
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// The receive waits for the send, and the send for an answer from the network
// that comes only when the receive is through.
func TestASendThatWaitsForTheReceiveDoesNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		through := make(chan struct{})
		var sent error
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := d.Sessions.GetManySessions(bg, []string{"1:0"})
			require.NoError(t, err)
			<-through
			sent = d.Sessions.PutManySessions(bg, map[string][]byte{"1:0": validSession(t, 1)})
		})
		synctest.Wait()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		close(through)
		wg.Wait()
		require.ErrorIs(t, sent, ErrWindowBroken)
	})
}

// A stream of receives on some member must not keep a send to a large group
// waiting for the moment in which all are free.
func TestAGroupSendIsNotStarvedByReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := slowKV(20 * time.Millisecond)
		_, d, _ := open(t, kv)
		var addrs []string
		for i := range 256 {
			addrs = append(addrs, fmt.Sprintf("%d_1:0", i))
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := w; ; i += 4 {
					select {
					case <-stop:
						return
					default:
						require.NoError(t, receiveStep(t, d, addrs[i%256], time.Millisecond))
					}
				}
			})
		}
		time.Sleep(time.Second)
		start := time.Now()
		require.NoError(t, sendStep(t, d, addrs, 0))
		require.Less(t, time.Since(start), time.Second)
		close(stop)
		wg.Wait()
	})
}

func TestWaitingForASessionEndsWithTheContextAndWithTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, f := open(t, newMapKV())
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
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err := d.Sessions.GetManySessions(ctx, []string{"1:0"})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		var waited error
		wg.Go(func() { _, waited = d.Sessions.GetManySessions(bg, []string{"1:0"}) })
		synctest.Wait()
		f.lost.Store(true)
		f.setUntil(time.Now())
		_ = d.Sessions.PutSession(bg, "5:0", nil) // finds the term over
		close(hold)
		wg.Wait()
		require.ErrorIs(t, waited, context.Canceled)
	})
}

// Two first messages that cross: while a send makes a session under the phone
// number, a message arrives that tells the LID. Left under the number, the
// session would be lost to every answer.
func TestNoSessionIsMadeUnderANumberThatMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
		var sent error
		var wg sync.WaitGroup
		wg.Go(func() { sent = sendStep(t, d, []string{"1:0"}, time.Second) }) // fetches a bundle
		synctest.Wait()
		require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
		require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid), "nothing to move yet")
		require.NoError(t, receiveStep(t, d, "900_1:0", 0))
		wg.Wait()
		require.ErrorIs(t, sent, ErrWindowBroken)
		// Nor by a send that chose the address before and reads only now.
		_, err := d.Sessions.GetManySessions(bg, []string{"2:0", "1:0"})
		require.ErrorIs(t, err, ErrWindowBroken)
		require.NoError(t, receiveStep(t, d, "2:0", 0), "and it holds nothing")
		require.NoError(t, sendStep(t, d, []string{"900_1:0"}, 0))
	})
}

// A goroutine that begins a send has given its last one up.
func TestNextSendFreesWhatAFailedOneHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		for _, addr := range []string{"1:0", "2:0", "3:0"} {
			require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, 1)))
		}
		_, err := d.Sessions.GetManySessions(bg, []string{"1:0", "2:0"}) // and nothing comes of it
		require.NoError(t, err)
		_, err = d.Sessions.GetManySessions(bg, []string{"3:0"})
		require.NoError(t, err)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- receiveStep(t, d, "1:0", 0) }()
		require.NoError(t, <-done)
		require.Zero(t, time.Since(began))
	})
}

// A send that is given up while its write waits for another session holds none
// of its own any more.
func TestWriteThatIsGivenUpHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		var wg sync.WaitGroup
		hold := make(chan struct{})
		wg.Go(func() {
			_ = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				_, err := d.Sessions.GetSession(ctx, "2:0")
				<-hold
				return err
			})
		})
		synctest.Wait()
		sent := make(chan error, 1)
		go func() {
			if _, err := d.Sessions.GetManySessions(bg, []string{"1:0"}); err != nil {
				sent <- err
				return
			}
			ctx, cancel := context.WithTimeout(bg, time.Second)
			defer cancel()
			sent <- d.Sessions.PutManySessions(ctx, map[string][]byte{"1:0": validSession(t, 1), "2:0": validSession(t, 1)})
		}()
		require.ErrorIs(t, <-sent, context.DeadlineExceeded)
		began := time.Now()
		received := make(chan error, 1)
		go func() { received <- receiveStep(t, d, "1:0", 0) }()
		select {
		case err := <-received:
			require.NoError(t, err)
			require.Zero(t, time.Since(began))
		case <-time.After(time.Hour):
			t.Error("what the peer sends is never decrypted")
		}
		close(hold)
		wg.Wait()
	})
}
