package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// The account was logged out, and nobody asks for a code: no device is read any more.
// A kept message can be removed all the same, and what a handler does not take then is kept.
func TestBookIsWrittenWhileALoggedOutAccountIsParked(t *testing.T) {
	for name, after := range map[string]time.Duration{"the handler is slow": time.Hour, "the handler returns at once": 0} {
		t.Run(name, func(t *testing.T) { bubble(t, func(t *testing.T) { bookWhileParked(t, after) }) })
	}
}

func bookWhileParked(t *testing.T, after time.Duration) {
	w := newWorld(t)
	a := w.tended("a", stability.WithAutoHeal(noHeal), stability.WithPairingOnRequest())
	var down atomic.Bool
	down.Store(true)
	back := make(chan struct{})
	a.refuse = func(e *events.Message) bool {
		switch e.Message.GetConversation() {
		case "kept":
			if down.Load() {
				panic("down")
			}
		case "slow":
			<-back
			panic("down")
		}
		return false
	}
	a.run()
	_, err := a.m.WaitQR(t.Context())
	require.NoError(t, err)
	a.pair()
	w.getMessage("kept")
	time.Sleep(10 * time.Second)
	require.Len(t, a.m.Messages(), 1)
	w.getMessage("slow")
	time.Sleep(10 * time.Second)
	w.account.Phone().RemoveDevice(w.device())
	w.await("nobody is paired", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
	time.Sleep(after)
	close(back)
	time.Sleep(time.Minute)
	require.True(t, a.status().Parked)

	list := a.m.Messages()
	require.Len(t, list, 2)
	require.NoError(t, a.m.PurgeMessage(t.Context(), list[0].Entry))
	a.stop()

	down.Store(false)
	b := w.tended("b", stability.WithAutoHeal(noHeal), stability.WithPairingOnRequest()).run()
	w.await("it is parked", func() bool { return b.status().Parked })
	time.Sleep(time.Minute)
	list = b.m.Messages()
	require.Len(t, list, 1)
	require.True(t, list[0].HasContent)
	require.NoError(t, b.m.Redeliver(t.Context(), list[0].Entry))
	_, err = b.m.WaitQR(t.Context())
	require.NoError(t, err)
	b.pair()
	time.Sleep(10 * time.Minute)
	require.Equal(t, []string{"slow"}, b.texts())
	require.Empty(t, b.m.Messages())
	b.stop()
	w.close()
}
