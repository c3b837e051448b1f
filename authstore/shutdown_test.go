package authstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What is under way when a term or a Container ends.

// A shutdown that runs out of time before its turn comes ends the device all the
// same: who called it goes on and releases the lock.
func TestCloseThatRunsOutOfTimeEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv)
		require.NoError(t, c.lock(bg)) // somebody is at work with it
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		require.EqualValues(t, 1, f.cuts.Load(), "its connection would be up, and deaf")
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrSuperseded)
		<-c.sem
	})
}

// A deferred write may be on its way when the term ends, with nothing left to
// flush. The lock is released when EndTerm returns, so that write comes first.
func TestEndOfATermWaitsForTheCommitUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, _, _ := open(t, kv)
		c, d, f := reopen(t, kv, c)
		land := late(kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		time.Sleep(2 * soon)
		ended := make(chan error)
		go func() {
			err := c.EndTerm(bg)
			kv.setEpoch(f.Epoch() + 1)
			ended <- err
		}()
		synctest.Wait()
		land()
		require.NoError(t, <-ended)
		_, d, _ = open(t, kv)
		trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
		require.NoError(t, err)
		require.False(t, trusted, "the identity was lost")
	})
}

// Between two terms another instance works with the account.
func TestInfoIsReadAnewWhenTheTermIsOver(t *testing.T) {
	kv := newMapKV()
	c, _, f := open(t, kv)
	require.NoError(t, c.EndTerm(bg))
	kv.setEpoch(f.Epoch() + 1)
	_, d, _ := open(t, kv)
	require.NoError(t, d.Delete(bg))
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.True(t, info.Deleted)
	require.Equal(t, -1, info.KeyCount)
	_, err = c.MessageEntries(bg)
	require.ErrorIs(t, err, ErrSuperseded)
}

// A message may be sent while the last flush is on its way to the store.
func TestSentDuringTheLastFlushIsKept(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	s := storeOf(d)
	require.NoError(t, s.KeepSent(bg, testJID(1), "ID1", []byte("text 1")))
	sent := false
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" && !sent {
			sent = true
			return s.KeepSent(bg, testJID(1), "ID2", []byte("text 2"))
		}
		return nil
	})
	_, d, _ = reopen(t, kv, c)
	require.True(t, sent)
	requireSent(t, d, 1)
	requireSent(t, d, 2)
}

// Entries about received messages may come while the last flush is on its way, and
// without end. One that is accepted is there in the next term, also while nobody
// is paired.
func TestEntryThatIsAcceptedAtTheEndIsKept(t *testing.T) {
	for name, isPaired := range map[string]bool{"paired": true, "unpaired": false} {
		t.Run(name, func(t *testing.T) {
			kv, f := newMapKV(), newFence(1)
			c := New(kv)
			d, err := c.Device(bg, f)
			require.NoError(t, err)
			if isPaired {
				pair(t, d, testJID(1))
			}
			accepted, refused := make(map[string][]byte), 0
			put := func(string, Batch) error {
				id := fmt.Sprint("entry ", len(accepted))
				if c.PutMessageEntry(bg, id, []byte(id), false) != nil {
					refused++
				} else {
					accepted[id] = []byte(id)
				}
				return nil
			}
			require.NoError(t, put("", Batch{}))
			kv.before.set(func(op string, b Batch) error {
				if op == "commit" {
					return put(op, b)
				}
				return nil
			})
			require.NoError(t, c.Close(bg))
			require.Positive(t, refused, "the last of them came too late")
			kv.before.set(nil)
			c = New(kv)
			_, err = c.Device(bg, f)
			require.NoError(t, err)
			entries, err := c.MessageEntries(bg)
			require.NoError(t, err)
			require.Equal(t, accepted, entries)
			require.NoError(t, c.Close(bg))
		})
	}
}

// A damaged row may be found while the last flush is on its way. It is set aside
// all the same, or it would be found and told of in each term.
func TestDamageFoundDuringTheLastFlushIsSetAside(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "group@g.us", "1:0", validSenderKey([]byte{1})))
	c, d, _ = reopen(t, kv, c)
	for k := range kv.data {
		if k.Kind == "senderkey" {
			kv.data[k] = "\x01\x00damaged"
		}
	}
	asked := false
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" && !asked {
			asked = true
			_, err := d.SenderKeys.GetSenderKey(bg, "group@g.us", "1:0")
			return err
		}
		return nil
	})
	require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
	require.NoError(t, c.Close(bg))
	require.True(t, asked)
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.Zero(t, kv.count("senderkey"))
}

// Nothing is left to do for a device whose term was cut, so nobody waits for it.
func TestCloseOfACutDeviceTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d, _ := open(t, newMapKV())
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "name")
		require.NoError(t, err)
		storeOf(d).gate.cut(errDown)
		began := time.Now()
		require.NoError(t, c.Close(bg))
		require.Zero(t, time.Since(began))
	})
}

// A pairing may hang in its last step. Calls that have to wait for it end with their
// context.
func TestCallBesideAHangingPairingEndsWithItsContext(t *testing.T) {
	for name, call := range map[string]func(*Container, context.Context, Fence) error{
		"purge": (*Container).PurgeDevice, "restore": (*Container).Restore,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv, f := newMapKV(), newFence(1)
				c := New(kv)
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				land := late(kv)
				done := make(chan struct{})
				go func() {
					defer close(done)
					pair(t, d, testJID(1))
				}()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(bg, time.Second)
				defer cancel()
				require.ErrorIs(t, call(c, ctx, f), context.DeadlineExceeded)
				land()
				<-done
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// A host closes its store behind the Container. By then nothing of the Container
// uses it, not even a look at old rows that takes its time.
func TestCloseWaitsForWhatStillReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, storeOf(d).flush("test"))
		answer := make(chan struct{})
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				<-answer
			}
			return nil
		})
		require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
		synctest.Wait()
		var closed atomic.Bool
		go func() {
			require.NoError(t, c.Close(bg))
			closed.Store(true)
		}()
		time.Sleep(time.Hour)
		require.False(t, closed.Load())
		close(answer)
		synctest.Wait()
		require.True(t, closed.Load())
	})
}
