package stability

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestErrandIsDoneWhenItIsDueAndForAnyNumberOfRingsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		var took, in atomic.Int64 // it takes so long, and is due again
		var mu sync.Mutex
		start, done := time.Now(), []time.Duration{}
		e := newErrand(&wg, func() time.Time {
			mu.Lock()
			done = append(done, time.Since(start))
			mu.Unlock()
			time.Sleep(time.Duration(took.Load()))
			if d := time.Duration(in.Load()); d != 0 {
				return time.Now().Add(d)
			}
			return time.Time{}
		})
		after := func(d time.Duration) []time.Duration {
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			all := done
			start, done = time.Now(), nil
			return all
		}

		require.Empty(t, after(time.Minute), "nobody rang")
		in.Store(int64(10 * time.Second))
		e.ring()
		require.Equal(t, []time.Duration{0, 10 * time.Second}, after(15*time.Second))
		in.Store(-int64(time.Minute))
		require.Equal(t, []time.Duration{5 * time.Second, 6 * time.Second}, after(6500*time.Millisecond), "what is overdue waits for a second")
		in.Store(0)
		require.Len(t, after(time.Minute), 1)
		require.Len(t, after(time.Hour), 1)

		took.Store(int64(time.Minute))
		e.ring()
		time.Sleep(time.Second)
		for range 3 {
			e.ring()
		}
		require.Equal(t, []time.Duration{0, time.Minute}, after(30*time.Minute), "once behind the one that is at it")

		e.ring()
		time.Sleep(time.Second)
		e.ring()
		e.end()
		wg.Wait()
		require.Len(t, after(0), 1, "what had begun is waited for")
		e.ring()
		require.Empty(t, after(2*time.Hour), "the term is over")
	})
}

func TestDoorbellRingsForTheErrandOfThePresentTermOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d doorbell
		d.ring() // there is none
		var wg sync.WaitGroup
		var first, second int
		a := newErrand(&wg, func() time.Time { first++; return time.Time{} })
		b := newErrand(&wg, func() time.Time { second++; return time.Time{} })
		d.at.Store(a)
		d.ring()
		wg.Wait()
		a.end()
		d.at.Store(b)
		d.leave(a) // late
		d.ring()
		wg.Wait()
		b.end()
		d.leave(b)
		require.Nil(t, d.at.Load())
		require.Equal(t, []int{1, 1}, []int{first, second})
	})
}
