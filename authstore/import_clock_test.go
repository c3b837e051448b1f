package authstore

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A clock may say the same twice: it was set back, or the machine went back to a
// snapshot. An import over an imported device still has rows of its own, and the
// purge of those before does not take them.
func TestImportAtTheTimeOfTheOneBeforeKeepsItsRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time stands still
		kv, f := source(t)
		src := FromKV("old", kv, f)
		var archive bytes.Buffer
		_, err := Export(bg, src, &archive, archiveKey)
		require.NoError(t, err)
		to := newMapKV()
		c := New(to)
		_, err = Import(bg, src, c, newFence(1))
		require.NoError(t, err)
		_, err = Restore(bg, &archive, archiveKey, c, newFence(1), RestoredUnchanged(), ReplaceDevice())
		require.NoError(t, err)
		d, err := c.Device(bg, newFence(1))
		require.NoError(t, err)
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{77}, []byte("text"), time.Now())) // it has logged in
		c.cfg.background.Wait()                                                                          // the purge
		require.NoError(t, c.Close(bg))
		h, err := New(to).readHead(bg)
		require.NoError(t, err)
		require.Empty(t, h.Purge)
		require.Nil(t, h.Kept)
		is := tables(t, FromKV("new", to, newFence(1)))
		for kind, rows := range tables(t, src) {
			for id, value := range rows {
				if kind != "misc" && kind != "event" {
					require.Equal(t, value, is[kind][id], "%s %s", kind, id)
				}
			}
		}
	})
}
