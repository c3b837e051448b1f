package keepalive_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/keepalive"
)

func check(p keepalive.Policy, o keepalive.Observation, now time.Time) keepalive.Verdict {
	return keepalive.New(p).Check(o, now)
}

// alive is a connection of an hour on which everything is fresh.
func alive(now time.Time) keepalive.Observation {
	o := up(now.Add(-time.Hour))
	o.LastReadAt, o.LastEventAt, o.LastMessageAt, o.LastProbeAt = now, now, now, now
	return o
}

func TestOKBeginsWhenTheTroubleEnds(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	o := up(start)
	o.HandlerSince = start
	now := start.Add(3 * time.Minute)
	require.Equal(t, keepalive.Degraded, m.Check(o, now).Health)
	o.HandlerSince, now = time.Time{}, now.Add(time.Second)
	require.Equal(t, now, m.Check(o, now).Since, "not since the trouble began")
	require.Equal(t, now, m.Check(o, now.Add(time.Second)).Since)
}

// The failures that a degraded connection began with leave their window one by
// one, and a stuck handler may have been there before them.
func TestDegradedSinceTheFirstSignOfIt(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	now := start.Add(time.Hour)
	o := alive(now)
	o.DecryptFailures, o.DecryptSince = 12, now.Add(-4*time.Minute)
	require.Equal(t, now.Add(-4*time.Minute), m.Check(o, now).Since)
	o.DecryptSince = now.Add(-time.Minute)
	require.Equal(t, now.Add(-4*time.Minute), m.Check(o, now).Since, "the first ones have left the window")
	o.HandlerSince = now.Add(-10 * time.Minute)
	require.Equal(t, now.Add(-10*time.Minute), m.Check(o, now).Since, "it is older than was known")
}

func TestSinceIsNeverInTheFuture(t *testing.T) {
	m := keepalive.New(keepalive.Policy{})
	require.Equal(t, start, m.Check(up(start), start).Since)
	before := start.Add(-time.Hour)
	require.Equal(t, before, m.Check(up(start), before).Since, "the clock was set back")
}

func TestEachInstantInTheFutureCountsAsNow(t *testing.T) {
	now := start
	for name, field := range map[string]func(*keepalive.Observation) *time.Time{
		"ConnectedAt":   func(o *keepalive.Observation) *time.Time { return &o.ConnectedAt },
		"LastReadAt":    func(o *keepalive.Observation) *time.Time { return &o.LastReadAt },
		"LastEventAt":   func(o *keepalive.Observation) *time.Time { return &o.LastEventAt },
		"LastMessageAt": func(o *keepalive.Observation) *time.Time { return &o.LastMessageAt },
		"LastProbeAt":   func(o *keepalive.Observation) *time.Time { return &o.LastProbeAt },
		"ProbeSentAt":   func(o *keepalive.Observation) *time.Time { return &o.ProbeSentAt },
		"HandlerSince":  func(o *keepalive.Observation) *time.Time { return &o.HandlerSince },
		"WaitingSince":  func(o *keepalive.Observation) *time.Time { return &o.WaitingSince },
		"DecryptSince":  func(o *keepalive.Observation) *time.Time { return &o.DecryptSince },
		"MuteSince":     func(o *keepalive.Observation) *time.Time { return &o.MuteSince },
	} {
		policy := keepalive.Policy{HandlerAfter: 10 * time.Second}
		with := func(at time.Time) keepalive.Verdict {
			o := up(now.Add(-time.Minute))
			if name != "MuteSince" { // it comes behind them
				o.DecryptFailures, o.DecryptSince = 10, now.Add(-time.Second)
			}
			*field(&o) = at
			return check(policy, o, now)
		}
		for _, ahead := range []time.Duration{time.Second, time.Hour, 1000 * time.Hour} {
			require.Equal(t, with(now), with(now.Add(ahead)), "%s %s ahead", name, ahead)
		}
	}
	down := keepalive.Observation{DisconnectedAt: now.Add(time.Hour)}
	require.Equal(t, now, check(keepalive.Policy{}, down, now).Since)
}

func TestEverySignOfLifeKeepsAConnectionFromGoingStale(t *testing.T) {
	now := start.Add(time.Hour)
	sign := now.Add(-299 * time.Second)
	for name, set := range map[string]func(*keepalive.Observation){
		"connect": func(o *keepalive.Observation) { o.ConnectedAt = sign },
		"bytes":   func(o *keepalive.Observation) { o.LastReadAt = sign },
		"event":   func(o *keepalive.Observation) { o.LastEventAt = sign },
		"message": func(o *keepalive.Observation) { o.LastMessageAt = sign },
		"probe":   func(o *keepalive.Observation) { o.LastProbeAt = sign },
	} {
		o := up(start)
		set(&o)
		require.NotEqual(t, keepalive.Stale, check(keepalive.Policy{}, o, now).Health, name)
		v := check(keepalive.Policy{}, o, now.Add(time.Second))
		require.Equal(t, keepalive.Stale, v.Health, name)
		require.True(t, v.Reconnect, name)
		require.Equal(t, sign, v.Since, name)
	}
}

func TestOnlyEventsAndMessagesBreakTheQuiet(t *testing.T) {
	now := start.Add(time.Hour)
	o := up(start)
	o.LastReadAt, o.LastProbeAt = now, now
	require.Equal(t, keepalive.Quiet, check(keepalive.Policy{}, o, now).Health, "answers to pings are no events")
	event, message := o, o
	event.LastEventAt = now.Add(-time.Minute)
	message.LastMessageAt = now.Add(-time.Minute)
	require.Equal(t, keepalive.OK, check(keepalive.Policy{}, event, now).Health)
	require.Equal(t, keepalive.OK, check(keepalive.Policy{}, message, now).Health)
}

// Not since the last event, nor since somebody noticed.
func TestStaleSinceTheLastActivity(t *testing.T) {
	now := start.Add(time.Hour)
	o := up(start)
	o.LastEventAt, o.LastProbeAt = start.Add(10*time.Minute), start.Add(20*time.Minute)
	silent := check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Stale, silent.Health)
	require.Equal(t, o.LastProbeAt, silent.Since)
	o.ProbesFailed = 2
	o.LastProbeAt = now.Add(-time.Minute)
	unanswered := check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Stale, unanswered.Health)
	require.Equal(t, o.LastProbeAt, unanswered.Since)
}

func TestNineFailuresAreNotYetDegraded(t *testing.T) {
	o := alive(start)
	o.DecryptFailures, o.DecryptSince = 9, start.Add(-time.Minute)
	require.Equal(t, keepalive.OK, check(keepalive.Policy{}, o, start).Health)
}

func TestTheWorstThatFitsIsReported(t *testing.T) {
	now := start.Add(time.Hour)
	stuck, failing := now.Add(-20*time.Minute), now.Add(-time.Minute)
	o := up(start) // for an hour nothing came
	o.ProbesFailed = 2
	o.HandlerSince = stuck
	o.DecryptFailures, o.DecryptSince = 10, failing

	v := check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Stale, v.Health)
	require.Contains(t, v.Text, "2 pings in a row", "the surer sign is named")
	o.ProbesFailed = 0
	v = check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Stale, v.Health)
	require.Contains(t, v.Text, "nothing came from the server")

	o.LastProbeAt = now
	v = check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Degraded, v.Health, "not quiet")
	require.Equal(t, stuck, v.Since, "the handler first: what it holds up is not decrypted")
	o.HandlerSince = time.Time{}
	v = check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Degraded, v.Health)
	require.Equal(t, failing, v.Since)
	o.DecryptFailures = 0
	o.MuteSince = now.Add(-3 * time.Minute)
	v = check(keepalive.Policy{}, o, now)
	require.Equal(t, keepalive.Mute, v.Health)
	require.Equal(t, o.MuteSince, v.Since)
	require.False(t, v.Reconnect, "a new link would not help")
	o.MuteSince = time.Time{}
	require.Equal(t, keepalive.Quiet, check(keepalive.Policy{}, o, now).Health)

	for name, o := range map[string]keepalive.Observation{
		"handler":  {Connected: true, ConnectedAt: start, HandlerSince: stuck},
		"failures": {Connected: true, ConnectedAt: start, DecryptFailures: 10, DecryptSince: failing},
	} {
		o.ProbesFailed, o.LastProbeAt = 2, now
		require.Equal(t, keepalive.Stale, check(keepalive.Policy{}, o, now).Health, name)
	}
}

func TestAPingThatGotLostIsAskedForAgain(t *testing.T) {
	o := up(start)
	o.ProbeSentAt = start.Add(45 * time.Second)
	require.False(t, check(keepalive.Policy{}, o, start.Add(89*time.Second)).Probe)
	require.True(t, check(keepalive.Policy{}, o, start.Add(90*time.Second)).Probe)
}

func TestCheckAtIsTheNextChange(t *testing.T) {
	now := start.Add(time.Hour)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name string
		p    keepalive.Policy
		set  func(*keepalive.Observation)
		in   time.Duration
	}{
		{"a ping is due", keepalive.Policy{}, func(*keepalive.Observation) {}, 45 * time.Second},
		{"the ping that was sent is due again", keepalive.Policy{}, func(o *keepalive.Observation) {
			o.LastReadAt, o.LastEventAt, o.LastMessageAt, o.LastProbeAt = ago(30*time.Second), ago(30*time.Second), ago(30*time.Second), ago(30*time.Second)
			o.ProbeSentAt = ago(10 * time.Second)
		}, 35 * time.Second},
		{"it goes quiet", keepalive.Policy{QuietAfter: 90 * time.Second}, func(o *keepalive.Observation) {
			o.LastEventAt, o.LastMessageAt = ago(time.Minute), ago(time.Minute)
		}, 30 * time.Second},
		{"it goes stale", keepalive.Policy{QuietAfter: time.Hour, ProbeAfter: 4 * time.Minute}, func(o *keepalive.Observation) {
			o.LastEventAt, o.LastMessageAt = ago(3*time.Minute), ago(3*time.Minute)
			o.LastReadAt, o.LastProbeAt = ago(2*time.Minute), ago(2*time.Minute)
			o.ProbeSentAt = now
		}, 3 * time.Minute},
		{"the handler has been busy for too long", keepalive.Policy{}, func(o *keepalive.Observation) {
			o.HandlerSince = ago(110 * time.Second)
		}, 10 * time.Second},
		{"something has waited for too long", keepalive.Policy{}, func(o *keepalive.Observation) {
			o.Waiting, o.WaitingSince = 1, ago(590*time.Second)
		}, 10 * time.Second},
	} {
		o := alive(now)
		c.set(&o)
		require.Equal(t, c.in, check(c.p, o, now).CheckAt.Sub(now), c.name)
	}
}

func TestTheSentencesSayWhatWasMeasured(t *testing.T) {
	now := start.Add(time.Hour)
	for _, c := range []struct {
		set  func(*keepalive.Observation)
		want string
	}{
		{func(o *keepalive.Observation) { o.Connected = false }, "There is no connection."},
		{func(o *keepalive.Observation) { o.ProbesFailed = 3 }, "The socket is open but dead: 3 pings in a row were not answered."},
		{func(o *keepalive.Observation) {
			*o = up(now.Add(-6*time.Minute - 3400*time.Millisecond))
		}, "The socket is open but dead: nothing came from the server for 6m3s."},
		{func(o *keepalive.Observation) { o.HandlerSince = now.Add(-3*time.Minute - 700*time.Millisecond) },
			"The link is alive, but an event handler of this program has been running for 3m1s; what comes after it waits."},
		{func(o *keepalive.Observation) { o.DecryptFailures = 17 }, "The link is alive, but 17 messages within 7m could not be decrypted."},
		{func(o *keepalive.Observation) {
			o.Waiting, o.WaitingSince, o.PerSecond = 3412, now.Add(-12*time.Minute), 19.8
			o.HandlerSince = now.Add(-50 * time.Millisecond)
		}, "The link is alive and the event handlers get on, but they are slow. " +
			"3412 received messages, receipts and notices wait to be handled, the oldest for 12m; about 20 a second are handled."},
		{func(o *keepalive.Observation) {
			o.Waiting, o.WaitingSince, o.PerSecond = 12, now.Add(-time.Minute), 0.25
		}, "Connected, and the server answers. 12 received messages, receipts and notices wait to be handled, the oldest for 1m; about 0.2 a second are handled."},
		{func(o *keepalive.Observation) { o.WaitingSince = now.Add(-time.Minute) },
			"Connected, and the server answers. Received messages, receipts and notices wait to be handled, for 1m."},
		{func(o *keepalive.Observation) { o.Waiting, o.WaitingSince = 1, now.Add(-29*time.Second) }, "Connected, and the server answers."},
		{func(o *keepalive.Observation) {
			o.Waiting, o.WaitingSince, o.HandlerSince = 9, now.Add(-12*time.Minute), now.Add(-11*time.Minute)
		}, "The link is alive, but an event handler of this program has been running for 11m; what comes after it waits."},
		{func(o *keepalive.Observation) {
			*o = up(now.Add(-8 * time.Minute))
			o.LastProbeAt = now.Add(-time.Minute)
		}, "Connected; nothing happened for 8m, and the server answers."},
		{func(o *keepalive.Observation) {
			o.MuteSince, o.MuteText = now.Add(-time.Minute), "The last 7 sends were not answered."
		}, "The link is alive, but what is sent does not go through. The last 7 sends were not answered."},
		{func(*keepalive.Observation) {}, "Connected, and the server answers."},
	} {
		o := alive(now)
		c.set(&o)
		require.Equal(t, c.want, check(keepalive.Policy{DecryptWindow: 7 * time.Minute}, o, now).Text)
	}
}

func TestTheDefaults(t *testing.T) {
	want := keepalive.Policy{
		StaleAfter: 5 * time.Minute, MaxFailures: 2, ProbeAfter: 45 * time.Second, QuietAfter: 5 * time.Minute,
		HandlerAfter: 2 * time.Minute, BacklogAfter: 10 * time.Minute, DecryptLimit: 10, DecryptWindow: 5 * time.Minute,
		MuteAfter: 5, MuteRecipients: 3, AnswerAfter: time.Minute,
	}
	require.Equal(t, want, keepalive.Policy{}.Defaults())
	own := keepalive.Policy{
		StaleAfter: 1, MaxFailures: 3, ProbeAfter: 4, QuietAfter: 5, HandlerAfter: 6, BacklogAfter: 9, DecryptLimit: 7, DecryptWindow: 8,
		MuteAfter: 11, MuteRecipients: 10, AnswerAfter: 12,
	}
	require.Equal(t, own, own.Defaults())
}

func TestEachNegativeThresholdIsNamed(t *testing.T) {
	for field, p := range map[string]keepalive.Policy{
		"StaleAfter": {StaleAfter: -1}, "MaxFailures": {MaxFailures: -1}, "ProbeAfter": {ProbeAfter: -1}, "QuietAfter": {QuietAfter: -1},
		"HandlerAfter": {HandlerAfter: -1}, "BacklogAfter": {BacklogAfter: -1}, "DecryptLimit": {DecryptLimit: -1}, "DecryptWindow": {DecryptWindow: -1},
		"MuteAfter": {MuteAfter: -1}, "MuteRecipients": {MuteRecipients: -1}, "AnswerAfter": {AnswerAfter: -1},
	} {
		require.ErrorContains(t, p.Validate(), "Policy."+field+" is negative")
	}
	require.NoError(t, keepalive.Policy{ProbeAfter: time.Minute - 1, StaleAfter: time.Minute}.Validate())
	require.ErrorContains(t, keepalive.Policy{ProbeAfter: time.Minute, StaleAfter: time.Minute}.Validate(), "must be shorter")
	require.NoError(t, keepalive.Policy{MuteAfter: 3, MuteRecipients: 3}.Validate())
	require.ErrorContains(t, keepalive.Policy{MuteAfter: 2}.Validate(), "MuteRecipients (3) must not be more than Policy.MuteAfter (2)")
}
