package reconnect_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestRestartKeepsTheOutageItsBackoffAndItsWindow(t *testing.T) {
	m := machine()
	now := start
	var d reconnect.Decision
	for range 7 {
		d, now = drop(m, now, 0, cause(reconnect.ReasonNetworkUnreachable))
		now = now.Add(d.Delay)
	}
	now = now.Add(-30 * time.Second) // in the middle of the wait
	before := m.State()
	m = reconnect.NewMachine(reconnect.Policy{}, before, middle)
	r := m.Resume(now)
	require.Equal(t, 30*time.Second, r.Delay)
	require.Equal(t, 7, r.RetryCount)
	require.Equal(t, start, m.State().DisconnectedSince)
	require.Equal(t, before.Attempts, m.State().Attempts)
	n := len(before.Attempts)
	d, _ = drop(m, r.NextRetryAt, 0, cause(reconnect.ReasonNetworkUnreachable))
	require.Equal(t, 8, d.RetryCount)
	require.Len(t, m.State().Attempts, n+1, "the first attempt of the new process answers the old failure")
}

func TestProcessThatDiedWhileConnectedStartsFresh(t *testing.T) {
	m := machine()
	_, now := drop(m, start, 0, cause(reconnect.ReasonConnectionClosed))
	m.Attempt(now)
	m.Connected(now)
	now = now.Add(72 * time.Hour)
	m = reconnect.NewMachine(reconnect.Policy{}, m.State(), middle)
	d := m.Resume(now)
	require.True(t, d.ShouldReconnect)
	require.Zero(t, d.Delay)
	require.Equal(t, now, m.State().DisconnectedSince)
	m.Attempt(now)
	require.Empty(t, m.State().Attempts)
}

func TestRestartShortensASlowRetryButNotAPauseAfterAReplacement(t *testing.T) {
	for reason, want := range map[reconnect.Reason]time.Duration{
		reconnect.ReasonClientOutdated:     72 * time.Second,
		reconnect.ReasonConnectionReplaced: 2 * time.Minute,
		reconnect.ReasonAccountBanned:      0,
		reconnect.ReasonLockLost:           0,
	} {
		m := machine()
		_, now := drop(m, start, 0, cause(reason))
		d := reconnect.NewMachine(reconnect.Policy{}, m.State(), middle).Resume(now)
		require.Equal(t, want, d.Delay, reason)
		require.Equal(t, reason != reconnect.ReasonAccountBanned, d.ShouldReconnect, reason)
	}
}
