package authstore

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
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

// A row that is refused beside a patch of the app state does not cost the
// collection's version, without which all of it is fetched again.
func TestRefusedRowDoesNotCostAnAppStateVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxKeys: 1}
		c, d, _ := open(t, kv)
		kv.refuse("contact")
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "too long")
		require.NoError(t, err)
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 7, macs(7, 1)))
		require.NoError(t, storeOf(d).flush("test"))
		_, d, _ = reopen(t, kv, c)
		version, _, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 7, version)
		mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
		require.NoError(t, err)
		require.Equal(t, []byte{7}, mac)
	})
}

// A backup of a running account is the account at one moment, whatever happens
// while it is written.
func TestBackupOfARunningAccountIsOfOneMoment(t *testing.T) {
	c, d, _ := open(t, newMapKV())
	furnish(t, d)
	v, err := FromContainer(c).open(bg)
	require.NoError(t, err)
	before := make(map[tableID]map[string][]byte)
	for t := range numTables {
		if sp := specOf(t); !sp.lazy && t != tHead {
			im, _ := v.table(bg, t)
			before[t] = im.rowsIn(t)
		}
	}
	_, _, err = d.Contacts.PutPushName(bg, testJID(3), "another name")
	require.NoError(t, err)
	require.NoError(t, d.Identities.PutIdentity(bg, "15550103:0", [32]byte{99}))
	require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}))
	require.NoError(t, d.PreKeys.RemovePreKey(bg, 3))
	require.NoError(t, d.Sessions.PutSession(bg, "15550103:0", validSession(t, 99)))
	for table, rows := range before {
		im, err := v.table(bg, table)
		require.NoError(t, err)
		require.Equal(t, rows, im.rowsIn(table), specOf(table).kind)
	}
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

// The secret of a message whose receive was rolled back is kept when the
// message comes again: a poll's votes are read with it.
func TestSecretOfARolledBackReceiveIsKeptNextTime(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	receive := func(end error) error {
		return d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			require.NoError(t, d.MsgSecrets.PutMessageSecret(ctx, testJID(1), testJID(2), "ID", []byte("secret")))
			return end
		})
	}
	require.ErrorIs(t, receive(io.ErrUnexpectedEOF), io.ErrUnexpectedEOF)
	require.NoError(t, receive(nil))
	for range 2 {
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "ID")
		require.NoError(t, err)
		require.Equal(t, "secret", string(secret))
		c, d, _ = reopen(t, kv, c)
	}
}

// A collection of the app state goes alone, also where its name is the front of
// another's: "regular" and "regular_low".
func TestDeletedCollectionLeavesTheOthersAlone(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	names := []string{"regular", "regular_low", "regular_high"}
	for _, name := range names {
		require.NoError(t, d.AppState.PutAppStateVersion(bg, name, 5, [128]byte{5}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, 5, macs(5, 1)))
	}
	require.NoError(t, d.AppState.DeleteAppStateVersion(bg, "regular"))
	for range 2 {
		for _, name := range names {
			version, _, err := d.AppState.GetAppStateVersion(bg, name)
			require.NoError(t, err)
			mac, err := d.AppState.GetAppStateMutationMAC(bg, name, []byte{1})
			require.NoError(t, err)
			if name == "regular" {
				require.Zero(t, version)
				require.Nil(t, mac)
			} else {
				require.EqualValues(t, 5, version, name)
				require.Equal(t, []byte{5}, mac, name)
			}
		}
		c, d, _ = reopen(t, kv, c)
	}
}

// Whatever writes the account's record of an account with sealed names, a
// library that does not know these finds a newer format there: it would miss
// every session.
func TestRecordOfSealedNamesStaysMarked(t *testing.T) {
	marked := func(kv *mapKV) bool { return kv.data[headKey()][1]&flagNames != 0 }
	for name, work := range map[string]func(c *Container, f Fence) error{
		"restored": func(c *Container, f Fence) error { return c.Restore(bg, f) },
		"purged":   func(c *Container, f Fence) error { return c.PurgeDevice(bg, f) },
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			c, d, f := open(t, kv, nameSeal)
			require.True(t, marked(kv))
			require.NoError(t, d.Delete(bg))
			require.True(t, marked(kv))
			require.NoError(t, work(c, f))
			require.True(t, marked(kv))
		})
	}
}

// A value that the device writes in parts while Reseal looks at the rows keeps
// its parts.
func TestResealLeavesPartsOfNewValuesAlone(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 2000}
	seal := WithAEAD(foreignAEAD{NewAESGCM(keyOf(1))}) // so every value is sealed anew
	c, d, f := open(t, kv, seal)
	var written []string
	kv.before.set(func(op string, _ Batch) error {
		if op != "scan" {
			return nil
		}
		group := "g" + string(rune('a'+len(written))) + "@g.us"
		written = append(written, group)
		return d.SenderKeys.PutSenderKey(bg, group, "1:0", validSenderKey(make([]byte, 4000)))
	})
	require.NoError(t, c.Reseal(bg, f, nil))
	kv.before.set(nil)
	require.Greater(t, len(written), 15, "before each look")
	_, d, _ = reopen(t, kv, c, seal)
	for _, group := range written {
		v, err := d.SenderKeys.GetSenderKey(bg, group, "1:0")
		require.NoError(t, err)
		require.NotNil(t, v, group)
	}
	require.Zero(t, kv.count(kindQuarantine))
}

// A secret whose row is given its sealed name between the two looks for it is
// found by the second.
func TestSecretThatMovesWhileItIsReadIsFound(t *testing.T) {
	kv := plainNames(t)
	c := New(kv, nameSeal, WithSealedNames())
	s, err := c.load(bg, newFence(kv.epoch))
	require.NoError(t, err)
	defer s.retire(ErrSuperseded)
	looks := 0
	kv.before.set(func(op string, _ Batch) error {
		if op != "scan" {
			return nil
		}
		if looks++; looks == 2 {
			return s.moveNames(bg)
		}
		return nil
	})
	secret, _, err := s.GetMessageSecret(bg, testJID(7), testJID(2), "M7")
	require.NoError(t, err)
	require.Equal(t, []byte{2, 7}, secret)
	require.False(t, moving(t, kv))
}

// A backup of a source whose lock is lost on the way is none, also if it is lost
// with the last look.
func TestBackupFailsWhereverTheLockIsLost(t *testing.T) {
	kv, f := source(t)
	export := func(loseAt int) (looks int, err error) {
		f.lost.Store(false)
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				looks++
				f.lost.CompareAndSwap(false, looks == loseAt)
			}
			return nil
		})
		_, err = Export(bg, FromKV("old", kv, f), io.Discard, archiveKey)
		return looks, err
	}
	all, err := export(0)
	require.NoError(t, err)
	for at := 1; at <= all; at++ {
		_, err := export(at)
		require.ErrorIs(t, err, ErrSourceInUse, "look %d of %d", at, all)
	}
}

// A write that is given up between two attempts is not repeated on top of what
// the term's next device has written.
func TestWriteGivenUpBetweenAttemptsUndoesNothingNewer(t *testing.T) {
	for range 20 { // whoever comes first, the old device or the new one
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			c, d, f := open(t, kv)
			var up atomic.Bool
			kv.before.set(func(op string, _ Batch) error {
				if op == "commit" && !up.Load() {
					return errDown
				}
				return nil
			})
			given := make(chan error, 1)
			go func() { given <- d.Sessions.PutSession(bg, "1:0", validSession(t, 1)) }()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(bg, 10*time.Second)
			defer cancel()
			require.ErrorIs(t, c.EndTerm(ctx), context.DeadlineExceeded)
			up.Store(true)
			next := func() *store.Device {
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				return d
			}
			require.NoError(t, next().Sessions.PutSession(bg, "1:0", validSession(t, 2)))
			require.ErrorIs(t, <-given, context.Canceled)
			require.NoError(t, c.EndTerm(bg))
			v, err := next().Sessions.GetSession(bg, "1:0")
			require.NoError(t, err)
			require.EqualValues(t, 2, sessionCounter(t, v))
		})
	}
}
