package authstore

import (
	"bytes"
	"context"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// What is left of a row that was damaged, moved, split or written in part: memory
// and disk agree, and nothing old comes back.

// A session that is built anew before the damaged one in its place was set aside
// stays.
func TestSessionInThePlaceOfADamagedOneStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 1)))
		key := rowKey(d, tSession, "1:0")
		require.NoError(t, c.Close(bg))
		kv.data[key] = "\x01\x00damaged"
		kv.setEpoch(2)
		c, d, _ = open(t, kv)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 5)))
		require.Equal(t, 1, kv.count(kindQuarantine), "kept before its place is taken")
		puts := kv.puts.Load()
		require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 2)))
		require.EqualValues(t, 1, kv.puts.Load()-puts, "it is set aside once")
		_, d, _ = reopen(t, kv, c)
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.NotNil(t, v)
		require.EqualValues(t, 5, sessionCounter(t, v))
	})
}

// Damaged rows that were set aside with another commit are not set aside again.
func TestDamagedRowIsSetAsideOnce(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	key := rowKey(d, tSession, "1:0")
	require.NoError(t, c.Close(bg))
	kv.data[key] = "\x01\x00damaged"
	kv.setEpoch(2)
	c, d, f := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 1)))
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.NoError(t, c.PurgeRows(bg, f))
	require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 2)))
	require.Zero(t, kv.count(kindQuarantine))
	require.Equal(t, 1, kv.count("session"))
}

// Of a write that takes several batches and is refused on the way, memory has what
// the disk has: a ratchet that is read from an older state would be used twice.
func TestMemoryHasWhatLandedOfARefusedWrite(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 60_000, MaxBatch: 100_000, MaxKeys: 10}
	c, d, _ := open(t, kv)
	addrs, older, newer := []string(nil), map[string][]byte{}, map[string][]byte{}
	for i := range 40 {
		a := types.NewJID(string(rune('a'+i)), types.DefaultUserServer).SignalAddress().String()
		addrs = append(addrs, a)
		older[a], newer[a] = validSession(t, 1), validSession(t, 2)
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, older))
	batches := 0
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && len(b.Put) > 1 {
			if batches++; batches > 2 {
				return ErrTooLarge
			}
		}
		return nil
	})
	require.ErrorIs(t, d.Sessions.PutManySessions(bg, newer), ErrTooLarge)
	kv.before.set(nil)
	counters := func() map[string]uint32 {
		out := make(map[string]uint32)
		got, err := d.Sessions.GetManySessions(bg, addrs)
		require.NoError(t, err)
		for a, v := range got {
			out[a] = sessionCounter(t, v)
		}
		return out
	}
	memory := counters()
	_, d, _ = reopen(t, kv, c)
	require.Equal(t, counters(), memory)
	landed := 0
	for _, n := range memory {
		landed += int(n) - 1
	}
	require.Greater(t, landed, 0)
	require.Less(t, landed, 40)
}

// The parts of a value go with it, and once: a row that shrank costs what others
// cost.
func TestPartsGoOnceWithTheirValue(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 4096, MaxBatch: 10_000, MaxKeys: 20}
	c, _, _ := open(t, kv)
	put := func(size int) (commits int64) {
		before := kv.Commits()
		require.NoError(t, c.PutMessageEntry(bg, "a", make([]byte, size), true))
		return kv.Commits() - before
	}
	put(20_000)
	require.NotZero(t, kv.count(kindPart))
	require.EqualValues(t, 2, put(1), "the value, and its parts")
	require.Zero(t, kv.count(kindPart))
	require.EqualValues(t, 1, put(2))
	put(20_000)
	c, _, _ = reopen(t, kv, c)
	c.cfg.background.Wait()
	require.EqualValues(t, 2, put(1), "of an earlier term, too")
	require.Zero(t, kv.count(kindPart))
	require.EqualValues(t, 1, put(2))
	require.EqualValues(t, 1, put(3))
}

// Close flushes what was deferred, and does not wait until it would have been due.
func TestCloseDoesNotWaitUntilADeferredWriteIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d, _ := open(t, newMapKV())
		user := types.NewJID("1", types.DefaultUserServer)
		_, _, err := d.Contacts.PutPushName(bg, user, "Bob")
		require.NoError(t, err)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1})) // due sooner
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		start := time.Now()
		require.NoError(t, c.Close(bg))
		require.Zero(t, time.Since(start))
	})
}

// whatsmeow stores again with each message what it has stored before.
func TestWhatIsStoredAgainUnchangedIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		user, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
		at := time.Unix(1_900_000_000, 0)
		round := func() {
			for name, err := range map[string]error{
				"identity": d.Identities.PutIdentity(bg, "1:0", [32]byte{1}),
				"key":      d.AppStateKeys.PutAppStateSyncKey(bg, []byte{0, 1}, store.AppStateSyncKey{Data: []byte("d"), Timestamp: 3}),
				"contact":  d.Contacts.PutContactName(bg, user, "Bob B.", "Bob"),
				"mute":     d.ChatSettings.PutMutedUntil(bg, user, at),
				"pin":      d.ChatSettings.PutPinned(bg, user, true),
				"archive":  d.ChatSettings.PutArchived(bg, user, true),
				"token":    d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: user, Token: []byte("t"), Timestamp: at}),
				"lid":      d.LIDs.PutLIDMapping(bg, lid, user),
				"secret":   d.MsgSecrets.PutMessageSecret(bg, user, user, "ID", []byte("secret")),
				"removed":  d.Identities.DeleteIdentity(bg, "7:0"),
				"save":     d.Save(bg),
			} {
				require.NoError(t, err, name)
			}
			_, _, err := d.Contacts.PutPushName(bg, user, "Bob")
			require.NoError(t, err)
			_, _, err = d.Contacts.PutBusinessName(bg, user, "Shop")
			require.NoError(t, err)
		}
		round()
		require.NoError(t, storeOf(d).flush("test"))
		commits := kv.Commits()
		round()
		require.Empty(t, storeOf(d).queue.dirty)
		time.Sleep(time.Minute)
		require.Equal(t, commits, kv.Commits())
	})
}

// A session that is removed, or written, while its row has still its plain name,
// is not found under that name after a crash.
func TestRowUnderItsPlainNameDoesNotComeBack(t *testing.T) {
	kv := plainNames(t)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	kv.before.set(func(op string, _ Batch) error {
		stack := make([]byte, 16<<10)
		if stack = stack[:runtime.Stack(stack, false)]; op == "scan" && bytes.Contains(stack, []byte("moveNames")) {
			<-hold
		}
		return nil
	})
	c := New(kv, nameSeal, WithSealedNames())
	d, err := c.Device(bg, newFence(kv.epoch))
	require.NoError(t, err)
	plain := func(addr string) (n int) {
		kv.mu.Lock()
		defer kv.mu.Unlock()
		for k := range kv.data {
			if k.Kind == "session" && strings.HasSuffix(k.ID, "/"+addr) {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, plain("15550103:0"))
	require.Equal(t, 1, plain("15550104:0"))
	require.NoError(t, d.Sessions.DeleteSession(bg, "15550103:0"))
	require.NoError(t, d.Sessions.PutSession(bg, "15550104:0", validSession(t, 900)))
	require.Zero(t, plain("15550103:0"))
	require.Zero(t, plain("15550104:0"))
	crashed := newMapKV()
	kv.mu.Lock()
	crashed.data, crashed.limits, crashed.epoch = maps.Clone(kv.data), kv.limits, kv.epoch+1
	kv.mu.Unlock()
	release()
	require.NoError(t, c.Close(bg))

	_, d, _ = open(t, crashed, nameSeal)
	has, err := d.Sessions.HasSession(bg, "15550103:0")
	require.NoError(t, err)
	require.False(t, has)
	v, err := d.Sessions.GetSession(bg, "15550104:0")
	require.NoError(t, err)
	require.EqualValues(t, 900, sessionCounter(t, v))
}

// A damaged row is kept although the first write over it was refused.
func TestDamagedRowIsKeptWhenAWriteOverItWasRefused(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	key := rowKey(d, tSession, "1:0")
	require.NoError(t, c.Close(bg))
	kv.data[key] = "\x01\x00damaged"
	kv.setEpoch(2)
	c, d, _ = open(t, kv)
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && len(b.Put) > 0 {
			return ErrTooLarge
		}
		return nil
	})
	require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)), ErrTooLarge)
	require.Zero(t, kv.count(kindQuarantine))
	kv.before.set(nil)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)))
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.NoError(t, c.Close(bg))
}

// A removal that is refused is no success: who removes the rows of a replaced
// device would forget those that are left.
func TestRemovalThatIsRefusedFails(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	gen := storeOf(d).gen
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && len(b.Delete) > 0 {
			return ErrTooLarge
		}
		return nil
	})
	pair(t, d, testJID(2))
	c.cfg.background.Wait()
	kv.before.set(nil)
	require.Contains(t, kv.data, Key{"session", gen + "/1:0"})
	h, err := New(kv).readHead(bg)
	require.NoError(t, err)
	require.Equal(t, []string{gen}, h.Purge)
	c, _, _ = reopen(t, kv, c)
	c.cfg.background.Wait()
	require.NotContains(t, kv.data, Key{"session", gen + "/1:0"}, "the next device goes on")
}

// The end of a term says so when something deferred was not written, also where
// that was on its way with another commit.
func TestEndOfTermSaysWhatWasOnItsWayAndNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		kv.before.set(func(op string, _ Batch) error {
			if op == "commit" {
				time.Sleep(time.Second)
			}
			return nil
		})
		var wrote, ended error
		var wg sync.WaitGroup
		wg.Go(func() { wrote = d.Sessions.PutSession(bg, "1:0", validSession(t, 1)) })
		synctest.Wait()
		wg.Go(func() { ended = c.EndTerm(bg) })
		synctest.Wait()
		kv.setEpoch(9)
		wg.Wait()
		require.ErrorIs(t, wrote, context.Canceled)
		require.ErrorIs(t, ended, ErrFenced)
	})
}

// An answer that comes late and is an error is no reason to end the term: the
// write is repeated.
func TestLateErrorOfAWriteIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		calls := 0
		kv.before.set(func(op string, _ Batch) error {
			if calls++; calls == 1 {
				time.Sleep(15 * time.Second)
				return errDown
			}
			return nil
		})
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.Equal(t, 2, calls)
		require.Zero(t, f.cuts.Load())
	})
}

// A write that is deferred while a commit is under way, also of a row of that commit, is
// written with the next one.
func TestWhatIsDeferredDuringACommitIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		kv.before.set(func(op string, _ Batch) error {
			if op == "commit" {
				time.Sleep(time.Second / 2)
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1))) })
		synctest.Wait()
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{2}))
		require.NoError(t, d.Identities.PutIdentity(bg, "2:0", [32]byte{2}))
		wg.Wait()
		time.Sleep(5 * soon)
		synctest.Wait()
		kv.before.set(nil)
		d = killed(t, kv)
		for _, addr := range []string{"1:0", "2:0"} {
			trusted, err := d.Identities.IsTrustedIdentity(bg, addr, [32]byte{3})
			require.NoError(t, err)
			require.False(t, trusted, addr)
			trusted, err = d.Identities.IsTrustedIdentity(bg, addr, [32]byte{2})
			require.NoError(t, err)
			require.True(t, trusted, addr)
		}
	})
}
