package authstore

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowSource is a source that takes a while to open: meanwhile something happens.
type slowSource struct {
	Source
	meanwhile func()
}

func (s *slowSource) open(ctx context.Context) (view, error) {
	if f := s.meanwhile; f != nil {
		s.meanwhile = nil
		f()
	}
	return s.Source.open(ctx)
}

// An import looks at its target, and then at its source, which may take a while. The
// phone may scan the code in between.
func TestImportDoesNotOverwriteADeviceThatIsPairedMeanwhile(t *testing.T) {
	setup := func(t *testing.T) (kv *mapKV, c *Container, f *testFence, src Source) {
		from, held := source(t)
		kv, f = newMapKV(), newFence(1)
		c = New(kv)
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		return kv, c, f, &slowSource{FromKV("old", from, held), func() { pair(t, d, testJID(2)) }}
	}
	t.Run("it stays", func(t *testing.T) {
		_, c, f, src := setup(t)
		_, err := Import(bg, src, c, f)
		require.ErrorIs(t, err, ErrTargetPaired)
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		require.Equal(t, testJID(2), *d.ID)
		require.NoError(t, c.Close(bg))
	})
	t.Run("its rows go when it is replaced", func(t *testing.T) {
		kv, c, f, src := setup(t)
		_, err := Import(bg, src, c, f, ReplaceDevice())
		require.NoError(t, err)
		h, err := c.readHead(bg)
		require.NoError(t, err)
		require.Equal(t, testJID(1).String(), h.JID)
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		login(t, d)
		c.cfg.background.Wait()
		require.NoError(t, c.Close(bg))
		for k := range kv.data {
			if k.Kind == "device" {
				require.True(t, strings.HasPrefix(k.ID, h.Gen+"/"), k.ID)
			}
		}
	})
}
