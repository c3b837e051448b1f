package authstore

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
)

// watchedSource calls opened when an import opens it.
type watchedSource struct {
	Source
	opened func()
}

func (w watchedSource) open(ctx context.Context) (view, error) {
	w.opened()
	return w.Source.open(ctx)
}

// A phone scans the code of the target while an import is about to fill it. Of the
// two one happens, and the other is told.
func TestPairingBesideAnImportIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, from := source(t)
		f := newFence(1)
		c := New(newMapKV())
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		jid := testJID(7)
		d.ID, d.Account = &jid, &waAdv.ADVSignedDeviceIdentity{}
		pairing := make(chan error, 1)
		var once sync.Once
		_, err = Import(bg, watchedSource{FromKV("old", kv, from), func() {
			once.Do(func() {
				go func() { pairing <- d.Save(bg) }()
				synctest.Wait()
			})
		}}, c, f)
		require.NoError(t, err)
		require.ErrorIs(t, <-pairing, ErrSuperseded)
		d, err = c.Device(bg, f)
		require.NoError(t, err)
		require.Equal(t, testJID(1), *d.ID)
		require.NoError(t, c.Close(bg))
	})
}
