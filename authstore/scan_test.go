package authstore

import (
	"context"
	"errors"
	"iter"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

// rangedKV reads several ranges in one request, which may break off.
type rangedKV struct {
	*mapKV
	broken error // after the first entries
	whole  bool  // or before any
}

func (k *rangedKV) ScanRanges(ctx context.Context, ranges ...Range) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		n := 0
		for _, r := range ranges {
			for e, err := range k.Scan(ctx, r.Kind, r.IDPrefix) {
				if n++; k.broken != nil && (k.whole || n > 5) {
					yield(Entry{}, k.broken)
					return
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// Tables that are read in one request, which breaks off, are neither a shorter
// account nor a damaged one.
func TestBrokenOffScanOfAllTablesIsAnOutage(t *testing.T) {
	kv := &rangedKV{mapKV: newMapKV()}
	c, d, _ := open(t, kv.mapKV)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	before := maps.Clone(kv.data)
	for _, whole := range []bool{false, true} {
		kv.broken, kv.whole = errors.New("the connection broke"), whole
		_, err := New(kv).Device(bg, newFence(kv.epoch))
		require.ErrorIs(t, err, kv.broken)
		require.NotErrorIs(t, err, ErrCorrupt)
		require.Equal(t, before, kv.data)
	}
	kv.broken = nil
	c = New(kv)
	d, err := c.Device(bg, newFence(kv.epoch))
	require.NoError(t, err)
	require.Equal(t, testJID(1), *d.ID)
	v, err := d.Sessions.GetSession(bg, "15550100:0")
	require.NoError(t, err)
	require.NotNil(t, v)
	require.NoError(t, c.Close(bg))
}
