package authstore

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A send that waited long for a prekey bundle is being written when abandoned sends
// are looked for. It is none of them: a receive that came in between would step the
// session from before the send, and both would use the same keys.
func TestLookForAbandonedSendsLeavesOneThatIsBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, sendStep(t, d, []string{"1:0"}, maxSendAge-time.Second)) })
		synctest.Wait()
		kv.before.set(func(op string, _ Batch) error {
			if op == "commit" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		time.Sleep(maxSendAge + time.Second) // the write is under way
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "2:0", 0)) })
		synctest.Wait()
		kv.before.set(nil)
		wg.Go(func() { require.NoError(t, receiveStep(t, d, "1:0", 0)) })
		wg.Wait()
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v), "one step for the send and one for the receive")
	})
}
