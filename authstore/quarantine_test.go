package authstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

func TestASenderKeyThatDoesNotParseIsSetAside(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", "1:0", []byte("no key")))
	c, d, _ = reopen(t, kv, c)
	v, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", "1:0")
	require.NoError(t, err)
	require.Nil(t, v)
	require.Zero(t, kv.count("senderkey"))
	q, err := c.Quarantined(bg)
	require.NoError(t, err)
	require.Len(t, q.Rows, 1)
	require.Equal(t, Kind("senderkey"), q.Rows[0].Kind)
	require.Contains(t, q.Rows[0].ID, "1:0/g@g.us")
	require.Equal(t, len("no key"), q.Rows[0].Size)
	require.Contains(t, q.Rows[0].Cause, "does not parse")
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", "1:0", validSenderKey([]byte{2})), "and is learned again")
}

// A row that just fits is too large with what is noted beside it.
func TestADamagedRowOfAnySizeIsKept(t *testing.T) {
	for _, size := range []int{0, 1, 4000, 4096} {
		kv := newMapKV()
		kv.limits = Limits{MaxValue: 4096, MaxBatch: 8000, MaxKeys: 20}
		c, d, _ := open(t, kv)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.NoError(t, c.Close(bg))
		kv.data[Key{"session", "d0/1:0"}] = strings.Repeat("x", size)
		if size > 0 {
			kv.data[Key{"session", "d0/1:0"}] = "\x01\x00" + strings.Repeat("x", max(size-2, 0))
		}
		c, _, _ = open(t, kv)
		require.NoError(t, c.Close(bg))
		require.Zero(t, kv.count("session"))
		kv.setEpoch(2)
		c, _, f := open(t, kv)
		q, err := c.Quarantined(bg)
		require.NoError(t, err)
		require.Len(t, q.Rows, 1, size)
		require.Equal(t, Kind("session"), q.Rows[0].Kind)
		require.NoError(t, c.PurgeRows(bg, f))
		require.Zero(t, kv.count(kindQuarantine))
	}
}

func TestADeletedDeviceIsListedAndPurgedForGood(t *testing.T) {
	kv := filled(t)
	kv.setEpoch(2)
	c, d, f := open(t, kv)
	require.ErrorIs(t, c.PurgeDevice(bg, f), ErrNothingDeleted, "a device in use is not purged")
	c.SetDeleteReason("logged out")
	jid := *d.ID
	require.NoError(t, d.Delete(bg))
	q, err := c.Quarantined(bg)
	require.NoError(t, err)
	require.Equal(t, jid, q.Device.JID)
	require.Equal(t, "logged out", q.Device.Reason)
	require.WithinDuration(t, time.Now(), q.Device.At, time.Minute)

	fresh, err := c.Device(bg, f) // waits for a pairing
	require.NoError(t, err)
	require.NoError(t, c.PurgeDevice(bg, f))
	require.ErrorIs(t, c.Restore(bg, f), ErrNothingDeleted)
	for k := range kv.data {
		require.False(t, strings.HasPrefix(k.ID, "d0/"), "%v", k)
	}
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.False(t, info.Deleted || info.Exists)
	_ = fresh
}

// Purging is broken off at every call, by an outage that ends the term; what was
// begun is finished by the next one, and a pairing before or after that keeps its
// device.
func TestAPurgeThatWasBrokenOffIsFinished(t *testing.T) {
	for at, whole := 0, false; !whole; at++ {
		synctest.Test(t, func(t *testing.T) { whole = purgeBrokenOff(t, at) })
		require.False(t, whole && at <= 20)
	}
}

func purgeBrokenOff(t *testing.T, at int) (whole bool) {
	kv := filled(t)
	kv.setEpoch(2)
	c, d, f := open(t, kv)
	require.NoError(t, d.Delete(bg))
	fresh, err := c.Device(bg, f)
	require.NoError(t, err)
	calls := 0
	kv.before.set(func(string, Batch) error {
		if calls++; calls > at {
			return errDown
		}
		return nil
	})
	err = c.PurgeDevice(bg, f)
	kv.before.set(nil)
	whole = err == nil
	if !whole {
		require.ErrorIs(t, err, errDown)
		_ = c.Close(bg)
		kv.setEpoch(3)
		c, f = New(kv), newFence(3)
		fresh, err = c.Device(bg, f)
		require.NoError(t, err)
	}
	if at%2 == 0 && !whole {
		require.NoError(t, c.PurgeDevice(bg, f))
		require.Zero(t, kv.count("session"))
	}
	pair(t, fresh, testJID(2))
	login(t, fresh)
	require.NoError(t, fresh.Sessions.PutSession(bg, "1:0", validSession(t, 4)))
	require.NoError(t, c.Close(bg))
	kv.setEpoch(4)
	c, d, _ = open(t, kv)
	c.cfg.background.Wait()
	require.Equal(t, testJID(2), *d.ID)
	require.Equal(t, 1, kv.count("session"))
	require.NoError(t, c.Close(bg))
	return whole
}

func TestSenderKeysAreReadOnDemandAndMemoryIsBounded(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	const senders = 2000
	sender := func(i int) string { return fmt.Sprintf("%d_1:0", i) }
	key := func(i int) []byte { return validSenderKey(fmt.Appendf(nil, "%0100d", i)) }
	for i := range senders {
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", sender(i), key(i)))
	}
	const bound = 64 << 10
	_, d, _ = reopen(t, kv, c, WithSenderKeyCache(bound))
	s := storeOf(d)
	held := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, half := range []map[string][]byte{s.im.flat[tSenderKey], s.keys.older} {
			for id, v := range half {
				n += len(id) + len(v)
			}
		}
		return n
	}
	require.Zero(t, held(), "none is loaded at the start")
	for i := range senders {
		v, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", sender(i))
		require.NoError(t, err)
		require.Equal(t, key(i), v)
		require.LessOrEqual(t, held(), bound+1024)
	}
	_, reads := meter(kv, func() {
		for range 5 {
			for i := senders - 100; i < senders; i++ { // the group that is active
				_, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", sender(i))
				require.NoError(t, err)
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g@g.us", sender(i), key(i+1)))
			}
		}
	})
	require.Zero(t, reads)
	_, reads = meter(kv, func() {
		for range 3 {
			v, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", "stranger:0")
			require.NoError(t, err)
			require.Nil(t, v)
		}
	})
	require.EqualValues(t, 1, reads, "that it is missing is known then")
}

// lateGets answers a Get a second after it has read.
type lateGets struct{ *mapKV }

func (k lateGets) Get(ctx context.Context, keys ...Key) (map[Key][]byte, error) {
	out, err := k.mapKV.Get(ctx, keys...)
	if k.delay.Swap(0) > 0 {
		time.Sleep(time.Second)
	}
	return out, err
}

// A read that is on its way must not bring back what was written meanwhile.
func TestASenderKeyReadIsNeverOlderThanAWrite(t *testing.T) {
	for name, before := range map[string][]byte{"there was one": validSenderKey([]byte{1}), "there was none": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				if before != nil {
					require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", before))
				}
				require.NoError(t, c.Close(bg))
				kv.setEpoch(2)
				c = New(lateGets{kv})
				d, err := c.Device(bg, newFence(2))
				require.NoError(t, err)
				kv.delay.Store(1)
				read := make(chan []byte, 1)
				go func() {
					v, err := d.SenderKeys.GetSenderKey(bg, "g", "1:0")
					require.NoError(t, err)
					read <- v
				}()
				synctest.Wait()
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", validSenderKey([]byte{2})))
				require.Equal(t, validSenderKey([]byte{2}), <-read, "what it has read is old by now")
				v, err := d.SenderKeys.GetSenderKey(bg, "g", "1:0")
				require.NoError(t, err)
				require.Equal(t, validSenderKey([]byte{2}), v)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// That a key is missing is remembered, until there is one: also when memory has
// let go of it since.
func TestSenderKeyThatComesLateIsFound(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv, WithSenderKeyCache(1))
	v, err := d.SenderKeys.GetSenderKey(bg, "g", "1:0")
	require.NoError(t, err)
	require.Nil(t, v)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", validSenderKey([]byte{1})))
	for _, other := range []string{"2:0", "3:0", "4:0"} {
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", other, validSenderKey([]byte{9})))
	}
	v, err = d.SenderKeys.GetSenderKey(bg, "g", "1:0")
	require.NoError(t, err)
	require.Equal(t, validSenderKey([]byte{1}), v)
}

func TestASenderKeyOfANewerFormatIsNeverOverwritten(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", validSenderKey([]byte{1})))
	require.NoError(t, c.Close(bg))
	k := Key{"senderkey", "d0/1:0/g"}
	newer := "\x02" + kv.data[k][1:]
	kv.data[k] = newer
	kv.setEpoch(2)
	_, d, f := open(t, kv)
	_, err := d.SenderKeys.GetSenderKey(bg, "g", "1:0")
	require.ErrorIs(t, err, ErrNewerFormat)
	require.ErrorIs(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", validSenderKey([]byte{2})), ErrNewerFormat)
	require.Equal(t, newer, kv.data[k])
	require.Zero(t, f.cuts.Load(), "one row never ends a term")
}

// A migration moves the sender keys that are not in memory as well.
func TestMigrationMovesSenderKeysThatAreNotInMemory(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", validSenderKey([]byte{1})))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "h", "1:0", validSenderKey([]byte{2})))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "11:0", validSenderKey([]byte{3})))
	_, d, _ = reopen(t, kv, c)
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	_, reads := meter(kv, func() {
		require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
		require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	})
	require.EqualValues(t, 1, reads)
	for group, mark := range map[string]byte{"g": 1, "h": 2} {
		v, err := d.SenderKeys.GetSenderKey(bg, group, "900_1:0")
		require.NoError(t, err)
		require.Equal(t, validSenderKey([]byte{mark}), v)
		v, err = d.SenderKeys.GetSenderKey(bg, group, "1:0")
		require.NoError(t, err)
		require.Nil(t, v)
	}
	v, err := d.SenderKeys.GetSenderKey(bg, "g", "11:0")
	require.NoError(t, err)
	require.NotNil(t, v)
	_, reads = meter(kv, func() {
		for i := range 5 {
			require.NoError(t, d.Sessions.MigratePNToLID(bg, types.NewJID(fmt.Sprint(50+i), types.DefaultUserServer), lid))
		}
	})
	require.Zero(t, reads, "where there is no session, nothing is looked for")
}

// Parts of rows that are read on demand, and of the account's own rows.
func TestOrphanedPartsOfEveryTableAreRemoved(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 600, MaxBatch: 4000, MaxKeys: 20}
	c, d, _ := open(t, kv)
	user := testJID(1)
	large := make([]byte, 2000)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, user, user, "ID", large))
	for i := range 6000 { // LID rows of more than one part
		require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID(fmt.Sprint("9000000", i), types.HiddenUserServer), types.NewJID(fmt.Sprint("4915100000", i), types.DefaultUserServer)))
	}
	_, _, _ = d.Contacts.PutPushName(bg, user, "x")
	require.NoError(t, c.Close(bg))
	parts := kv.count(kindPart)
	require.Greater(t, parts, 10)
	for _, k := range []Key{
		{kindPart, "d0/secret-00000001-ABCDEFGHIJKLMNOP/0"}, {kindPart, "d0/senderkey-00000001-ABCDEFGHIJKLMNOP/0"},
		{kindPart, "g/lid-00000001-ABCDEFGHIJKLMNOP/0"}, {kindPart, "d0/session-00000001-ABCDEFGHIJKLMNOP/0"},
	} {
		kv.data[k] = "left over"
	}
	kv.setEpoch(2)
	c, d, _ = open(t, kv)
	c.cfg.background.Wait()
	require.Equal(t, parts, kv.count(kindPart))
	v, _, err := d.MsgSecrets.GetMessageSecret(bg, user, user, "ID")
	require.NoError(t, err)
	require.Equal(t, large, v)
}

// A write that is deferred while Close runs is done, or refused; never forgotten.
func TestNothingDeferredIsForgottenByClose(t *testing.T) {
	for range 50 {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		done := make(chan int)
		go func() {
			for i := 0; ; i++ {
				if _, _, err := d.Contacts.PutPushName(bg, testJID(1), fmt.Sprint(i)); err != nil {
					if !isGone(err) {
						t.Error(err)
					}
					done <- i - 1
					return
				}
			}
		}()
		require.NoError(t, c.Close(bg))
		last := <-done
		kv.setEpoch(kv.epoch + 1)
		_, d, _ = open(t, kv)
		got, err := d.Contacts.GetContact(bg, testJID(1))
		require.NoError(t, err)
		if last >= 0 {
			require.Equal(t, fmt.Sprint(last), got.PushName)
		}
	}
}

// The same at the very moment: after the last look, before the end.
func TestWhatIsDeferredAfterTheLastLookIsRefused(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	s := storeOf(d)
	s.mu.Lock()
	s.queue.close()
	s.mu.Unlock()
	_, _, err := d.Contacts.PutPushName(bg, testJID(1), "x")
	require.True(t, isGone(err))
	require.True(t, isGone(d.AppState.PutAppStateVersion(bg, "regular", 1, [128]byte{})))
}

func isGone(err error) bool { return errors.Is(err, context.Canceled) }
