package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
)

// TryActivate answers at once, whatever an Activate beside it waits for.
func TestTryActivateDoesNotWaitForAnActivateThatStandsBy(t *testing.T) {
	t.Parallel()
	at := func(t *testing.T, h *named) (bool, error) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ok, err := h.m.TryActivate(ctx)
		require.Zero(t, time.Since(start))
		return ok, err
	}
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.named("a").run().pair()
			b := w.named("b")
			if down {
				b.wire.fail(anyCall)
			}
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- b.m.Activate(ctx) }()
			time.Sleep(2 * time.Minute)
			ok, err := at(t, b)
			require.False(t, ok)
			if down {
				require.ErrorIs(t, err, errNoRoute)
			} else {
				require.NoError(t, err)
				a.stop()
				require.NoError(t, <-result)
				ok, err = at(t, b)
				require.NoError(t, err)
				require.True(t, ok)
			}
			cancel()
			if down {
				require.Error(t, <-result)
				b.wire.heal()
				a.stop()
			}
			require.NoError(t, b.m.Close(t.Context()))
			w.close()
		})
	}
}

// A host by hand has tried once, and does nothing since.
func TestOutageOfAManagerThatDoesNothingEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		all := &book{}
		a := w.named("a", stability.WithSink(all))
		a.wire.fail(anyCall)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		require.Error(t, a.m.Activate(ctx))
		require.Error(t, a.status().StoreUnavailable)
		require.Equal(t, []guard.Change{opened}, all.of(storeDownID))
		time.Sleep(time.Hour)
		require.Error(t, a.status().StoreUnavailable, "nothing has answered")
		a.wire.heal()
		time.Sleep(10 * time.Minute)
		require.NoError(t, a.status().StoreUnavailable)
		require.Equal(t, []guard.Change{opened, resolved}, all.of(storeDownID))
		require.NoError(t, a.m.Close(t.Context()))
		w.close()
	})
}
