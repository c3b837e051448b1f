package authstore

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A message that arrives while its contact's session is being removed, or moved,
// does not bring it back: it waits until that is written.
func TestReceiveWaitsForADeleteThatIsBeingWritten(t *testing.T) {
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	for name, remove := range map[string]func(d *store.Device) error{
		"deleted": func(d *store.Device) error { return d.Sessions.DeleteSession(bg, "1:0") },
		"moved":   func(d *store.Device) error { return d.Sessions.MigratePNToLID(bg, pn, lid) },
	} {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			_, d, _ := open(t, kv)
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
			kv.before.set(func(op string, _ Batch) error {
				if op == "commit" {
					time.Sleep(time.Second)
				}
				return nil
			})
			var wg sync.WaitGroup
			wg.Go(func() { require.NoError(t, remove(d)) })
			synctest.Wait()
			require.NoError(t, receiveStep(t, d, "1:0", 0))
			wg.Wait()
			v, err := d.Sessions.GetSession(bg, "1:0")
			require.NoError(t, err)
			require.EqualValues(t, 1, sessionCounter(t, v), "%s: begun anew", name)
		})
	}
}

// In a receive nothing waits for what the receive itself has read, and all of it
// is undone together.
func TestReceiveMayRemoveAndMoveWhatItHasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
		for _, a := range []string{"1:0", "2:0", "3:0"} {
			require.NoError(t, d.Sessions.PutSession(bg, a, validSession(t, 7)))
		}
		has := func(ctx context.Context, a string) bool {
			t.Helper()
			ok, err := d.Sessions.HasSession(ctx, a)
			require.NoError(t, err)
			return ok
		}
		start := time.Now()
		steps := func(ctx context.Context) error {
			got, err := d.Sessions.GetManySessions(ctx, []string{"1:0", "2:0", "3:0"})
			require.NoError(t, err)
			require.Len(t, got, 3)
			require.NoError(t, d.Sessions.DeleteSession(ctx, "2:0"))
			require.NoError(t, d.Sessions.DeleteAllSessions(ctx, "3"))
			require.NoError(t, d.Sessions.MigratePNToLID(ctx, pn, lid))
			require.Equal(t, []bool{false, false, false, true}, []bool{has(ctx, "1:0"), has(ctx, "2:0"), has(ctx, "3:0"), has(ctx, "900_1:0")})
			return nil
		}
		require.ErrorIs(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			require.NoError(t, steps(ctx))
			return context.Canceled
		}), context.Canceled)
		require.Equal(t, []bool{true, true, true, false}, []bool{has(bg, "1:0"), has(bg, "2:0"), has(bg, "3:0"), has(bg, "900_1:0")})
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, steps))
		require.Equal(t, []bool{false, false, false, true}, []bool{has(bg, "1:0"), has(bg, "2:0"), has(bg, "3:0"), has(bg, "900_1:0")})
		require.Zero(t, time.Since(start))
	})
}

// The rows that a receive reads or removes are its own until it ends: a send to
// that contact waits, or starts from what the receive leaves.
func TestReceiveHoldsWhatItReadsAndRemoves(t *testing.T) {
	for name, step := range map[string]func(ctx context.Context, d *store.Device) error{
		"read many": func(ctx context.Context, d *store.Device) error {
			return second(d.Sessions.GetManySessions(ctx, []string{"1:0"}))
		},
		"ask":        func(ctx context.Context, d *store.Device) error { return second(d.Sessions.HasSession(ctx, "1:0")) },
		"delete":     func(ctx context.Context, d *store.Device) error { return d.Sessions.DeleteSession(ctx, "1:0") },
		"delete all": func(ctx context.Context, d *store.Device) error { return d.Sessions.DeleteAllSessions(ctx, "1") },
		"put": func(ctx context.Context, d *store.Device) error {
			return d.Sessions.PutSession(ctx, "1:0", validSession(t, 3))
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, d, _ := open(t, newMapKV())
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 7)))
			var wg sync.WaitGroup
			wg.Go(func() {
				require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
					err := step(ctx, d)
					time.Sleep(time.Second)
					return err
				}))
			})
			synctest.Wait()
			start := time.Now()
			require.NoError(t, sendStep(t, d, []string{"1:0"}, 0))
			require.Equal(t, time.Second, time.Since(start), name)
			wg.Wait()
		})
	}
}

// A receive that changed nothing is not done when the term ended under it: the
// message is not to be acknowledged.
func TestReceiveWithoutAChangeOnAnEndedDeviceIsCanceled(t *testing.T) {
	c, d, _ := open(t, newMapKV())
	require.ErrorIs(t, d.EventBuffer.DoDecryptionTxn(bg, func(context.Context) error { return c.EndTerm(bg) }), context.Canceled)
}
