package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
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

// A second call waits for the first one's answer: neither an earlier refusal nor
// an earlier outage says what that will be.
func TestTryActivateBesideAnotherOneHearsTheSame(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.named("a").run().pair()
			b := w.named("b")
			if down {
				b.wire.fail(anyCall)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.Error(t, b.m.Activate(ctx))
				require.Error(t, b.status().StoreUnavailable)
				b.wire.heal()
			} else {
				ok, err := b.m.TryActivate(t.Context())
				require.NoError(t, err)
				require.False(t, ok)
			}
			a.stop()
			b.wire.delay("acquire", time.Second)
			type answer struct {
				ok  bool
				err error
			}
			answers := make(chan answer)
			for range 2 {
				go func() {
					ok, err := b.m.TryActivate(t.Context())
					answers <- answer{ok, err}
				}()
			}
			for range 2 {
				require.Equal(t, answer{ok: true}, <-answers)
			}
			require.NoError(t, b.m.Close(t.Context()))
			w.close()
		})
	}
}

// A host by hand has tried once, and does nothing since.
func TestOutageOfAManagerThatDoesNothingEnds(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		err   error
		which func(string) bool
		ends  bool // without another activation
	}{
		"the backend does not answer": {errNoRoute, anyCall, true},
		"the lock does not answer":    {errNoRoute, lockCalls, true},
		"the lock refuses":            {backoff.Permanent(errNoRoute), only("acquire"), false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				all := &book{}
				a := w.named("a", stability.WithSink(all))
				a.wire.breakWith(row.which, row.err)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				require.Error(t, a.m.Activate(ctx))
				require.Error(t, a.status().StoreUnavailable)
				require.Equal(t, []guard.Change{opened}, all.of(storeDownID))
				time.Sleep(time.Hour)
				require.Error(t, a.status().StoreUnavailable, "nothing is mended")
				require.Equal(t, []guard.Change{opened}, all.of(storeDownID))
				a.wire.heal()
				time.Sleep(10 * time.Minute)
				require.Equal(t, row.ends, a.status().StoreUnavailable == nil)
				if !row.ends {
					ok, err := a.m.TryActivate(t.Context())
					require.NoError(t, err)
					require.True(t, ok)
					time.Sleep(10 * time.Minute)
				}
				require.NoError(t, a.status().StoreUnavailable)
				require.Equal(t, []guard.Change{opened, resolved}, all.of(storeDownID))
				require.NoError(t, a.m.Close(t.Context()))
				w.close()
			})
		})
	}
}
