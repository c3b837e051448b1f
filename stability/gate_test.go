package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// Ending a term takes a moment, and as long as the budget allows when a handler
// does not return. A lock that is lost is lost at once all the same.
func TestFromTheLossOfTheLockOnNoStatusSaysActive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(time.Minute)
		busy, free := make(chan struct{}), make(chan struct{})
		a.heed(func(evt any) {
			if _, ok := evt.(*events.Message); ok {
				close(busy)
				<-free
			}
		})
		_, err := w.peer().Send(t.Context(), w.account.JID(), "hold on")
		require.NoError(t, err)
		<-busy
		a.wire.fail(lockCalls)
		until := a.status().TrustedUntil
		for time.Now().Before(until) {
			require.Equal(t, stability.ModeActive, a.status().Mode)
			time.Sleep(100 * time.Millisecond)
		}
		ending := 0
		for time.Sleep(time.Millisecond); len(a.history(stability.EventDeactivated)) == 0; time.Sleep(100 * time.Millisecond) {
			st := a.status()
			require.Equal(t, stability.ModePassive, st.Mode, st.Summary)
			require.False(t, st.ModeSince.Before(until), "since the loss, not since the term began")
			require.NotEqual(t, reconnect.StatusConnected, st.WA)
			require.False(t, st.TrustedUntil.After(st.At))
			require.Nil(t, st.Auth, "what the store holds is another's by now")
			active, err := a.m.TryActivate(t.Context())
			require.NoError(t, err)
			require.False(t, active)
			ending++
		}
		require.Greater(t, ending, 20, "it took its time")
		require.Equal(t, stability.ModePassive, a.status().Mode)
		close(free)
		a.wire.heal()
		a.ready()
		a.stop()
		w.close()
	})
}
