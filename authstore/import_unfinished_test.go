package authstore

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnUnfinishedImportCanBeDropped(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, to.count("session"))
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	to.mu.Lock()
	require.Empty(t, to.data)
	to.mu.Unlock()

	// And a device that is paired beside one is not mixed up with it.
	ctx, cancel = context.WithCancel(bg)
	_, err = Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	c, d, tf := open(t, to)
	ok, err := d.Sessions.HasSession(bg, "15550100:0")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = Import(bg, FromKV("old", kv, f), c, tf)
	require.ErrorIs(t, err, ErrTargetPaired)
}

func TestAnUnfinishedImportGoesOnUnderANewKey(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	to := newMapKV()
	to.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, src, New(to, WithAEAD(NewAESGCM([32]byte{1}))), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, New(to, WithAEAD(NewAESGCM([32]byte{2}, [32]byte{1}))).Reseal(bg, newFence(1), nil))
	key := WithAEAD(NewAESGCM([32]byte{2}))
	r, err := Import(bg, src, New(to, key), newFence(1))
	require.NoError(t, err)
	require.True(t, r.Resumed)
	require.Positive(t, r.Kept)
	require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1), key)))
}

// An import that was dropped leaves nothing, and no part of a value either: the
// account is paired as if it had never been.
func TestDroppedImportLeavesNoParts(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	to.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "outgoing" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, to.count(kindPart))
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	require.Empty(t, to.data)
	open(t, to)
}
