package reconnect_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestSecondReplacementParksUntilTheOtherCopyIsGone(t *testing.T) {
	m := machine()
	replaced := cause(reconnect.ReasonConnectionReplaced)
	d, now := drop(m, start, time.Second, replaced)
	require.Equal(t, reconnect.ActionWait, d.Action)
	for range 20 { // while the other copy lives
		now = now.Add(d.Delay)
		d, now = drop(m, now, time.Second, replaced)
		require.Equal(t, reconnect.ActionSlowRetry, d.Action)
		require.Equal(t, 15*time.Minute, d.Delay)
	}
	require.Empty(t, m.State().Attempts, "a conflict is not cured by a restart")
	now = now.Add(d.Delay)
	d, _ = drop(m, now, 2*time.Hour, replaced) // a new conflict, much later
	require.Equal(t, reconnect.ActionWait, d.Action)
}

func TestLostLockBeatsTheConflictThatRevealedIt(t *testing.T) {
	m := machine()
	d, now := drop(m, start, time.Hour, cause(reconnect.ReasonConnectionReplaced))
	require.True(t, d.ShouldReconnect)
	d = m.Disconnected(cause(reconnect.ReasonLockLost), now.Add(time.Second))
	require.False(t, d.ShouldReconnect)
	require.Equal(t, reconnect.ActionStandby, d.Action)
	require.Empty(t, m.State().Replacements, "another owner is no conflict")
}

func TestBanIsNeverHammered(t *testing.T) {
	m := machine()
	d, now := drop(m, start, 0, reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Code: 402, Expire: 6 * time.Hour})
	until := now.Add(6 * time.Hour)
	require.Equal(t, until, d.NextRetryAt)

	// Not by a restart, at any time, with any clock.
	for _, at := range []time.Time{now, now.Add(time.Hour), until.Add(-time.Second), now.Add(-time.Hour)} {
		again := reconnect.NewMachine(reconnect.Policy{}, m.State(), nil)
		require.Equal(t, until, again.Resume(at).NextRetryAt)
		require.Equal(t, reconnect.ActionWait, again.Resume(at).Action)
		allowed, ok := again.Allowed(at)
		require.False(t, ok)
		require.Equal(t, until, allowed)
		// Not by another trouble in the middle of it.
		later := again.Disconnected(cause(reconnect.ReasonStoreUnavailable), at)
		require.False(t, later.NextRetryAt.Before(until))
	}
	// Over at its end, not later.
	_, ok := m.Allowed(until)
	require.True(t, ok)
	m.Attempt(until)
	m.Connected(until)
	require.True(t, m.State().NotBefore.IsZero())
}

func TestBanHoldsEvenIfTheHostDisconnectsFirst(t *testing.T) {
	m := machine()
	_, now := drop(m, start, 0, cause(reconnect.ReasonIntentional))
	d := m.Disconnected(reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Expire: time.Hour}, now)
	require.Equal(t, reconnect.ReasonIntentional, d.Reason)
	_, ok := m.Allowed(now.Add(59 * time.Minute))
	require.False(t, ok)
}

func TestLogoutIsSeenEvenIfTheHostDisconnectsFirst(t *testing.T) {
	m := machine()
	_, now := drop(m, start, time.Hour, cause(reconnect.ReasonIntentional))
	d := m.Disconnected(cause(reconnect.ReasonLoggedOut), now)
	require.Equal(t, reconnect.StatusNeedsPairing, d.Status)
	require.False(t, d.ShouldReconnect)
}

func TestConnectRejectedStopsAfterThreeSlowTries(t *testing.T) {
	m := machine()
	now := start
	for range 3 {
		d, _ := drop(m, now, 0, reconnect.Cause{Reason: reconnect.ReasonConnectRejected, Code: 409})
		require.Equal(t, 15*time.Minute, d.Delay)
		require.Equal(t, 409, d.Code)
		now = d.NextRetryAt
	}
	d, now := drop(m, now, 0, reconnect.Cause{Reason: reconnect.ReasonConnectRejected, Code: 409})
	require.Equal(t, reconnect.ActionStop, d.Action)
	require.True(t, d.NextRetryAt.IsZero())

	// A restart gives it one try, and one only.
	m = reconnect.NewMachine(reconnect.Policy{}, m.State(), middle)
	require.True(t, m.Resume(now).ShouldReconnect)
	d, _ = drop(m, now, 0, reconnect.Cause{Reason: reconnect.ReasonConnectRejected, Code: 409})
	require.Equal(t, reconnect.ActionStop, d.Action)
}

func TestALoginEndsTheSeriesOfRefusals(t *testing.T) {
	m := machine()
	now := start
	for range 8 {
		var d reconnect.Decision
		d, now = drop(m, now, 0, cause(reconnect.ReasonConnectRejected))
		require.Equal(t, reconnect.ActionSlowRetry, d.Action)
		_, now = drop(m, now, time.Second, cause(reconnect.ReasonConnectionClosed))
	}
}

func TestBadSessionAsksForRepairEveryThirdTimeInARow(t *testing.T) {
	m := machine()
	now := start
	for i := 1; i <= 6; i++ {
		var d reconnect.Decision
		d, now = drop(m, now, time.Second, cause(reconnect.ReasonBadSession))
		require.Equal(t, i%3 == 0, d.Repair, i)
		// A dead network in between proves nothing about the session.
		d, now = drop(m, now, 0, cause(reconnect.ReasonNetworkUnreachable))
		require.False(t, d.Repair)
	}
	for range 2 {
		_, now = drop(m, now, 2*time.Minute, cause(reconnect.ReasonBadSession))
		require.Equal(t, 1, m.State().BadSessionStreak)
	}
}

func TestPairingStartsWithACleanSlate(t *testing.T) {
	m := machine()
	_, now := drop(m, start, 0, cause(reconnect.ReasonTimedOut))
	d, now := drop(m, now, 0, cause(reconnect.ReasonLoggedOut))
	require.Equal(t, reconnect.StatusNeedsPairing, d.Status)

	// A link that is only showing a code fails without counting, and retries.
	d, now = drop(m, now, 0, cause(reconnect.ReasonConnectionClosed))
	require.True(t, d.ShouldReconnect)
	require.False(t, d.Counted)
	require.Equal(t, reconnect.StatusNeedsPairing, d.Status)

	m.Attempt(now)
	m.Paired(now)
	d = m.Disconnected(cause(reconnect.ReasonRestartRequired), now)
	require.Equal(t, reconnect.StatusDisconnected, d.Status)
	require.True(t, d.ShouldReconnect)
	require.Zero(t, d.RetryCount)
	m.Attempt(now)
	m.Connected(now)
	require.Equal(t, reconnect.StatusConnected, m.State().Status)
}

func TestALateCauseUndoesNeitherAPairingNorItsLoss(t *testing.T) {
	m := machine()
	now := start
	for range 3 {
		_, now = drop(m, now, time.Second, cause(reconnect.ReasonConnectionReplaced))
		_, now = drop(m, now, 0, cause(reconnect.ReasonTimedOut))
	}
	m.Paired(now)
	for _, s := range []reconnect.State{m.State(), func() reconnect.State {
		m.Disconnected(cause(reconnect.ReasonBadSession), now)
		return m.State()
	}()} {
		require.Empty(t, s.Attempts)
		require.Empty(t, s.Replacements)
		require.LessOrEqual(t, s.RetryCount, 1)
	}

	_, now = drop(m, now, 0, cause(reconnect.ReasonTimedOut))
	m.NeedsPairing(reconnect.ReasonLoggedOut, now)
	require.Zero(t, m.State().NextRetryAt)
	m.Disconnected(cause(reconnect.ReasonBadSession), now)
	require.Equal(t, reconnect.StatusNeedsPairing, m.State().Status)
}

func TestABanEndsWithItsSession(t *testing.T) {
	m := machine()
	drop(m, start, 0, reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Expire: time.Hour})
	d := m.Disconnected(cause(reconnect.ReasonLoggedOut), start)
	require.Equal(t, reconnect.StatusNeedsPairing, d.Status)
	require.Zero(t, m.State().NotBefore)

	// The store says that there is no device any more.
	m = machine()
	drop(m, start, 0, reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Expire: time.Hour})
	_, ok := m.Allowed(start)
	require.False(t, ok)
	m.NeedsPairing(reconnect.ReasonNone, start)
	_, ok = m.Allowed(start)
	require.True(t, ok, "a new phone does not wait for the old one's ban")
}
