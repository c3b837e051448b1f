package authstore

import (
	"bytes"
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// largeKV is a KV of an account that is so large that a look at a table takes longer
// than any other call may.
type largeKV struct {
	*mapKV
	takes atomic.Int64 // ns of each Scan, as long as the context allows it
}

func (k *largeKV) Scan(ctx context.Context, kind Kind, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		select {
		case <-time.After(time.Duration(k.takes.Load())):
			k.mapKV.Scan(ctx, kind, prefix)(yield)
		case <-ctx.Done():
			yield(Entry{}, ctx.Err())
		}
	}
}

// leave puts rows there that nobody can read.
func (m *mapKV) leave(keys ...Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		m.data[k] = "x"
	}
}

// openLarge gives a paired device whose tables take a quarter of a minute from
// now on.
func openLarge(t *testing.T, opts ...Option) (*largeKV, *Container, *store.Device, *testFence) {
	t.Helper()
	kv := &largeKV{mapKV: newMapKV()}
	c, f := New(kv, opts...), newFence(1)
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(1))
	login(t, d)
	t.Cleanup(func() { require.NoError(t, c.Close(bg)) })
	kv.takes.Store(int64(15 * time.Second))
	return kv, c, d, f
}

// A read of a whole table takes as long as the table is large, and the connection
// stays up meanwhile.
func TestLookAtALargeTableSucceedsAndEndsNothing(t *testing.T) {
	secret := func(t *testing.T, d *store.Device, id string) {
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(2), testJID(2), types.MessageID(id), []byte("secret")))
		require.NoError(t, storeOf(d).flush("test"))
	}
	for name, look := range map[string]func(t *testing.T, kv *largeKV, c *Container, d *store.Device, f *testFence){
		"purge of a replaced device": func(t *testing.T, kv *largeKV, _ *Container, d *store.Device, _ *testFence) {
			kv.leave(Key{"secret", "dold/1"})
			kv.leave(Key{"part", "dold/2"})
			s := storeOf(d)
			require.NoError(t, s.editHead("test", func(h *head) { h.Purge = []string{"dold"} }))
			s.purgeInBackground()
			time.Sleep(time.Hour)
			require.Zero(t, kv.count("secret")+kv.count("part"))
			require.Zero(t, locked(s, func() int { return len(s.head.Purge) }))
		},
		"parts that nothing refers to": func(t *testing.T, kv *largeKV, _ *Container, d *store.Device, _ *testFence) {
			part := Key{kindPart, storeOf(d).gen + "/secret-0"}
			kv.leave(part)
			s := storeOf(d)
			s.upkeep.loose.doubt(tSecret, part)
			s.purgeInBackground()
			time.Sleep(time.Hour)
			require.Zero(t, kv.count(kindPart))
		},
		"export": func(t *testing.T, _ *largeKV, c *Container, d *store.Device, _ *testFence) {
			secret(t, d, "1")
			var archive bytes.Buffer
			r, err := Export(bg, FromContainer(c), &archive, [32]byte{1})
			require.NoError(t, err)
			require.Equal(t, 1, r.Entries["secret"])
		},
		"sweep": func(t *testing.T, kv *largeKV, _ *Container, d *store.Device, _ *testFence) {
			storeOf(d).sweep() // it notes when
			secret(t, d, "old")
			time.Sleep(181 * aDay)
			storeOf(d).sweep()
			time.Sleep(time.Minute)
			secret(t, d, "new")
			require.Equal(t, 1, kv.count("secret"))
		},
		"sent messages that are old": func(t *testing.T, kv *largeKV, _ *Container, d *store.Device, _ *testFence) {
			for i := range packedCount {
				sendKept(t, d, i)
			}
			require.NoError(t, storeOf(d).flush("test"))
			require.Equal(t, 1, kv.count("outgoing"))
			time.Sleep(8 * aDay)
			require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
			time.Sleep(time.Minute)
			require.Zero(t, kv.count("outgoing"))
		},
		"sent message": func(t *testing.T, _ *largeKV, _ *Container, d *store.Device, _ *testFence) {
			text, err := storeOf(d).Sent(bg, testJID(2), types.EmptyJID, "nothing")
			require.NoError(t, err)
			require.Nil(t, text)
		},
		"purge of a deleted device": func(t *testing.T, kv *largeKV, c *Container, d *store.Device, f *testFence) {
			require.NoError(t, d.Delete(bg))
			kv.takes.Store(0)
			_, err := c.Device(bg, f)
			require.NoError(t, err)
			kv.takes.Store(int64(15 * time.Second))
			require.NoError(t, c.PurgeDevice(bg, f))
			require.Zero(t, kv.count("device"))
		},
		"reseal": func(t *testing.T, _ *largeKV, c *Container, _ *store.Device, f *testFence) {
			require.NoError(t, c.Reseal(bg, f, nil))
		},
		"list and purge of damaged rows": func(t *testing.T, kv *largeKV, c *Container, d *store.Device, f *testFence) {
			kv.leave(Key{kindQuarantine, "1"})
			_, err := c.Quarantined(bg)
			require.NoError(t, err)
			require.NoError(t, c.PurgeRows(bg, f))
			require.Zero(t, kv.count(kindQuarantine))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv, c, d, f := openLarge(t)
				look(t, kv, c, d, f)
				require.Zero(t, f.cuts.Load())
				s := storeOf(d)
				s.mu.Lock()
				state := s.head.State
				s.mu.Unlock()
				if state == statePaired {
					require.NoError(t, s.gate.check("test"))
				}
			})
		})
	}
}

func TestSealingTheNamesOfALargeAccountEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &largeKV{mapKV: newMapKV()}
		c, f := New(kv), newFence(1)
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(1))
		require.NoError(t, c.Close(bg))
		c = New(kv, WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed(), WithSealedNames())
		f = newFence(1)
		d, err = c.Device(bg, f)
		require.NoError(t, err)
		kv.takes.Store(int64(15 * time.Second))
		time.Sleep(time.Hour)
		require.Zero(t, f.cuts.Load())
		require.False(t, storeOf(d).names.Load().moving.Load())
		require.NoError(t, c.Close(bg))
	})
}

func TestLargeAccountMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, c, d, f := openLarge(t)
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(2), testJID(2), "1", []byte("secret")))
		require.NoError(t, c.Close(bg))
		to := &largeKV{mapKV: newMapKV()}
		to.takes.Store(int64(15 * time.Second))
		target := New(to)
		_, err := Import(bg, FromKV("old", from, f), target, newFence(1))
		require.NoError(t, err)
		require.Equal(t, 1, to.count("secret"))
		require.NoError(t, target.Close(bg))
	})
}

// A device whose tables take long is loaded in the end, and a store that hangs does
// not hold the first attempts up for long.
func TestLargeDeviceIsLoadedByALaterAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, c, _, f := openLarge(t)
		began := time.Now()
		_, err := c.Device(bg, f)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 10*time.Second, time.Since(began))
		_, err = c.Device(bg, f)
		require.NoError(t, err)

		kv.takes.Store(int64(24 * time.Hour))
		for range 20 {
			_, err = c.Device(bg, f)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		began = time.Now()
		_, err = c.Device(bg, f)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 10*time.Minute, time.Since(began), "it does not grow without end")
	})
}

// The caller of a load may have no more time than one call has.
func TestLoadThatItsCallerCutShortCountsAsTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _, f := openLarge(t)
		ctx, cancel := context.WithTimeout(bg, 10*time.Second-time.Millisecond)
		defer cancel()
		_, err := c.Device(ctx, f)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.Device(bg, f)
		require.NoError(t, err)
	})
}

// A purge that meets an outage does not end the term, and is finished later in it.
func TestPurgeThatMetAnOutageIsFinishedInTheSameTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		login(t, d)
		kv.leave(Key{"secret", "dold/1"})
		s := storeOf(d)
		require.NoError(t, s.editHead("test", func(h *head) { h.Purge = []string{"dold"} }))
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				return errDown
			}
			return nil
		})
		s.purgeInBackground()
		time.Sleep(30 * time.Minute)
		require.Zero(t, f.cuts.Load())
		require.Equal(t, 1, kv.count("secret"))
		kv.before.set(nil)
		time.Sleep(time.Hour)
		require.Zero(t, kv.count("secret"))
	})
}

// Nobody waits for a look that was begun by a device that is over.
func TestLookEndsWithItsDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, c, d, _ := openLarge(t)
		kv.takes.Store(int64(5 * time.Minute))
		require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
		synctest.Wait()
		began := time.Now()
		require.NoError(t, c.Close(bg))
		require.Zero(t, time.Since(began))
	})
}

// The list of damaged rows is read beside whatever ends or loads the device.
func TestPurgeOfDamagedRowsHoldsUpNoDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, c, _, f := openLarge(t)
		kv.leave(Key{kindQuarantine, "1"})
		kv.takes.Store(int64(5 * time.Minute))
		purged := make(chan error)
		began := time.Now()
		go func() { purged <- c.PurgeRows(bg, f) }()
		synctest.Wait()
		kv.takes.Store(0)
		require.NoError(t, c.EndTerm(bg))
		_, err := c.Device(bg, f)
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
		require.NoError(t, <-purged)
		require.Zero(t, kv.count(kindQuarantine))
	})
}

func TestCloseEndsAMoveOfNamesWithoutADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, c, _, f := openLarge(t)
		require.NoError(t, c.Close(bg))
		c = New(kv, WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed(), WithSealedNames())
		kv.takes.Store(int64(5 * time.Minute))
		moved := make(chan error)
		go func() { moved <- c.moveNames(bg, f) }()
		synctest.Wait()
		began := time.Now()
		closed := make(chan error)
		go func() { closed <- c.Close(bg) }()
		require.ErrorIs(t, <-moved, ErrSuperseded)
		require.NoError(t, <-closed)
		require.Zero(t, time.Since(began))
	})
}

// However long a call may take: a commit that hangs is waited for as long as an
// outage, for nothing can be acknowledged meanwhile.
func TestLongCallTimeoutDoesNotLengthenAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv, WithCallTimeout(5*time.Minute), WithOutagePatience(time.Second))
		release := kv.holdCommit("session")
		defer release()
		began := time.Now()
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled)
		require.Equal(t, time.Second, time.Since(began))
		require.EqualValues(t, 1, f.cuts.Load())
	})
}
