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
