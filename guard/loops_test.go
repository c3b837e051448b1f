package guard_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

func TestDemandsInARowAreALoopUntilItLasts(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := up
	f.Demands = 5
	require.Empty(t, g.Decide(f, start).Raise, "after pairing it is normal")
	f.Demands = 6
	p := g.Decide(f, start)
	require.Equal(t, []guard.Type{guard.TypeRestartLoop}, types(p.Raise))
	require.Equal(t, "6", p.Raise[0].Evidence["demands"])
	f.Demands, f.Connected = 0, false // as a new holder sees it
	require.Empty(t, g.Decide(f, start.Add(time.Hour)).Resolve, "not seen is not over")
	require.Empty(t, g.Decide(up, start.Add(2*time.Hour)).Resolve)
	require.Equal(t, []string{"wa_restart_loop_active"}, g.Decide(up, start.Add(2*time.Hour+time.Minute)).Resolve)
}

func TestFlappingTroubleIsOneIncident(t *testing.T) {
	g := guard.New(guard.Policy{})
	raised, resolved := map[time.Time]bool{}, 0
	for i := range 60 { // degraded every other 30 s
		now := start.Add(time.Duration(i) * 30 * time.Second)
		f := up
		if i%2 == 0 {
			f.DegradedSince = now
		}
		p := g.Decide(f, now)
		for _, inc := range p.Raise {
			raised[inc.DetectedAt] = true
		}
		resolved += len(p.Resolve)
	}
	require.Len(t, raised, 1)
	require.Zero(t, resolved)
	over := start.Add(59 * 30 * time.Second)
	require.Empty(t, g.Decide(up, over.Add(59*time.Second)).Resolve)
	require.Len(t, g.Decide(up, over.Add(time.Minute)).Resolve, 1)
}

// A loop is broken by the end of the process or by a new term in it. The text
// tells of what was done, and of both where that is not known.
func TestReconnectLoopSaysWhatWasDone(t *testing.T) {
	told := func(h guard.Heal) string {
		plan := guard.New(guard.Policy{}).Decide(guard.Facts{Holder: true, Loop: true, Heal: h, Reason: "timed_out", DisconnectedSince: start}, start)
		require.Len(t, plan.Raise, 1)
		require.Equal(t, guard.TypeReconnectLoop, plan.Raise[0].Type)
		return plan.Raise[0].Instructions + "\n" + plan.Raise[0].Runbook
	}
	exit, term, unknown := told(guard.HealExit), told(guard.HealTerm), told(guard.HealUnknown)
	require.Contains(t, exit, "the process restarts by itself")
	require.Contains(t, exit, "the process ended with code 1")
	require.NotContains(t, exit, "goes on")
	require.Contains(t, term, "The process goes on")
	for _, wrong := range []string{"restarts by itself", "code 1", "platform"} {
		require.NotContains(t, term, wrong)
	}
	require.Contains(t, unknown, "ended with code 1, or it goes on")
}
