package authstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever ends a term releases the lock next, so the device is over even if its
// last save does not come back.
func TestEndOfTermThatTakesTooLongEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		release := kv.holdCommit("identity")
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.EndTerm(ctx), context.DeadlineExceeded)
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, ErrSuperseded)
		require.ErrorIs(t, err, context.Canceled)
		release()
		require.NoError(t, c.EndTerm(bg), "there is none any more")
	})
}

// The last flush of a Close may hang. Whoever closes releases the lock next, so
// the device is over when Close has given up.
func TestCloseWhoseFlushHangsEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		release := kv.holdCommit("identity")
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, ErrSuperseded)
		require.ErrorIs(t, err, context.Canceled)
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
