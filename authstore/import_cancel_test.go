package authstore

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An import may be cancelled while the entries about received messages are copied,
// which come last. The device stays where it is, and so do they: with some of
// them on both sides both accounts would hand over the same messages.
func TestCancelledImportBringsNoMessage(t *testing.T) {
	kv, from := source(t)
	c := New(kv)
	_, err := c.Device(bg, from)
	require.NoError(t, err)
	for i := range importRows + 50 {
		require.NoError(t, c.PutMessageEntry(bg, fmt.Sprint("entry ", i), []byte("waits"), false))
	}
	require.NoError(t, c.Close(bg))

	to, f := newMapKV(), newFence(1)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	_, err = Import(ctx, FromKV("old", kv, from), New(to), f, OnProgress(func(p Progress) {
		if p.Phase == "copy" && p.Kind == "message" && p.Done > 0 && ctx.Err() == nil {
			require.Positive(t, to.count("message"))
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, to.count("message"))
	report, err := Import(bg, FromKV("old", kv, from), New(to), f)
	require.NoError(t, err)
	require.True(t, report.Resumed)
	require.Equal(t, kv.count("message"), to.count("message"))
}

// The target hangs while the import looks at what stands there. Whoever gives the
// import up gets the Container back at once.
func TestCancelledImportWaitsForNoLookAtTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, from := source(t)
		to := &largeKV{mapKV: newMapKV()}
		to.takes.Store(int64(time.Hour))
		c := New(to)
		began := time.Now()
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err := Import(ctx, FromKV("old", kv, from), c, newFence(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, c.Close(bg))
	})
}
