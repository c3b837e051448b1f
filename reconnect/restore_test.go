package reconnect_test

import (
	"math"
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

// Nobody has seen the outage begin that ends a process, so it begins now, and
// whatever a document says of an earlier one is over: it was connected since.
func TestAnOutageOfAProcessThatDiedWhileConnectedBeginsNow(t *testing.T) {
	now := start.Add(time.Hour)
	for _, status := range []reconnect.Status{reconnect.StatusConnected, ""} {
		m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{
			Status: status, ConnectedAt: start, DisconnectedSince: start.Add(-time.Hour), NextRetryAt: now.Add(time.Minute),
			LastDisconnectAt: start.Add(-time.Hour), LastDisconnectReason: reconnect.ReasonConnectionReplaced,
			RetryCount: 3, Failures: 2,
		}, middle)
		d := m.Resume(now)
		require.True(t, d.ShouldReconnect)
		require.Zero(t, d.Delay, "no backoff was under way")
		require.Equal(t, now, d.NextRetryAt)
		st := m.State()
		require.Equal(t, reconnect.StatusDisconnected, st.Status)
		require.Equal(t, now, st.DisconnectedSince)
		if status == reconnect.StatusConnected {
			require.Equal(t, now, st.LastDisconnectAt)
			require.Equal(t, reconnect.ReasonHolderLost, st.LastDisconnectReason, "not an older outage's")
			require.Equal(t, reconnect.ReasonHolderLost, st.FirstDisconnectReason)
		}
		require.Equal(t, 3, st.RetryCount, "it changes no counter")
		require.Equal(t, 2, st.Failures)

		// The first attempt is nobody's answer to a failure, and its own failure
		// belongs to the outage that began with the process.
		m.Attempt(now)
		require.Empty(t, m.State().Attempts)
		m.Disconnected(cause(reconnect.ReasonTimedOut), now.Add(20*time.Second))
		require.Equal(t, now, m.State().DisconnectedSince)
	}
}

// A next attempt in the far future, after a clock jumped or by a damaged
// document, is no longer a wait than the policy can have meant.
func TestAStoredWaitIsBoundedByThePolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy reconnect.Policy
		reason reconnect.Reason
		banned time.Duration
		shown  time.Duration // what a status that is asked for before Resume shows at most
		want   time.Duration
	}{
		{name: "after a failure", reason: reconnect.ReasonTimedOut, shown: 18 * time.Minute, want: 72 * time.Second},
		{name: "after a replacement", reason: reconnect.ReasonConnectionReplaced, shown: 18 * time.Minute, want: 18 * time.Minute},
		{name: "without jitter", policy: reconnect.Policy{Jitter: reconnect.NoJitter}, reason: reconnect.ReasonConnectionReplaced,
			shown: 15 * time.Minute, want: 15 * time.Minute},
		{name: "a long pause", policy: reconnect.Policy{ReplacedPause: 30 * time.Minute, SlowRetry: time.Minute},
			reason: reconnect.ReasonConnectionReplaced, shown: 36 * time.Minute, want: 36 * time.Minute},
		{name: "a long backoff", policy: reconnect.Policy{MaxDelay: 2 * time.Hour}, reason: reconnect.ReasonTimedOut,
			shown: 144 * time.Minute, want: 144 * time.Minute},
		{name: "a high floor", policy: reconnect.Policy{ServiceFloor: 30 * time.Minute}, reason: reconnect.ReasonServiceUnavailable,
			shown: 36 * time.Minute, want: 72 * time.Second},
		{name: "a patient look at the store", policy: reconnect.Policy{StoreRetry: 30 * time.Minute}, reason: reconnect.ReasonStoreUnavailable,
			shown: 36 * time.Minute, want: 72 * time.Second},
		{name: "inside a ban", reason: reconnect.ReasonTemporaryBan, banned: 40 * time.Hour, shown: 40 * time.Hour, want: 40 * time.Hour},
		{name: "inside a ban that is too long", reason: reconnect.ReasonTemporaryBan, banned: 50_000 * time.Hour,
			shown: 30 * 24 * time.Hour, want: 30 * 24 * time.Hour},
	} {
		for _, far := range []time.Duration{100_000 * time.Hour, 200 * 365 * 24 * time.Hour} {
			s := reconnect.State{
				Status: reconnect.StatusDisconnected, DisconnectedSince: start.Add(-time.Minute),
				LastDisconnectAt: start.Add(-time.Minute), LastDisconnectReason: c.reason, NextRetryAt: start.Add(far),
			}
			if c.banned > 0 {
				s.NotBefore = start.Add(c.banned)
			}
			m := reconnect.NewMachine(c.policy, s, middle)
			m.Allowed(start)
			require.Equal(t, start.Add(c.shown), m.State().NextRetryAt, c.name)
			d := m.Resume(start)
			require.True(t, d.ShouldReconnect, c.name)
			require.Equal(t, c.want, d.Delay, c.name)
			require.Equal(t, start.Add(c.want), d.NextRetryAt, c.name)
			require.Equal(t, d.NextRetryAt, m.State().NextRetryAt, c.name)
			require.Equal(t, start.Add(-time.Minute), m.State().DisconnectedSince, "the outage goes on: %s", c.name)
		}
	}
}

func TestOnlyAFailureThatIsOnRecordIsAnswered(t *testing.T) {
	for name, s := range map[string]reconnect.State{
		"no outage": {Status: reconnect.StatusDisconnected, LastDisconnectReason: reconnect.ReasonTimedOut},
		"no reason": {Status: reconnect.StatusDisconnected, DisconnectedSince: start},
	} {
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		m.Attempt(start.Add(time.Minute))
		require.Empty(t, m.State().Attempts, name)
	}
}

func TestLoadedCountersNeitherOverflowNorLoseTheirBound(t *testing.T) {
	m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{
		Status: reconnect.StatusDisconnected, DisconnectedSince: start, LastDisconnectReason: reconnect.ReasonTimedOut,
		RetryCount: math.MaxInt, Failures: math.MaxInt, RestartStreak: math.MaxInt, RejectStreak: math.MaxInt, BadSessionStreak: math.MaxInt,
	}, middle)
	require.Equal(t, 1<<30, m.Resume(start).RetryCount)
	d, _ := drop(m, start, 0, cause(reconnect.ReasonTimedOut))
	require.Equal(t, 1<<30, d.RetryCount)
	require.Equal(t, time.Minute, d.Delay)
	require.Equal(t, 1<<30, m.State().Failures)
}

// After a ban for good a code to scan is offered to who asks, and not by
// itself, as it is after a logout.
func TestAfterARestartABannedAccountWaitsForAPerson(t *testing.T) {
	for reason, want := range map[reconnect.Reason]reconnect.Action{
		reconnect.ReasonAccountBanned: reconnect.ActionStop,
		reconnect.ReasonLoggedOut:     reconnect.ActionPair,
	} {
		m := machine()
		_, now := drop(m, start, 0, cause(reason))
		d := reconnect.NewMachine(reconnect.Policy{}, m.State(), middle).Resume(now)
		require.Equal(t, want, d.Action, reason)
		require.False(t, d.ShouldReconnect, reason)
	}
}
