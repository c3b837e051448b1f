package stability_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
)

// Whoever observes later hears the same transitions in the same order, and
// another observer that hangs does not keep them away.
func TestLateObserverHearsAllFromThenOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan struct{})
		a := w.instance(stability.WithObserver(func(stability.Event) { <-hang }))
		var mu sync.Mutex
		var heard, later []stability.EventKind
		note := func(to *[]stability.EventKind) func(stability.Event) {
			return func(e stability.Event) {
				mu.Lock()
				defer mu.Unlock()
				*to = append(*to, e.Kind)
			}
		}
		stop := a.m.Observe(note(&heard))
		a.run()
		q, err := a.m.WaitQR(t.Context()) // the function for codes waits behind the observer that hangs
		require.NoError(t, err)
		require.NoError(t, w.account.Phone().Scan(q.Code))
		a.ready()
		time.Sleep(time.Second)
		a.m.Observe(note(&later))
		mu.Lock()
		require.Subset(t, heard, []stability.EventKind{stability.EventActivated, stability.EventQR, stability.EventPaired, stability.EventConnected})
		require.Equal(t, stability.EventActivated, heard[0])
		mu.Unlock()
		stop()
		stop()
		mu.Lock()
		before := slices.Clone(heard)
		mu.Unlock()
		close(hang)
		a.stop()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, before, heard, "nothing after stop")
		require.Equal(t, stability.EventClosed, later[len(later)-1])
	})
}
