package authstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// holdCommit makes the next commit that puts a row of kind wait until release.
func (m *mapKV) holdCommit(kind Kind) (release func()) {
	gate := make(chan struct{})
	m.before.set(func(_ string, b Batch) error {
		if slices.ContainsFunc(b.Put, func(e Entry) bool { return e.Key.Kind == kind }) {
			<-gate
		}
		return nil
	})
	return func() { close(gate) }
}

// refuse makes every commit fail for good that puts a row of kind.
func (m *mapKV) refuse(kind Kind) {
	m.before.set(func(_ string, b Batch) error {
		if slices.ContainsFunc(b.Put, func(e Entry) bool { return e.Key.Kind == kind }) {
			return ErrTooLarge
		}
		return nil
	})
}

func TestNewerValueOutlivesTheSaveOfAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		release := kv.holdCommit("session")
		done := make(chan error, 1)
		go func() {
			done <- d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				if err := d.Identities.PutIdentity(ctx, "1:0", [32]byte{1}); err != nil {
					return err
				}
				return d.Sessions.PutSession(ctx, "1:0", validSession(t, 1))
			})
		}()
		synctest.Wait()
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{2}))
		release()
		require.NoError(t, <-done)
		ok, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
		require.NoError(t, err)
		require.True(t, ok, "in memory")
		_, d, _ = reopen(t, kv, c)
		ok, err = d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{2})
		require.NoError(t, err)
		require.True(t, ok, "and on disk")
	})
}

func TestRefusedRowDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		kv.refuse("contact")
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "too long")
		require.NoError(t, err)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.Equal(t, 1, kv.count("session"))
		require.Equal(t, 1, kv.count("identity"))
		require.Zero(t, kv.count("contact"))
		require.Zero(t, f.cuts.Load())
	})
}

// A damaged row that is on its way out stays on it when the commit that takes
// it along is refused.
func TestRefusedCommitKeepsTheDamagedRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.NoError(t, c.Close(bg))
		for k, v := range kv.data {
			if k.Kind == "session" {
				kv.data[k] = v[:len(v)-1] + "\x00"
			}
		}
		refused := false
		kv.before.set(func(_ string, b Batch) error {
			if !refused && slices.ContainsFunc(b.Put, func(e Entry) bool { return e.Key.Kind == kindQuarantine }) {
				refused = true
				return ErrTooLarge
			}
			return nil
		})
		kv.setEpoch(2)
		_, d, _ = open(t, kv)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.Nil(t, v)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, refused)
		require.Equal(t, 1, kv.count(kindQuarantine))
		require.Zero(t, kv.count("session"))
	})
}

// Where one batch cannot hold them all, a crash between two must find the event
// before its session, and the prekey until the session is there.
func TestBatchesOfOneCommitLandInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		kv.limits = Limits{MaxKeys: 1}
		_, d, _ := open(t, kv)
		_, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
		require.NoError(t, err)
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 1, [128]byte{}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 1, []store.AppStateMutationMAC{{IndexMAC: []byte{1}, ValueMAC: []byte{1}}}))
		require.NoError(t, storeOf(d).flush("t"))
		var landed []string
		kv.before.set(func(_ string, b Batch) error {
			for _, e := range b.Put {
				landed = append(landed, string(e.Key.Kind))
			}
			for _, k := range b.Delete {
				landed = append(landed, "-"+string(k.Kind))
			}
			return nil
		})
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			_ = d.Identities.PutIdentity(ctx, "1:0", [32]byte{1})
			_ = d.Sessions.PutSession(ctx, "1:0", validSession(t, 1))
			_ = d.PreKeys.RemovePreKey(ctx, 2)
			return d.EventBuffer.PutBufferedEvent(ctx, [32]byte{1}, []byte("hello"), time.Unix(1, 0))
		}))
		require.Equal(t, []string{"event", "identity", "session", "prekey"}, landed)

		// A version without its MACs, or with another's, never syncs again: so
		// there is none until they are there.
		landed = nil
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 2, [128]byte{}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 2, []store.AppStateMutationMAC{{IndexMAC: []byte{2}, ValueMAC: []byte{2}}}))
		require.NoError(t, storeOf(d).flush("t"))
		require.Equal(t, []string{"-appstate", "appmac", "appstate"}, landed)
	})
}

func TestSoonerFlushIsNotPutOffByALaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "Bob") // within five seconds
		require.NoError(t, err)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1})) // within one
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, kv.count("identity"))
	})
}

func secrets(from, to int) (list []store.MessageSecretInsert) {
	for i := from; i < to; i++ {
		list = append(list, store.MessageSecretInsert{Chat: testJID(1), Sender: testJID(2), ID: fmt.Sprint(i), Secret: []byte{byte(i)}})
	}
	return list
}

func TestManyDeferredRowsAreFlushedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets(0, maxLate+1)))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Equal(t, maxLate+1, kv.count("secret"))
	})
}

// A long term does not collect every secret that it has seen; and drops none
// before it is saved.
func TestSecretsLeaveMemoryWhenTheyAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets(0, 300)))
		release := kv.holdCommit("secret")
		flushed := make(chan error, 1)
		go func() { flushed <- storeOf(d).flush("t") }()
		synctest.Wait()
		require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets(300, 301))) // while they are being saved
		release()
		require.NoError(t, <-flushed)
		s := storeOf(d)
		s.mu.Lock()
		kept := slices.Collect(maps.Keys(s.im.flat[tSecret]))
		s.mu.Unlock()
		require.LessOrEqual(t, len(kept), 1)
		_, d, _ = reopen(t, kv, c)
		for _, id := range []string{"0", "299", "300"} {
			secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), id)
			require.NoError(t, err)
			require.NotNil(t, secret, id)
		}
	})
}

// An account whose device lost its record is damaged, and no new one: a code
// would be offered, and the session replaced.
func TestDeviceWithoutItsRecordIsDamage(t *testing.T) {
	kv := newMapKV()
	c, _, _ := open(t, kv)
	require.NoError(t, c.Close(bg))
	maps.DeleteFunc(kv.data, func(k Key, _ string) bool { return k.Kind == "device" })
	before := maps.Clone(kv.data)
	_, err := New(kv).Device(bg, newFence(kv.epoch))
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, before, kv.data, "left untouched")
}

func TestNoTwoSealedValuesAreAlike(t *testing.T) {
	a := NewAESGCM([32]byte{1})
	one, err := a.Encrypt([]byte("text"), []byte("path"))
	require.NoError(t, err)
	two, err := a.Encrypt([]byte("text"), []byte("path"))
	require.NoError(t, err)
	require.NotEqual(t, one, two)
}

// While calls fail and the socket is up whatsmeow would acknowledge what could
// not be saved.
func TestSocketIsCutBeforeAnyCallFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		var atCut error
		f.onCut = func() { _, atCut = d.Sessions.HasSession(bg, "1:0") }
		kv.setEpoch(9)
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled)
		require.EqualValues(t, 1, f.cuts.Load())
		require.NoError(t, atCut)
		_, err := d.Sessions.HasSession(bg, "1:0")
		require.ErrorIs(t, err, context.Canceled)
	})
}

// A term whose trust is paused may be over already: nothing is written before a
// renewal has confirmed it.
func TestPausedTermWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		before := kv.commits.Load()
		f.lost.Store(true)
		done := make(chan error, 1)
		go func() { done <- d.Sessions.PutSession(bg, "1:0", validSession(t, 1)) }()
		time.Sleep(5 * time.Second)
		require.Equal(t, before, kv.commits.Load())
		f.lost.Store(false)
		require.NoError(t, <-done)
		require.Equal(t, before+1, kv.commits.Load())
	})
}

// Two clients on one account would undo each other's sessions, in one term as
// in two.
func TestEarlierDeviceOfATermIsOver(t *testing.T) {
	kv := newMapKV()
	c, first, f := open(t, kv)
	second, err := c.Device(bg, f)
	require.NoError(t, err)
	require.NoError(t, second.Sessions.PutSession(bg, "1:0", validSession(t, 2)))
	require.ErrorIs(t, first.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled)
	require.ErrorIs(t, first.Identities.PutIdentity(bg, "1:0", [32]byte{1}), context.Canceled)
	v, err := second.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.EqualValues(t, 2, sessionCounter(t, v))
}
