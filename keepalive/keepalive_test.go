package keepalive_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/keepalive"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func up(at time.Time) keepalive.Observation {
	return keepalive.Observation{Connected: true, ConnectedAt: at}
}

func TestQuietAccountIsNeverTornDown(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	for i := range 24 * 60 * 2 { // 24 h, a ping answered every 30 s
		now := start.Add(time.Duration(i) * 30 * time.Second)
		o.LastProbeAt = now
		v := m.Check(o, now)
		require.False(t, v.Reconnect)
		want := keepalive.OK
		if now.Sub(start) >= 5*time.Minute {
			want = keepalive.Quiet
			require.Equal(t, start, v.Since)
		}
		require.Equal(t, want, v.Health)
	}
}

func TestBlackHoleIsNoticedByFailedPings(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	o.LastReadAt = start.Add(time.Minute)
	o.ProbesFailed = 1
	require.False(t, m.Check(o, start.Add(100*time.Second)).Reconnect)
	o.ProbesFailed = 2
	v := m.Check(o, start.Add(140*time.Second))
	require.True(t, v.Reconnect)
	require.Equal(t, keepalive.Stale, v.Health)
	require.Equal(t, o.LastReadAt, v.Since, "since when it is dead, not since when that was noticed")
}

func TestConnectionOnWhichNothingEverCameGoesStale(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	require.Equal(t, keepalive.OK, m.Check(up(start), start.Add(4*time.Minute)).Health)
	require.True(t, m.Check(up(start), start.Add(5*time.Minute)).Reconnect)
}

func TestSilenceOnlyAsksForAProbe(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	now := start.Add(45 * time.Second)
	v := m.Check(o, now)
	require.True(t, v.Probe)
	require.False(t, v.Reconnect)
	o.ProbeSentAt = now
	require.False(t, m.Check(o, now.Add(time.Second)).Probe, "one is on its way")
	o.LastProbeAt = now.Add(2 * time.Second)
	require.False(t, m.Check(o, now.Add(3*time.Second)).Probe)
}

func TestStuckHandlerAndUndecryptableMessagesAreDegraded(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	now := start.Add(time.Hour)
	o := up(start)
	o.LastReadAt, o.LastEventAt = now, now
	o.HandlerSince = now.Add(-2 * time.Minute)
	v := m.Check(o, now)
	require.Equal(t, keepalive.Degraded, v.Health)
	require.Equal(t, o.HandlerSince, v.Since)
	require.False(t, v.Reconnect)
	o.HandlerSince = time.Time{}
	require.Equal(t, keepalive.OK, m.Check(o, now).Health)
	o.DecryptFailures, o.DecryptSince = 10, now.Add(-time.Minute)
	v = m.Check(o, now)
	require.Equal(t, keepalive.Degraded, v.Health)
	require.Equal(t, o.DecryptSince, v.Since)
}

func TestSinceStaysWhileTheHealthDoes(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	require.Equal(t, start, m.Check(o, start).Since)
	o.LastEventAt = start.Add(time.Minute)
	require.Equal(t, start, m.Check(o, start.Add(time.Minute)).Since)
	o.DisconnectedAt, o.Connected, o.DownBecause = start.Add(2*time.Minute), false, "the name could not be resolved"
	v := m.Check(o, start.Add(3*time.Minute))
	require.Equal(t, keepalive.Down, v.Health)
	require.Equal(t, start.Add(2*time.Minute), v.Since)
	require.Equal(t, "There is no connection: the name could not be resolved.", v.Text)
}

func TestQuietBeginsWithTheLastEvent(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	for i := range 5 {
		o.LastEventAt = start.Add(time.Duration(i) * time.Hour)
		now := o.LastEventAt.Add(10 * time.Minute)
		o.LastProbeAt = now
		v := m.Check(o, now)
		require.Equal(t, keepalive.Quiet, v.Health)
		require.Equal(t, o.LastEventAt, v.Since)
	}
}

var observations = rapid.Custom(func(t *rapid.T) keepalive.Observation {
	at := func(name string) time.Time {
		n := rapid.IntRange(-700, 200).Draw(t, name)
		if n > 100 {
			return time.Time{}
		}
		return start.Add(time.Duration(n) * time.Second)
	}
	return keepalive.Observation{
		Connected:   rapid.Bool().Draw(t, "connected"),
		ConnectedAt: start.Add(-time.Duration(rapid.IntRange(0, 900).Draw(t, "connectedAt")) * time.Second), DisconnectedAt: at("disconnectedAt"),
		LastReadAt: at("read"), LastEventAt: at("event"), LastMessageAt: at("message"),
		LastProbeAt: at("probe"), ProbeSentAt: at("sent"), ProbesFailed: rapid.IntRange(0, 3).Draw(t, "failed"),
		HandlerSince: at("handler"), DecryptFailures: rapid.IntRange(0, 12).Draw(t, "decrypt"), DecryptSince: at("decryptSince"),
	}
})

func TestVerdictHoldsUntilCheckAtAndNotLonger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := observations.Draw(t, "o")
		v := keepalive.New(keepalive.Policy{}).Check(o, start)
		require.NotEmpty(t, v.Text)
		require.False(t, v.Since.IsZero())
		require.False(t, v.Since.After(start))
		require.Equal(t, v.Health == keepalive.Stale, v.Reconnect)
		require.False(t, v.Probe && v.Reconnect)
		if !o.Connected || v.Reconnect {
			require.True(t, v.CheckAt.IsZero())
			return
		}
		require.True(t, v.CheckAt.After(start))
		if future(o) { // instants that clamping moved move along with now
			return
		}
		later := start.Add(time.Duration(rapid.Int64Range(0, int64(v.CheckAt.Sub(start))-1).Draw(t, "later")))
		w := keepalive.New(keepalive.Policy{}).Check(o, later)
		require.Equal(t, v.Health, w.Health)
		require.Equal(t, v.Probe, w.Probe)
	})
}

func TestFollowingCheckAtMissesNothing(t *testing.T) {
	for _, c := range []struct {
		policy keepalive.Policy
		want   []time.Duration // instants of the checks; the last finds it stale
	}{
		{keepalive.Policy{QuietAfter: time.Hour, ProbeAfter: 4 * time.Minute}, []time.Duration{0, 4 * time.Minute, 5 * time.Minute}},
		{keepalive.Policy{QuietAfter: time.Minute, ProbeAfter: 2 * time.Minute, StaleAfter: 3 * time.Minute},
			[]time.Duration{0, time.Minute, 2 * time.Minute, 3 * time.Minute}},
	} {
		m := keepalive.New(c.policy)
		o := up(start)
		now := start
		var got []time.Duration
		for {
			got = append(got, now.Sub(start))
			v := m.Check(o, now)
			if v.Probe {
				o.ProbeSentAt = now // and never answered
			}
			if v.Reconnect {
				break
			}
			now = m.Check(o, now).CheckAt
		}
		require.Equal(t, c.want, got)
	}
}

func future(o keepalive.Observation) bool {
	for _, t := range []time.Time{o.LastReadAt, o.LastEventAt, o.LastMessageAt, o.LastProbeAt, o.ProbeSentAt, o.HandlerSince} {
		if t.After(start) {
			return true
		}
	}
	return false
}

func TestThresholdsAreValidatedByName(t *testing.T) {
	require.NoError(t, keepalive.Policy{}.Validate())
	for field, p := range map[string]keepalive.Policy{
		"StaleAfter": {StaleAfter: -1}, "MaxFailures": {MaxFailures: -1}, "QuietAfter": {QuietAfter: -1},
		"HandlerAfter": {HandlerAfter: -1}, "BacklogAfter": {BacklogAfter: -1}, "DecryptLimit": {DecryptLimit: -1}, "DecryptWindow": {DecryptWindow: -1},
		"ProbeAfter": {ProbeAfter: time.Hour},
	} {
		require.ErrorContains(t, p.Validate(), "Policy."+field)
	}
}
