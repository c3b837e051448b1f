package reconnect_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
)

func seconds(t *rapid.T, name string, low, high int) time.Duration {
	return time.Duration(rapid.IntRange(low, high).Draw(t, name)) * time.Second
}

// sound checks what holds of every decision.
func sound(t require.TestingT, d reconnect.Decision, s reconnect.State, now time.Time) {
	require.GreaterOrEqual(t, d.Delay, time.Duration(0))
	require.Equal(t, d.ShouldReconnect, !d.NextRetryAt.IsZero())
	if d.ShouldReconnect {
		require.Equal(t, now.Add(d.Delay), d.NextRetryAt)
		require.False(t, d.NextRetryAt.Before(s.NotBefore), "inside the ban")
		require.Contains(t, []reconnect.Action{
			reconnect.ActionRetry, reconnect.ActionRestart, reconnect.ActionWait, reconnect.ActionSlowRetry, reconnect.ActionWaitStore,
		}, d.Action)
	} else {
		require.Zero(t, d.Delay)
		require.Contains(t, []reconnect.Action{
			reconnect.ActionPair, reconnect.ActionStop, reconnect.ActionStandby, reconnect.ActionNone,
		}, d.Action)
	}
	require.Equal(t, s.Status, d.Status)
	require.NotEqual(t, reconnect.StatusConnected, d.Status)
	require.Equal(t, s.RetryCount, d.RetryCount)
	require.True(t, d.NextRetryAt.Equal(s.NextRetryAt))
	require.False(t, s.DisconnectedSince.IsZero())
	require.LessOrEqual(t, len(s.Attempts), 256)
}

// In any order of events every decision is sound, an attempt the
// machine allows is never inside a ban, and a restart changes no promise.
func TestEveryDecisionIsSoundInAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() float64 { return rapid.Float64Range(0, 1).Draw(t, "u") }
		now := start
		m := reconnect.NewMachine(reconnect.Policy{}, reconnect.State{}, draw)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(seconds(t, "pause", 0, 200))
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				m.Connected(now)
				require.Equal(t, reconnect.StatusConnected, m.State().Status)
				require.True(t, m.State().DisconnectedSince.IsZero())
			case 1, 2:
				if at, ok := m.Allowed(now); ok {
					m.Attempt(now)
				} else {
					require.True(t, at.After(now))
				}
			case 3:
				m.NeedsPairing(reasons.Draw(t, "why"), now)
				require.Equal(t, reconnect.StatusNeedsPairing, m.State().Status)
			case 4:
				m.Paired(now)
				require.NotEqual(t, reconnect.StatusNeedsPairing, m.State().Status)
			case 5: // the process dies and another one reads the state
				data, err := reconnect.EncodeState(m.State())
				require.NoError(t, err)
				s, err := reconnect.DecodeState(data)
				require.NoError(t, err)
				m = reconnect.NewMachine(reconnect.Policy{}, s, draw)
				sound(t, m.Resume(now), m.State(), now)
			case 6:
				m.Healed(now)
				require.Empty(t, m.State().Attempts)
			default:
				c := causes.Draw(t, "cause")
				d := m.Disconnected(c, now)
				again := m.Disconnected(c, now.Add(time.Second))
				require.Equal(t, d, again, "one end, one decision")
				require.True(t, slices.IsSortedFunc(m.State().Attempts, time.Time.Compare))
				if d.ShouldReconnect {
					require.True(t, d.NextRetryAt.Equal(m.State().NextRetryAt))
				}
			}
		}
	})
}

func TestFreshDecisionsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := machine()
		now := start
		for range rapid.IntRange(1, 30).Draw(t, "ends") {
			m.Attempt(now)
			if rapid.Bool().Draw(t, "up") {
				m.Connected(now)
				now = now.Add(seconds(t, "life", 0, 120))
			}
			d := m.Disconnected(causes.Draw(t, "cause"), now)
			sound(t, d, m.State(), now)
			now = now.Add(d.Delay)
		}
	})
}

// The causes of one end in every order and number give one decision and one
// state.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	sets := [][]reconnect.Cause{
		{ // a replaced connection, seen four times
			{Reason: reconnect.ReasonConnectionReplaced, Source: reconnect.SourceTap},
			{Reason: reconnect.ReasonConnectionReplaced, Source: reconnect.SourceEvent},
			{Reason: reconnect.ReasonConnectionClosed, Source: reconnect.SourceEvent},
			{Reason: reconnect.ReasonConnectionLost, Source: reconnect.SourceRaw},
		},
		{ // a ban that comes with a lost lock: still never hammered
			{Reason: reconnect.ReasonTemporaryBan, Code: 402, Expire: time.Hour, Source: reconnect.SourceTap},
			{Reason: reconnect.ReasonTemporaryBan, Code: 402, Expire: time.Hour, Detail: "101: too many", Source: reconnect.SourceEvent},
			{Reason: reconnect.ReasonLockLost, Source: reconnect.SourceHost},
			{Reason: reconnect.ReasonConnectionClosed, Source: reconnect.SourceRaw},
		},
		{ // a logout while the host disconnects
			{Reason: reconnect.ReasonIntentional, Source: reconnect.SourceHost},
			{Reason: reconnect.ReasonLoggedOut, Code: 401, Source: reconnect.SourceEvent},
			{Reason: reconnect.ReasonConnectionClosed, Source: reconnect.SourceRaw},
		},
		{ // every reason at once
			cause(reconnect.ReasonConnectionClosed), cause(reconnect.ReasonTimedOut), cause(reconnect.ReasonBadSession),
			cause(reconnect.ReasonServiceUnavailable), cause(reconnect.ReasonRestartRequired), cause(reconnect.ReasonClientOutdated),
		},
	}
	for _, set := range sets {
		var decision reconnect.Decision
		var state reconnect.State
		random := rand.New(rand.NewPCG(1, 2))
		for round := range stabilitytest.Pick(1_000, 20_000) {
			order := slices.Clone(set)
			order = append(order, set[random.IntN(len(set))]) // one comes twice
			random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			m := machine()
			_, now := drop(m, start, 0, cause(reconnect.ReasonTimedOut))
			m.Attempt(now)
			m.Connected(now)
			var d reconnect.Decision
			for _, c := range order {
				d = m.Disconnected(c, now.Add(10*time.Second))
			}
			if round == 0 {
				decision, state = d, m.State()
				continue
			}
			require.Equal(t, decision, d)
			require.Equal(t, state, m.State())
		}
		for _, c := range set {
			require.False(t, c.Reason.Outranks(decision.Reason))
		}
	}
}

func TestAnyLoadedStateIsMadeUsable(t *testing.T) {
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return start.Add(seconds(t, "offset", -100_000_000, 100_000_000))
	})
	list := rapid.SliceOfN(instant, 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		s := reconnect.State{
			Version:              1,
			Status:               rapid.SampledFrom([]reconnect.Status{"", "CONNECTED", "DISCONNECTED", "NEEDS_PAIRING", "ON_FIRE"}).Draw(t, "status"),
			ConnectedAt:          instant.Draw(t, "connectedAt"),
			LastDisconnectAt:     instant.Draw(t, "lastDisconnectAt"),
			LastDisconnectReason: reasons.Draw(t, "reason"),
			FirstDisconnectAt:    instant.Draw(t, "firstDisconnectAt"),
			DisconnectedSince:    instant.Draw(t, "since"),
			RetryCount:           rapid.Int().Draw(t, "retryCount"),
			Failures:             rapid.Int().Draw(t, "failures"),
			RejectStreak:         rapid.Int().Draw(t, "rejects"),
			NextRetryAt:          instant.Draw(t, "nextRetryAt"),
			NotBefore:            instant.Draw(t, "notBefore"),
			Attempts:             list.Draw(t, "attempts"),
			Restarts:             list.Draw(t, "restarts"),
			Replacements:         list.Draw(t, "replacements"),
		}
		before, err := json.Marshal(s)
		require.NoError(t, err)
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		d := m.Resume(start)
		got := m.State()
		sound(t, d, got, start)

		for _, at := range slices.Concat(got.Attempts, got.Restarts, got.Replacements,
			[]time.Time{got.ConnectedAt, got.LastDisconnectAt, got.FirstDisconnectAt, got.DisconnectedSince, got.UpdatedAt}) {
			require.False(t, at.After(start), "an instant in the future")
		}
		for _, at := range got.Attempts {
			require.WithinDuration(t, start, at, 10*time.Minute)
		}
		require.False(t, got.NotBefore.After(start.Add(30*24*time.Hour)))
		require.False(t, got.NextRetryAt.After(start.Add(30*24*time.Hour)))
		require.GreaterOrEqual(t, got.RetryCount, 0)

		// The state that was passed in is not touched.
		after, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, before, after)

		d = m.Disconnected(causes.Draw(t, "cause"), start)
		sound(t, d, m.State(), start)
	})
}
