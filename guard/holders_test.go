package guard_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

func TestOnlyTheHolderSpeaksOfTheConnection(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := down(start)
	f.Holder = false
	f.SameID = true
	p := g.Decide(f, start.Add(time.Hour))
	require.Equal(t, []guard.Type{guard.TypeInstanceIDNotUnique}, types(p.Raise))
}

func TestNewHolderResolvesWhatItsPredecessorRaised(t *testing.T) {
	a := guard.New(guard.Policy{})
	p := a.Decide(down(start), start.Add(time.Hour))
	b := guard.New(guard.Policy{})
	b.Adopt(p.Raise)
	require.Equal(t, []string{"wa_disconnect_stuck_active"}, b.Decide(up, start.Add(2*time.Hour)).Resolve)
}

func TestWhoLostTheLockForgetsWhatTheNextHolderLooksAfter(t *testing.T) {
	g := guard.New(guard.Policy{})
	require.Len(t, g.Decide(down(start), start.Add(time.Hour)).Raise, 1)
	require.Equal(t, guard.Plan{}, g.Decide(guard.Facts{}, start.Add(2*time.Hour)))
	require.Empty(t, g.Decide(up, start.Add(3*time.Hour)).Resolve)
}

// An account that waits for a pairing needs a connection to show a code.
func TestUnfitInstancesAreToldOfThoughTheAccountIsNotPaired(t *testing.T) {
	for _, reason := range []string{"", "logged_out"} {
		g := guard.New(guard.Policy{})
		f := guard.Facts{Holder: true, NeedsPairing: true, Reason: reason, Unfit: []time.Time{start, start.Add(time.Minute)}}
		now := start.Add(2 * time.Minute)
		require.Contains(t, types(g.Decide(f, now).Raise), guard.TypeHolderUnfit)
		var resolved []time.Duration
		for ; now.Before(start.Add(3 * time.Hour)); now = now.Add(time.Minute) {
			for _, id := range g.Decide(f, now).Resolve {
				if id == guard.TypeHolderUnfit.ActiveID() {
					resolved = append(resolved, now.Sub(start))
					g.Resolved(id)
				}
			}
		}
		require.Equal(t, []time.Duration{time.Hour}, resolved, "they tried before that for the last time")
	}
}

func TestNobodyFitToHoldTheLockIsAnIncident(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := guard.Facts{Holder: true, DisconnectedSince: start, Reason: "client_outdated", Unfit: []time.Time{start}, UnfitText: "a: client_outdated"}
	require.NotContains(t, types(g.Decide(f, start).Raise), guard.TypeHolderUnfit, "one alone says nothing about the others")
	f.Unfit = append(f.Unfit, start.Add(2*time.Hour))
	require.NotContains(t, types(g.Decide(f, start.Add(2*time.Hour)).Raise), guard.TypeHolderUnfit, "the first one may have been mended since")
	f.Unfit[0] = start.Add(90 * time.Minute)
	p := g.Decide(f, start.Add(2*time.Hour))
	require.Equal(t, []guard.Type{guard.TypeHolderUnfit}, types(p.Raise))
	require.Equal(t, "2", p.Raise[0].Evidence["instances"])
	require.NotEmpty(t, p.Raise[0].Instructions)

	f.Unfit = nil
	require.Empty(t, g.Decide(f, start.Add(3*time.Hour)).Resolve, "that it is long ago is no cure")
	f.Connected, f.DisconnectedSince = true, time.Time{}
	require.Contains(t, g.Decide(f, start.Add(4*time.Hour)).Resolve, guard.TypeHolderUnfit.ActiveID())
}
