package authstore

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// endHangs calls end with a second's patience while a save does not come back.
// Whoever ends a term releases the lock next, so the device is over all the same.
func endHangs(t *testing.T, end func(c *Container, ctx context.Context) error) (kv *mapKV, c *Container, f *testFence, release func()) {
	t.Helper()
	kv = newMapKV()
	c, d, f := open(t, kv)
	require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
	release = kv.holdCommit("identity")
	ctx, cancel := context.WithTimeout(bg, time.Second)
	defer cancel()
	require.ErrorIs(t, end(c, ctx), context.DeadlineExceeded)
	err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
	require.ErrorIs(t, err, ErrSuperseded)
	require.ErrorIs(t, err, context.Canceled)
	return kv, c, f, release
}

func TestEndOfTermThatTakesTooLongEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _, release := endHangs(t, (*Container).EndTerm)
		release()
		require.NoError(t, c.EndTerm(bg), "there is none any more")
	})
}

func TestCloseWhoseFlushHangsEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, _, f, release := endHangs(t, (*Container).Close)
		require.EqualValues(t, 1, f.cuts.Load(), "nothing that it receives could be decrypted")
		release()
		synctest.Wait()
		require.Zero(t, kv.count("session"))
	})
}

// A term that ends while half a patch of the app state waits for the rest leaves
// nothing running: Close returns.
func TestCloseDoesNotWaitForHalfAPatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d, f := open(t, newMapKV())
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		f.lost.Store(true)
		f.setUntil(time.Now())
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled, "it finds the term over")
		ctx, cancel := context.WithTimeout(bg, time.Minute)
		defer cancel()
		_ = c.Close(ctx)
		require.NoError(t, ctx.Err())
	})
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

// A store is closed while a device is being read, and Close does not wait for it:
// the device is given to nobody, and writes nothing.
func TestDeviceThatIsReadWhileTheStoreClosesIsGivenToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, _, f := open(t, kv)
		read := make(chan struct{})
		kv.before.set(func(op string, _ Batch) error {
			if op != "commit" {
				<-read
			}
			return nil
		})
		type answer struct {
			d   *store.Device
			err error
		}
		loaded := make(chan answer, 1)
		go func() {
			d, err := c.Device(bg, f)
			loaded <- answer{d, err}
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		close(read)
		got := <-loaded
		require.ErrorIs(t, got.err, ErrSuperseded)
		require.Nil(t, got.d)
		commits := kv.Commits()
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Equal(t, commits, kv.Commits())
		require.NoError(t, c.Close(bg))
	})
}

// Somebody is at work with the Container for longer than a term has time to end. What
// was deferred is written all the same, and the device is over.
func TestEndOfTermWaitsForNobodyWithItsFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		_, _, err := d.Contacts.PutPushName(bg, testJID(2), "name")
		require.NoError(t, err)
		require.NoError(t, c.lock(bg))
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.EndTerm(ctx), context.DeadlineExceeded, "whoever is at work may yet load a device")
		require.Equal(t, 1, kv.count("contact"))
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrSuperseded)
		<-c.sem
		require.NoError(t, c.Close(bg))
	})
}
