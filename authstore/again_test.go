package authstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// What was looked at, written or settled once, and is met again later: by another
// look, by the same write, or by a decision that was made before it changed.

// A recipient asks for an unknown message, and all rows are read. What is sent
// afterwards is found too, also when its row has left memory.
func TestLookForSentMessagesHidesNothingSentLater(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	s := storeOf(d)
	text, err := s.Sent(bg, testJID(1), types.EmptyJID, "unknown")
	require.NoError(t, err)
	require.Nil(t, text)
	for i := range packedCount {
		sendKept(t, d, i)
	}
	for i := range 256 { // so many that memory lets rows go that are saved
		require.NoError(t, s.AddOutgoingEvent(bg, testJID(3), fmt.Sprint("other", i), "other", nil))
	}
	require.NoError(t, s.flush("test"))
	s.mu.Lock()
	left := len(s.im.flat[tOutgoing])
	s.mu.Unlock()
	require.Zero(t, left)
	for i := range packedCount {
		requireSent(t, d, i)
	}
}

// A value in parts is written again as it was. The old parts go, the new ones stay.
func TestLargeValueWrittenAgainUnchangedStays(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 600, MaxBatch: 4000, MaxKeys: 20}
	_, d, _ := open(t, kv)
	want := validSession(t, 1)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", want))
	parts := kv.count(kindPart)
	require.NotZero(t, parts)
	for range 2 {
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", want))
		require.Equal(t, parts, kv.count(kindPart))
	}
	got, err := killed(t, kv).Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// More keys are to go than one commit takes along. One that is used meanwhile is
// not too old any more, whichever commit would have taken it.
func TestOldSenderKeyThatIsUsedAgainStays(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	s := storeOf(d)
	const n = 4 * removeAtOnce
	putKeys(t, d, "g@g.us", n, 1)
	s.mu.Lock()
	for i := range n { // as a look at the table finds them
		s.keys.toRemove(senderKeyID("g@g.us", fmt.Sprintf("%d:0", i)))
	}
	s.mu.Unlock()
	require.NoError(t, s.DoDecryptionTxn(bg, func(ctx context.Context) error {
		for i := range 8 {
			if err := d.SenderKeys.PutSenderKey(ctx, "g@g.us", fmt.Sprintf("%d:0", i), validSenderKey([]byte{2})); err != nil {
				return err
			}
		}
		return nil
	}))
	goOn(t, kv, d, n/removeAtOnce+1)
	require.Equal(t, 8, kv.count("senderkey"))
	for i := range 8 {
		key, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", fmt.Sprintf("%d:0", i))
		require.NoError(t, err)
		require.Equal(t, validSenderKey([]byte{2}), key)
	}
}

// Two callers ask for the MACs of a collection at once. The second finds what the
// first has written, and does not read over it.
func TestMACsThatTwoAskForAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		put := func(d *store.Device, version uint64, value string) error {
			if err := d.AppState.PutAppStateVersion(bg, "regular", version, [128]byte{byte(version)}); err != nil {
				return err
			}
			return d.AppState.PutAppStateMutationMACs(bg, "regular", version, []store.AppStateMutationMAC{{IndexMAC: []byte("index"), ValueMAC: []byte(value)}})
		}
		require.NoError(t, put(d, 1, "old"))
		_, d, _ = reopen(t, kv, c)
		scans, first := kv.scans.Load(), make(chan struct{})
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" && kv.scans.Load() == scans+1 {
				time.Sleep(time.Second) // until the other one waits
			} else if op == "scan" {
				<-first
			}
			return nil
		})
		done := make(chan error, 1)
		go func() {
			time.Sleep(time.Millisecond)
			_, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte("index"))
			done <- err
		}()
		require.NoError(t, put(d, 2, "new"))
		close(first)
		require.NoError(t, <-done)
		kv.before.set(nil)
		got, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte("index"))
		require.NoError(t, err)
		require.Equal(t, "new", string(got))
		require.Equal(t, scans+1, kv.scans.Load())
	})
}

// A receive moves a number's sessions while another receive steps one of them. It
// moves what stands there when its turn has come.
func TestMoveInAReceiveTakesTheSessionItWaitedFor(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		stepped := make(chan error, 1)
		go func() { stepped <- receiveStep(t, d, "1:0", time.Second) }()
		synctest.Wait()
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			return d.Sessions.MigratePNToLID(ctx, pn, lid)
		}))
		require.NoError(t, <-stepped)
		v, err := d.Sessions.GetSession(bg, "900_1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	})
}

// A send waits for one of its recipients, and gives up. Who has waited behind it,
// for another recipient, goes on at once.
func TestWaitThatIsGivenUpLetsTheNextOneGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		began := time.Now()
		busy := make(chan error, 1)
		go func() { busy <- receiveStep(t, d, "1:0", time.Minute) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		sent := make(chan error, 1)
		go func() {
			_, err := d.Sessions.GetManySessions(ctx, []string{"1:0", "2:0"})
			sent <- err
		}()
		synctest.Wait()
		require.NoError(t, receiveStep(t, d, "2:0", 0))
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, <-sent, context.DeadlineExceeded)
		require.NoError(t, <-busy)
	})
}

// A retry receipt's write ends its window: the peer's next message waits for nothing.
func TestMessageAfterARetryWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		retried := make(chan error, 1)
		go func() { retried <- retryStep(t, d, "1:0", 0) }()
		require.NoError(t, <-retried)
		began := time.Now()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Zero(t, time.Since(began))
	})
}

// A purge is broken off by its caller, and the device that waits to be paired goes
// on. It knows that the deleted one cannot come back: its rows are going.
func TestPurgeThatBreaksOffIsKnownToTheDevice(t *testing.T) {
	kv := filled(t)
	kv.setEpoch(2)
	c, d, f := open(t, kv)
	old := *d.ID
	require.NoError(t, d.Delete(bg))
	fresh, err := c.Device(bg, f)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	kv.before.set(func(op string, _ Batch) error {
		if op == "scan" {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, c.PurgeDevice(ctx, f), context.Canceled)
	kv.before.set(nil)
	pair(t, fresh, testJID(2))
	require.NoError(t, fresh.Delete(bg)) // its last word did not reach the service
	q, err := c.Quarantined(bg)
	require.NoError(t, err)
	require.NotNil(t, q.Device)
	require.NotEqual(t, old, q.Device.JID)
}

// A message that cannot be handed over has an entry, and its event counts as
// finished. A crash between two batches finds the entry at least.
func TestEntryOfAMessageLandsBeforeItsEventIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxKeys: 1}
		c, d, _ := open(t, kv)
		hash := [32]byte{1}
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("text"), time.Now()))
		var order []Kind
		kv.after.set(func(_ string, b Batch) error {
			for _, e := range b.Put {
				order = append(order, e.Key.Kind)
			}
			return nil
		})
		require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
		require.NoError(t, c.PutMessageEntry(bg, "ID", []byte("entry"), false))
		require.NoError(t, storeOf(d).flush("test"))
		require.Equal(t, []Kind{"message", "seen"}, order)
	})
}

// Sixteen messages share a row of what was sent, and each of them counts.
func TestMostSentMessagesAreCountedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		keep := WithRetention(Retention{SentCount: 2 * packedCount})
		c, d, _ := open(t, kv, keep)
		for i := range 5 * packedCount {
			sendKept(t, d, i)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(outgoingEvery)
		_, d, _ = reopen(t, kv, c, keep)
		require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
		time.Sleep(2 * lazily)
		require.Equal(t, 2, kv.count("outgoing"))
		requireSent(t, d, 3*packedCount)
		text, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "ID0")
		require.NoError(t, err)
		require.Nil(t, text)
	})
}

// The source's lock is lost somewhere on the way of an import. Then it may be in
// use, and the target stays without the device.
func TestImportFailsWhereverTheSourcesLockIsLost(t *testing.T) {
	kv, f := source(t)
	move := func(loseAt int64) (int64, *mapKV, error) {
		f.lost.Store(false)
		to := newMapKV()
		var looks atomic.Int64
		to.before.set(func(op string, _ Batch) error {
			if op == "scan" && looks.Add(1) == loseAt {
				f.lost.Store(true)
			}
			return nil
		})
		_, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1))
		to.before.set(nil)
		return looks.Load(), to, err
	}
	all, _, err := move(0)
	require.NoError(t, err)
	for at := all; at > all-3; at-- { // the last ones, after which nothing is read from the source
		_, to, err := move(at)
		require.ErrorIs(t, err, ErrSourceInUse, "look %d of %d", at, all)
		d, err := New(to).Device(bg, newFence(1))
		require.NoError(t, err)
		require.Nil(t, d.ID)
	}
}

// A row is damaged, made anew, and damaged again in another term. Both are kept.
func TestRowThatIsDamagedTwiceIsKeptTwice(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	for range 2 {
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.NoError(t, c.Close(bg))
		key := rowKey(d, tSession, "1:0")
		kv.data[key] = kv.data[key][:10]
		kv.setEpoch(kv.epoch + 1)
		c, d, _ = open(t, kv)
		require.NoError(t, storeOf(d).flush("test"))
	}
	require.Equal(t, 2, kv.count(kindQuarantine))
}

// A goroutine whose session was changed under it reads it again. Its next write
// counts then: the session and the message go on.
func TestSessionThatIsReadAgainAfterABreakIsWritten(t *testing.T) {
	for name, again := range map[string]func(d *store.Device) error{
		"by a retry receipt": func(d *store.Device) error { return retryStep(t, d, "1:0", 0) },
		"by a send":          func(d *store.Device) error { return sendStep(t, d, []string{"1:0"}, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, d, _ := open(t, newMapKV())
				done := make(chan error, 1)
				go func() { // all in one goroutine, as in whatsmeow
					if _, err := d.Sessions.GetSession(bg, "1:0"); err != nil {
						done <- err
						return
					}
					time.Sleep(time.Minute)
					done <- again(d)
				}()
				synctest.Wait()
				require.NoError(t, receiveStep(t, d, "1:0", 0), "it breaks the window")
				require.NoError(t, <-done)
				v, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.EqualValues(t, 2, sessionCounter(t, v), "the receive counts, and what followed")
			})
		})
	}
}
