package reconnect_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestOnlyReasonsOfTheInstanceMoveTheLock(t *testing.T) {
	own := map[reconnect.Reason]bool{
		reconnect.ReasonNetworkUnreachable: true, reconnect.ReasonTimedOut: true, reconnect.ReasonUntrustedServer: true,
		reconnect.ReasonClientOutdated: true, reconnect.ReasonConnectRejected: true,
	}
	for _, r := range append(reconnect.Reasons(), "of_a_newer_library") {
		require.Equal(t, own[r], reconnect.Cause{Reason: r}.OfInstance(), r)
	}
	for code, is := range map[int]bool{403: true, 407: true, 429: true, 500: false, 502: false, 503: false, 404: false} {
		require.Equal(t, is, reconnect.Cause{Reason: reconnect.ReasonServiceUnavailable, Code: code}.OfInstance(), code)
	}
	require.False(t, reconnect.Cause{Reason: reconnect.ReasonAccountLocked, Code: 403}.OfInstance())
}

// given is a state in which a has just given the lock up behind n failed attempts.
func given(t *testing.T, r reconnect.Reason, n int) (reconnect.State, reconnect.Decision, time.Time) {
	t.Helper()
	m, now := machine(), start
	var d reconnect.Decision
	for range n {
		m.Attempt(now)
		d = m.Disconnected(cause(r), now)
		now = d.NextRetryAt
		if !d.ShouldReconnect {
			now = start
		}
	}
	if n > 0 && d.ShouldReconnect {
		now = now.Add(-d.Delay)
	}
	m.Yielded("a", cause(r), !d.ShouldReconnect, now)
	data, err := reconnect.EncodeState(m.State())
	require.NoError(t, err)
	s, err := reconnect.DecodeState(data)
	require.NoError(t, err)
	return s, d, now
}

func TestNewHolderMakesOneAttemptAtOnce(t *testing.T) {
	for _, r := range []reconnect.Reason{reconnect.ReasonNetworkUnreachable, reconnect.ReasonClientOutdated, reconnect.ReasonUntrustedServer} {
		s, _, now := given(t, r, 3)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		require.True(t, m.Began("b", false, now))
		d := m.Resume(now)
		require.True(t, d.ShouldReconnect)
		require.Zero(t, d.Delay, r)
		y, _ := m.State().LastYield()
		require.Equal(t, []any{"a", "b", r, 1}, []any{y.By, y.To, y.Reason, y.Count})

		// Its failure goes on from the account's counts.
		m.Attempt(now)
		d = m.Disconnected(cause(reconnect.ReasonNetworkUnreachable), now)
		require.Equal(t, s.RetryCount+1, d.RetryCount)
		require.Equal(t, d, m.Disconnected(cause(reconnect.ReasonNetworkUnreachable), now))
	}
}

func TestAttemptWaitsUntilOthersHaveHeardOfTheLock(t *testing.T) {
	for _, c := range []struct{ left, want time.Duration }{
		{-time.Second, 2 * time.Second}, {0, 2 * time.Second}, {20 * time.Millisecond, 2 * time.Second}, {3 * time.Second, 3 * time.Second},
	} {
		m := machine()
		m.Attempt(start)
		at := m.Disconnected(cause(reconnect.ReasonNetworkUnreachable), start).NextRetryAt
		now := at.Add(-c.left)
		m.Yielded("a", cause(reconnect.ReasonNetworkUnreachable), false, now)
		require.Equal(t, c.want, m.State().NextRetryAt.Sub(now), "%v before it is due", c.left)
	}
	m := machine()
	m.Attempt(start)
	m.Disconnected(cause(reconnect.ReasonUntrustedServer), start)
	m.Yielded("a", cause(reconnect.ReasonUntrustedServer), true, start)
	require.Zero(t, m.State().NextRetryAt, "none is planned")
}

func TestHolderThatTakesTheLockBackKeepsToThePlan(t *testing.T) {
	for _, r := range []reconnect.Reason{reconnect.ReasonNetworkUnreachable, reconnect.ReasonClientOutdated, reconnect.ReasonConnectRejected} {
		s, before, now := given(t, r, 2)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		require.True(t, m.Began("a", true, now))
		require.True(t, before.NextRetryAt.Equal(m.Resume(now).NextRetryAt), r)
	}
	t.Run("what was stopped stays so", func(t *testing.T) {
		s, _, now := given(t, reconnect.ReasonUntrustedServer, 1)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		require.True(t, m.Began("a", true, now))
		require.False(t, m.Resume(now).ShouldReconnect)
		m.Attempt(now) // somebody asked
		require.Equal(t, reconnect.ActionStop, m.Disconnected(cause(reconnect.ReasonUntrustedServer), now).Action)
	})
	t.Run("a process that begins anew may try", func(t *testing.T) {
		s, _, now := given(t, reconnect.ReasonUntrustedServer, 1)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		require.True(t, m.Began("a", false, now))
		require.True(t, m.Resume(now).ShouldReconnect)
	})
	t.Run("a ban is waited out by everybody", func(t *testing.T) {
		s, _, now := given(t, reconnect.ReasonNetworkUnreachable, 1)
		s.NotBefore = now.Add(time.Hour)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		require.True(t, m.Began("b", false, now))
		require.True(t, m.Resume(now).NextRetryAt.Equal(s.NotBefore))
	})
}

func TestYieldsAreForgottenWithTheNextTrouble(t *testing.T) {
	s, _, now := given(t, reconnect.ReasonNetworkUnreachable, 3)
	m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
	m.Began("b", false, now)
	m.Attempt(now)
	m.Connected(now)
	now = now.Add(30 * time.Second)
	m.Disconnected(cause(reconnect.ReasonNetworkUnreachable), now)
	require.Equal(t, 1, m.State().YieldsOf("a"), "the connection did not last")
	m.Attempt(now)
	m.Connected(now)
	now = now.Add(5 * time.Minute)
	m.Settle(now)
	y, ok := m.State().LastYield()
	require.True(t, ok, "people still read who took over from whom")
	require.Equal(t, "b", y.To)
	require.Zero(t, m.State().YieldsOf("a"))
	require.False(t, m.Began("c", false, now))
	m.Disconnected(cause(reconnect.ReasonConnectionClosed), now)
	_, ok = m.State().LastYield()
	require.False(t, ok)
}

func TestManyHoldersAreBoundedAndNotHurried(t *testing.T) {
	s, _, now := given(t, reconnect.ReasonNetworkUnreachable, 9)
	hurried := 0
	for i := range 40 {
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		m.Began(fmt.Sprint("p", i), false, now)
		if m.Resume(now).Delay == 0 {
			hurried++
		}
		m.Attempt(now)
		m.Disconnected(cause(reconnect.ReasonNetworkUnreachable), now)
		m.Yielded(fmt.Sprint("p", i), cause(reconnect.ReasonNetworkUnreachable), false, now)
		s = m.State()
	}
	require.LessOrEqual(t, len(s.Yields), 16)
	require.Equal(t, 8, hurried)
}

func TestTimeBetweenYieldsDoubles(t *testing.T) {
	p := reconnect.Policy{}.Defaults()
	want := []time.Duration{0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute}
	for n, d := range want {
		require.Equal(t, d, p.YieldPause(n))
	}
	require.Equal(t, 10*time.Minute, p.YieldPause(1<<30))
	require.NoError(t, reconnect.Policy{YieldAfter: reconnect.NoYield}.Validate())
	require.ErrorContains(t, reconnect.Policy{YieldAfter: -2}.Validate(), "YieldAfter")
	require.ErrorContains(t, reconnect.Policy{YieldSpacing: time.Hour}.Validate(), "MaxYieldSpacing")
}
