package authstore

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestTasksMayBeginWhileOthersAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n tasks
		n.Wait() // nothing runs
		n.Add(1)
		waiting := 0
		var mu sync.Mutex
		for range 3 {
			go func() { n.Wait(); mu.Lock(); waiting++; mu.Unlock() }()
		}
		synctest.Wait()
		n.Add(1)
		n.Done()
		synctest.Wait()
		mu.Lock()
		require.Zero(t, waiting, "one still runs")
		mu.Unlock()
		n.Done()
		synctest.Wait()
		mu.Lock()
		require.Equal(t, 3, waiting)
		mu.Unlock()

		var all sync.WaitGroup
		for range 8 { // the race detector would complain of a sync.WaitGroup
			all.Go(func() { n.Add(1); n.Done() })
			all.Go(n.Wait)
		}
		all.Wait()
	})
}
