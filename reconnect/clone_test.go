package reconnect_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestCloneDecidesAsItsOriginWillAndChangesNothing(t *testing.T) {
	draws := 0.0
	m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, func() float64 {
		draws += 0.125
		return draws
	})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m.Connected(now)
	for i := range 5 {
		now = now.Add(time.Minute)
		before := m.State()
		ahead := m.Clone()
		shown := ahead.Disconnected(reconnect.Cause{Reason: reconnect.ReasonBadSession}, now)
		better := ahead.Disconnected(reconnect.Cause{Reason: reconnect.ReasonLoggedOut}, now)
		require.Equal(t, reconnect.StatusNeedsPairing, better.Status)
		require.Equal(t, before, m.State(), "looking ahead changes nothing")
		require.Equal(t, shown, m.Disconnected(reconnect.Cause{Reason: reconnect.ReasonBadSession}, now), i)
		copied := m.Clone()
		m.Attempt(now)
		require.NotEqual(t, copied.State(), m.State())
	}
}
