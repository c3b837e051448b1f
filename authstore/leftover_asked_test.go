package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The service delivers a message while it is being judged, and no handler takes
// it. When the service has it no more, it is kept for as long as any other.
func TestMessageDeliveredWhileItIsJudgedIsNoLeftoverYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		hash := [32]byte{1}
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("text"), time.Now()))
		c, _, _ = reopen(t, kv, c)
		require.NoError(t, c.SettleEvents(func([]byte) Leftover {
			c.DeliveredEvent(hash)
			return LeftoverPerhapsHandled
		}))
		time.Sleep(eventTTL + 24*time.Hour)

		c, _, _ = reopen(t, kv, c)
		settle := func() {
			require.NoError(t, c.SettleEvents(func([]byte) Leftover { return LeftoverPerhapsHandled }))
			time.Sleep(time.Minute)
		}
		settle()
		n, _ := c.LeftoverEvents()
		require.Equal(t, 1, n)
		require.Equal(t, 1, kv.count("event"))
		time.Sleep(eventTTL)
		settle()
		require.Zero(t, kv.count("event"))
	})
}
