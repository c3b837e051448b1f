package authstore

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A step of a decryption that begins a transaction of its own works on what the
// outer one holds and has written, and both are saved or neither is.
func TestNestedTransactionIsPartOfTheOuterOne(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			c, d, _ := open(t, kv)
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
			read := func(ctx context.Context, addr string) uint32 {
				v, err := d.Sessions.GetSession(ctx, addr)
				require.NoError(t, err)
				return sessionCounter(t, v)
			}
			before := kv.commits.Load()
			err := d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				require.EqualValues(t, 1, read(ctx, "1:0"))
				require.NoError(t, d.Sessions.PutSession(ctx, "1:0", validSession(t, 2)))
				require.NoError(t, d.EventBuffer.DoDecryptionTxn(ctx, func(ctx context.Context) error {
					require.EqualValues(t, 2, read(ctx, "1:0"))
					require.NoError(t, d.Sessions.PutSession(ctx, "1:0", validSession(t, 3)))
					return d.Sessions.PutSession(ctx, "2:0", validSession(t, 4))
				}))
				require.Equal(t, before, kv.commits.Load(), "nothing is saved before the end")
				require.EqualValues(t, 3, read(ctx, "1:0"))
				require.EqualValues(t, 4, read(ctx, "2:0"))
				if fails {
					return errDown
				}
				return nil
			})
			require.Equal(t, fails, err != nil)
			_, d, _ = reopen(t, kv, c)
			if fails {
				require.EqualValues(t, 1, read(bg, "1:0"))
				require.Zero(t, read(bg, "2:0"))
			} else {
				require.EqualValues(t, 3, read(bg, "1:0"))
				require.EqualValues(t, 4, read(bg, "2:0"))
			}
		})
	}
}

// A call that still has the context of a transaction that is over writes by itself.
func TestWriteAfterItsTransactionIsSaved(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	var after context.Context
	require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		after = ctx
		return d.Sessions.PutSession(ctx, "1:0", validSession(t, 1))
	}))
	require.NoError(t, d.Sessions.PutSession(after, "2:0", validSession(t, 2)))
	v, err := d.Sessions.GetSession(bg, "2:0")
	require.NoError(t, err)
	require.EqualValues(t, 2, sessionCounter(t, v))
	require.Error(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		after = ctx
		_ = d.Sessions.PutSession(ctx, "3:0", validSession(t, 3))
		return context.DeadlineExceeded
	}))
	require.NoError(t, d.Sessions.PutSession(after, "4:0", validSession(t, 4)))
	_, d, _ = reopen(t, kv, c)
	for addr, want := range map[string]bool{"1:0": true, "2:0": true, "3:0": false, "4:0": true} {
		has, err := d.Sessions.HasSession(bg, addr)
		require.NoError(t, err)
		require.Equal(t, want, has, addr)
	}
}
