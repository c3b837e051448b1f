package reconnect_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// middle is the random draw that makes every delay its nominal value.
func middle() float64 { return 0.5 }

func cause(r reconnect.Reason) reconnect.Cause { return reconnect.Cause{Reason: r} }

func machine() *reconnect.Machine {
	return reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, middle)
}

// drop is one connection that is up for life and ends for r, from now on. It
// returns the decision and the instant of the end.
func drop(m *reconnect.Machine, now time.Time, life time.Duration, c reconnect.Cause) (reconnect.Decision, time.Time) {
	m.Attempt(now)
	if life > 0 {
		m.Connected(now)
	}
	now = now.Add(life)
	return m.Disconnected(c, now), now
}

func TestDelaysDoubleUpToAMinuteWithinTwentyPercent(t *testing.T) {
	nominal := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
	for _, draw := range []float64{0, 0.25, 0.5, 0.999999} {
		m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, func() float64 { return draw })
		now := start
		for i, n := range nominal {
			d, at := drop(m, now, 0, cause(reconnect.ReasonNetworkUnreachable))
			n *= time.Second
			require.InDelta(t, float64(n), float64(d.Delay), 0.2*float64(n))
			require.Equal(t, time.Duration(float64(n)*(1+0.2*(2*draw-1))).Round(time.Millisecond), d.Delay.Round(time.Millisecond))
			require.Equal(t, i+1, d.RetryCount)
			require.Equal(t, at.Add(d.Delay), d.NextRetryAt)
			now = d.NextRetryAt
		}
	}
}

func TestAFlappingConnectionIsThrottledAsMuchAsARefusedOne(t *testing.T) {
	flap, refuse := machine(), machine()
	a, b := start, start
	for range 12 {
		x, _ := drop(flap, a, 59*time.Second, cause(reconnect.ReasonConnectionClosed))
		y, _ := drop(refuse, b, 0, cause(reconnect.ReasonNetworkUnreachable))
		require.Equal(t, y.Delay, x.Delay)
		require.Equal(t, y.RetryCount, x.RetryCount)
		a, b = x.NextRetryAt, y.NextRetryAt
	}
}

func TestAStableConnectionStartsANewSeries(t *testing.T) {
	m := machine()
	now := start
	for range 5 {
		d, _ := drop(m, now, 0, cause(reconnect.ReasonTimedOut))
		now = d.NextRetryAt
	}
	d, _ := drop(m, now, 60*time.Second, cause(reconnect.ReasonConnectionClosed))
	require.Equal(t, 1, d.RetryCount)
	require.Equal(t, time.Second, d.Delay)
}

func TestDecisionForEachReason(t *testing.T) {
	const (
		down = reconnect.StatusDisconnected
		pair = reconnect.StatusNeedsPairing
	)
	for _, want := range []struct {
		cause   reconnect.Cause
		status  reconnect.Status
		action  reconnect.Action
		delay   time.Duration
		retries int
		counted bool
	}{
		{cause(reconnect.ReasonConnectionClosed), down, reconnect.ActionRetry, time.Second, 1, true},
		{cause(reconnect.ReasonConnectionLost), down, reconnect.ActionRetry, 0, 1, true},
		{cause(reconnect.ReasonTimedOut), down, reconnect.ActionRetry, time.Second, 1, true},
		{cause(reconnect.ReasonNetworkUnreachable), down, reconnect.ActionRetry, time.Second, 1, true},
		{cause(reconnect.ReasonBadSession), down, reconnect.ActionRetry, time.Second, 1, true},
		{cause(reconnect.ReasonServiceUnavailable), down, reconnect.ActionRetry, 33 * time.Second, 1, true},
		{cause(reconnect.ReasonRestartRequired), down, reconnect.ActionRestart, 0, 0, false},
		{cause(reconnect.ReasonRequested), down, reconnect.ActionRestart, 0, 0, false},
		{cause(reconnect.ReasonRedelivery), down, reconnect.ActionRestart, 0, 0, false},
		{cause(reconnect.ReasonClosedByProgram), down, reconnect.ActionRetry, time.Second, 1, false},
		{cause(reconnect.ReasonConnectionReplaced), down, reconnect.ActionWait, 2 * time.Minute, 1, false},
		{reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Expire: time.Hour}, down, reconnect.ActionWait, time.Hour, 1, false},
		{cause(reconnect.ReasonTemporaryBan), down, reconnect.ActionWait, 24 * time.Hour, 1, false},
		{reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Expire: 1 << 62}, down, reconnect.ActionWait, 30 * 24 * time.Hour, 1, false},
		{cause(reconnect.ReasonClientOutdated), down, reconnect.ActionSlowRetry, 15 * time.Minute, 1, false},
		{cause(reconnect.ReasonConnectRejected), down, reconnect.ActionSlowRetry, 15 * time.Minute, 1, false},
		{cause(reconnect.ReasonMultideviceMismatch), down, reconnect.ActionSlowRetry, 15 * time.Minute, 1, false},
		{cause(reconnect.ReasonStoreUnavailable), down, reconnect.ActionWaitStore, 5 * time.Second, 0, false},
		{cause(reconnect.ReasonUntrustedServer), down, reconnect.ActionStop, 0, 0, false},
		{cause(reconnect.ReasonLoggedOut), pair, reconnect.ActionPair, 0, 0, false},
		{cause(reconnect.ReasonAccountLocked), pair, reconnect.ActionStop, 0, 0, false},
		{cause(reconnect.ReasonAccountBanned), pair, reconnect.ActionStop, 0, 0, false},
		{cause(reconnect.ReasonPairingFailed), pair, reconnect.ActionPair, 0, 0, false},
		{cause(reconnect.ReasonQRExpired), pair, reconnect.ActionPair, 0, 0, false},
		{cause(reconnect.ReasonLockLost), down, reconnect.ActionStandby, 0, 0, false},
		{cause(reconnect.ReasonIntentional), down, reconnect.ActionNone, 0, 0, false},
		{cause(reconnect.ReasonHandedOver), down, reconnect.ActionNone, 0, 0, false},
		{cause(reconnect.ReasonHolderLost), down, reconnect.ActionRestart, 0, 0, false},
	} {
		t.Run(string(want.cause.Reason), func(t *testing.T) {
			m := machine()
			d, now := drop(m, start, time.Second, want.cause)
			sound(t, d, m.State(), now)
			require.Equal(t, want.status, d.Status)
			require.Equal(t, want.action, d.Action)
			require.Equal(t, want.delay, d.Delay)
			require.Equal(t, want.retries, d.RetryCount)
			require.Equal(t, want.counted, d.Counted)

			// What the window of auto-heal sees.
			m.Attempt(now)
			require.Len(t, m.State().Attempts, map[bool]int{true: 1}[want.counted])
		})
	}
}

func TestRestartRequiredIsImmediateButNoEndlessLoop(t *testing.T) {
	m := machine()
	now := start
	var delays []time.Duration
	for range 9 {
		var d reconnect.Decision
		d, now = drop(m, now, time.Second, cause(reconnect.ReasonRestartRequired))
		delays = append(delays, d.Delay)
		now = now.Add(d.Delay)
	}
	s := time.Second
	require.Equal(t, []time.Duration{0, 0, 0, 0, 0, 1 * s, 2 * s, 4 * s, 8 * s}, delays)
	require.Empty(t, m.State().Attempts, "a restart is never a failure")
	for _, r := range []reconnect.Reason{reconnect.ReasonRequested, reconnect.ReasonRedelivery} {
		m := machine()
		now := start
		for i := range 5 {
			var d reconnect.Decision
			d, now = drop(m, now, time.Second, cause(r))
			require.Zero(t, d.Delay, "%s %d", r, i)
		}
		d, _ := drop(m, now, time.Second, cause(r))
		require.NotZero(t, d.Delay, "whoever asks in a loop is slowed down too: %s", r)
	}

	m.Connected(now)
	now = now.Add(time.Hour) // a stable connection: the next restart is the first again
	require.Zero(t, m.Disconnected(cause(reconnect.ReasonRestartRequired), now).Delay)
}

func TestDeadLinkReconnectsAtOnceOnlyTheFirstTime(t *testing.T) {
	m := machine()
	d, now := drop(m, start, time.Minute, cause(reconnect.ReasonConnectionLost))
	require.Zero(t, d.Delay)
	d, _ = drop(m, now, time.Second, cause(reconnect.ReasonConnectionLost))
	require.Equal(t, 2*time.Second, d.Delay)
}

func TestServiceUnavailableIsNotHurriedBelowItsFloor(t *testing.T) {
	for _, u := range []float64{0, 0.5, 0.999999} {
		m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, func() float64 { return u })
		now := start
		for range 10 {
			var d reconnect.Decision
			d, now = drop(m, now, 0, cause(reconnect.ReasonServiceUnavailable))
			require.GreaterOrEqual(t, d.Delay, 30*time.Second)
			require.LessOrEqual(t, d.Delay, 72*time.Second)
			now = now.Add(d.Delay)
		}
	}
}

func TestAnOutageBeginsWithTheFirstCauseOfItsEnd(t *testing.T) {
	m := machine()
	_, end := drop(m, start, time.Hour, cause(reconnect.ReasonConnectionClosed))
	d := m.Disconnected(cause(reconnect.ReasonTimedOut), end.Add(time.Second))
	require.Equal(t, end, m.State().DisconnectedSince)
	require.Equal(t, end, m.State().LastDisconnectAt)
	require.Equal(t, end.Add(time.Second).Add(d.Delay), d.NextRetryAt)
	_, _ = drop(m, d.NextRetryAt, 0, cause(reconnect.ReasonTimedOut))
	require.Equal(t, end, m.State().DisconnectedSince, "attempts that fail do not restart the clock")
}

func TestWindowForgetsByTimeOnlyAndAHealEmptiesIt(t *testing.T) {
	m := machine()
	now := start
	for range 10 { // each connection is up for a short while: still counted
		_, now = drop(m, now, 10*time.Second, cause(reconnect.ReasonConnectionClosed))
	}
	m.Attempt(now)
	require.Len(t, m.State().Attempts, 10)
	m.Disconnected(cause(reconnect.ReasonTimedOut), now)
	m.Healed(now)
	require.Empty(t, m.State().Attempts)
	require.Zero(t, m.State().Failures)
	require.Equal(t, []time.Time{now}, m.State().Restarts)
	m.Disconnected(cause(reconnect.ReasonBadSession), now) // a better reason undoes nothing
	require.Empty(t, m.State().Attempts)
	require.Equal(t, []time.Time{now}, m.State().Restarts)
}

func TestNumbersOutOfThePolicyAreNamed(t *testing.T) {
	require.NoError(t, reconnect.Policy{}.Validate())
	require.NoError(t, reconnect.Policy{Jitter: reconnect.NoJitter}.Validate())
	for field, p := range map[string]reconnect.Policy{
		"InitialDelay":   {InitialDelay: -1},
		"MaxDelay":       {MaxDelay: time.Millisecond},
		"Factor":         {Factor: 0.5},
		"Jitter":         {Jitter: 1},
		"StableAfter":    {StableAfter: -time.Second},
		"ServiceFloor":   {ServiceFloor: 1 << 62},
		"ReplacedPause":  {ReplacedPause: -1},
		"ReplacedWindow": {ReplacedWindow: time.Minute},
		"SlowRetry":      {SlowRetry: -1},
		"StoreRetry":     {StoreRetry: -1},
		"BanDefault":     {BanDefault: -1},
		"BanMax":         {BanMax: time.Hour},
		"RestartBurst":   {RestartBurst: -1},
		"RejectTries":    {RejectTries: -1},
		"BadSession":     {BadSessionTries: -1},
		"LoopWindow":     {LoopWindow: -1},
		"RestartWindow":  {RestartWindow: -1},
	} {
		require.ErrorContains(t, p.Validate(), "Policy."+field, field)
	}
}

func TestTheBeginningOfATroubleIsKeptUntilAConnectionIsStable(t *testing.T) {
	m := machine()
	_, now := drop(m, start, time.Hour, reconnect.Cause{Reason: reconnect.ReasonServiceUnavailable, Code: 503, Detail: "maintenance"})
	began := now
	first := func(s reconnect.State) reconnect.Cause {
		return reconnect.Cause{Reason: s.FirstDisconnectReason, Code: s.FirstDisconnectCode, Detail: s.FirstDisconnectDetail}
	}
	want := reconnect.Cause{Reason: reconnect.ReasonServiceUnavailable, Code: 503, Detail: "maintenance"}
	for _, c := range []struct {
		life   time.Duration
		reason reconnect.Reason
	}{
		{0, reconnect.ReasonNetworkUnreachable}, {0, reconnect.ReasonTimedOut},
		{20 * time.Second, reconnect.ReasonConnectionClosed}, // up, but not for long
		{0, reconnect.ReasonHandedOver},
		{0, reconnect.ReasonBadSession},
	} {
		_, now = drop(m, now, c.life, cause(c.reason))
		require.Equal(t, c.reason, m.State().LastDisconnectReason)
		require.Equal(t, want, first(m.State()))
		require.Equal(t, began, m.State().FirstDisconnectAt)

		// And a restart does not forget it.
		data, err := reconnect.EncodeState(m.State())
		require.NoError(t, err)
		s, err := reconnect.DecodeState(data)
		require.NoError(t, err)
		m = reconnect.NewMachine(reconnect.Policy{}, s, middle)
	}
	m.Attempt(now)
	m.Connected(now)
	m.Settle(now.Add(time.Minute - 1))
	require.Equal(t, want, first(m.State()))
	m.Settle(now.Add(time.Minute))
	require.Zero(t, first(m.State()))
	require.Zero(t, m.State().FirstDisconnectAt)
}

func TestTheBeginningOfATroubleIsTheBestReasonOfItsFirstEnd(t *testing.T) {
	m := machine()
	_, now := drop(m, start, time.Hour, cause(reconnect.ReasonConnectionClosed))
	require.Equal(t, reconnect.ReasonConnectionClosed, m.State().FirstDisconnectReason)
	m.Disconnected(cause(reconnect.ReasonBadSession), now.Add(time.Second))
	require.Equal(t, reconnect.ReasonBadSession, m.State().FirstDisconnectReason)
	require.Equal(t, now, m.State().FirstDisconnectAt)

	// An end that the host wished for is no trouble; a new device has none.
	m = machine()
	_, now = drop(m, start, time.Hour, cause(reconnect.ReasonIntentional))
	require.Zero(t, m.State().FirstDisconnectReason)
	_, now = drop(m, now, 0, cause(reconnect.ReasonLoggedOut))
	require.Equal(t, reconnect.ReasonLoggedOut, m.State().FirstDisconnectReason)
	m.Attempt(now)
	m.Paired(now)
	require.Zero(t, m.State().FirstDisconnectReason)
}

func TestConnectedTwiceIsOneConnection(t *testing.T) {
	m := machine()
	_, now := drop(m, start, 0, cause(reconnect.ReasonTimedOut))
	m.Attempt(now)
	m.Connected(now)
	m.Connected(now.Add(59 * time.Second))
	m.Settle(now.Add(time.Minute))
	require.Zero(t, m.State().RetryCount)
}

func TestABetterReasonDoesNotDrawAnew(t *testing.T) {
	u := 0.0
	m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, func() float64 { u += 0.3; return u })
	m.Attempt(start)
	first := m.Disconnected(cause(reconnect.ReasonConnectionClosed), start)
	require.Equal(t, first.Delay, m.Disconnected(cause(reconnect.ReasonBadSession), start).Delay)
}

func TestTheWindowOfAttemptsIsBounded(t *testing.T) {
	m := machine()
	for range 300 {
		drop(m, start, 0, cause(reconnect.ReasonTimedOut))
	}
	require.Len(t, m.State().Attempts, 256)
}

func TestStateHoldsWallTimesInUTC(t *testing.T) {
	m := machine()
	now := time.Now().In(time.FixedZone("", 3600)) // with a monotonic reading
	drop(m, now, time.Second, cause(reconnect.ReasonTimedOut))
	m.Healed(now)
	s := m.State()
	for _, at := range []time.Time{s.ConnectedAt, s.LastDisconnectAt, s.FirstDisconnectAt, s.DisconnectedSince, s.NextRetryAt, s.UpdatedAt, s.Restarts[0]} {
		require.Equal(t, at.Round(0).UTC(), at)
	}
}

func TestNewConnectionOfAPairingBeginsNoTrouble(t *testing.T) {
	for name, first := range map[string]bool{"told first": true, "told behind the end": false} {
		t.Run(name, func(t *testing.T) {
			m := machine()
			m.NeedsPairing(reconnect.ReasonNone, start)
			m.Attempt(start)
			if first {
				m.Paired(start)
			}
			d := m.Disconnected(reconnect.Cause{Reason: reconnect.ReasonRestartRequired, Code: 515}, start)
			if !first {
				m.Paired(start)
				d = m.Disconnected(reconnect.Cause{Reason: reconnect.ReasonRestartRequired, Code: 515, Detail: "again"}, start)
			}
			require.Equal(t, reconnect.StatusDisconnected, d.Status)
			require.Zero(t, m.State().FirstDisconnectReason)
			_, now := drop(m, start, 0, cause(reconnect.ReasonNetworkUnreachable))
			require.Equal(t, reconnect.ReasonNetworkUnreachable, m.State().FirstDisconnectReason)
			m.Attempt(now)
			m.Connected(now)
			m.Settle(now.Add(time.Hour))
			m.Disconnected(cause(reconnect.ReasonRestartRequired), now.Add(time.Hour))
			require.Equal(t, reconnect.ReasonRestartRequired, m.State().FirstDisconnectReason, "any other does")
		})
	}
}

func TestWishForANewConnectionIsNoTroubleOnceItIsThere(t *testing.T) {
	for reason, over := range map[reconnect.Reason]bool{
		reconnect.ReasonRequested: true, reconnect.ReasonRedelivery: true, reconnect.ReasonRestartRequired: true,
		reconnect.ReasonConnectionClosed: false,
	} {
		m := machine()
		_, now := drop(m, start, time.Hour, cause(reason))
		require.Equal(t, reason, m.State().FirstDisconnectReason)
		m.Attempt(now)
		m.Connected(now)
		require.Equal(t, over, m.State().FirstDisconnectReason == reconnect.ReasonNone, reason)

		// With a failure in between there is one, which may be flapping.
		m = machine()
		_, now = drop(m, start, time.Hour, cause(reason))
		_, now = drop(m, now, 0, cause(reconnect.ReasonTimedOut))
		m.Attempt(now)
		m.Connected(now)
		require.Equal(t, reason, m.State().FirstDisconnectReason)
	}
}
