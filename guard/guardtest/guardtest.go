// Package guardtest is the conformance suite of guard.IncidentStore.
package guardtest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

// Account is one account's incidents as one instance sees them.
type Account struct {
	Store guard.IncidentStore
	// Reopen ends this instance and opens the same account again. nil when
	// nothing outlives the instance.
	Reopen func(t *testing.T) Account
	// PlantNewer makes the stored incident id look as if a newer library had
	// written it. Required: every backend keeps a format version.
	PlantNewer func(t *testing.T, id string)
}

// Run tests a backend. open makes a new, empty account for each subtest and
// closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Account) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Account)
	}{
		{"NothingIsListedAtFirst", testEmpty},
		{"AnIncidentIsRaisedOnce", testRaisedOnce},
		{"ARefreshKeepsWhenItBegan", testRefresh},
		{"TheSecondOutageRaisesAgain", testReopened},
		{"LastCheckedNeverGoesBackwards", testLastChecked},
		{"ResolvingTwiceOrTheUnknownIsNoError", testResolve},
		{"EveryFieldIsKept", testFields},
		{"ActiveOnesAreListedFirstAndNewestFirst", testOrder},
		{"WhatIsReturnedBelongsToTheCaller", testOwnership},
		{"OfConcurrentCallsOneOpensAndOneCloses", testConcurrent},
		{"AnIncidentNeedsAnID", testNoID},
		{"ANewerFormatIsNeverOverwritten", testNewer},
		{"IncidentsSurviveTheInstance", testSurvive},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

// t0 has milliseconds: the precision every backend must keep.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

func incident(id string, detected time.Time) guard.Incident {
	return guard.Incident{
		ID: id, Type: guard.TypeDisconnectStuck, InstanceID: "one", DetectedAt: detected, LastCheckedAt: detected,
		Evidence: map[string]string{"reason": "timed_out"}, Instructions: "check the network", Runbook: "longer",
	}
}

func raise(t *testing.T, a Account, inc guard.Incident) (guard.Incident, bool) {
	t.Helper()
	stored, opened, err := a.Store.Raise(t.Context(), inc)
	require.NoError(t, err)
	require.True(t, stored.Active)
	require.Zero(t, stored.ResolvedAt)
	requireEqual(t, stored, find(t, a, inc.ID))
	return stored, opened
}

func resolve(t *testing.T, a Account, id string, when time.Time) bool {
	t.Helper()
	closed, err := a.Store.Resolve(t.Context(), id, when)
	require.NoError(t, err)
	return closed
}

func list(t *testing.T, a Account) []guard.Incident {
	t.Helper()
	got, err := a.Store.List(t.Context())
	require.NoError(t, err)
	return got
}

func find(t *testing.T, a Account, id string) guard.Incident {
	t.Helper()
	for _, inc := range list(t, a) {
		if inc.ID == id {
			return inc
		}
	}
	require.Fail(t, "not listed", id)
	return guard.Incident{}
}

// requireEqual compares with the precision of a millisecond.
func requireEqual(t *testing.T, want, got guard.Incident) {
	t.Helper()
	for _, x := range []*guard.Incident{&want, &got} {
		for _, ts := range []*time.Time{&x.DetectedAt, &x.FirstDetectedAt, &x.LastCheckedAt, &x.ResolvedAt} {
			*ts = ts.Truncate(time.Millisecond).UTC()
		}
		if len(x.Evidence) == 0 {
			x.Evidence = nil
		}
	}
	require.Equal(t, want, got)
}

func testEmpty(t *testing.T, a Account) { require.Empty(t, list(t, a)) }

func testRaisedOnce(t *testing.T, a Account) {
	inc := incident("x_active", t0)
	stored, opened := raise(t, a, inc)
	require.True(t, opened)
	inc.Active, inc.FirstDetectedAt = true, t0
	requireEqual(t, inc, stored)
	for range 3 {
		_, opened = raise(t, a, inc)
		require.False(t, opened, "it is known already: nobody is told twice")
	}
	_, opened = raise(t, a, incident("y_active", t0))
	require.True(t, opened, "another id is another incident")
	require.Len(t, list(t, a), 2)
}

func testRefresh(t *testing.T, a Account) {
	raise(t, a, incident("x", t0))
	next := incident("x", at(time.Minute))
	next.FirstDetectedAt = at(time.Minute)
	next.InstanceID, next.Instructions, next.Runbook = "two", "do that", "page 2"
	next.Evidence = map[string]string{"attempts": "7"}
	stored, opened := raise(t, a, next)
	require.False(t, opened)
	want := next
	want.Active, want.DetectedAt, want.FirstDetectedAt = true, t0, t0
	requireEqual(t, want, stored)
}

func testReopened(t *testing.T, a Account) {
	raise(t, a, incident("x", t0))
	require.True(t, resolve(t, a, "x", at(time.Minute)))
	got := find(t, a, "x")
	require.False(t, got.Active)
	require.True(t, got.ResolvedAt.Equal(at(time.Minute)))
	require.True(t, got.DetectedAt.Equal(t0))
	require.Equal(t, "check the network", got.Instructions, "a resolved incident still tells what it was")

	stored, opened := raise(t, a, incident("x", at(time.Hour)))
	require.True(t, opened, "the second outage raises again")
	require.True(t, stored.DetectedAt.Equal(at(time.Hour)))
	require.True(t, stored.FirstDetectedAt.Equal(t0))
	require.Len(t, list(t, a), 1)
}

func testLastChecked(t *testing.T, a Account) {
	raise(t, a, incident("x", at(time.Minute)))
	late := incident("x", at(time.Second)) // from an instance whose clock is behind
	stored, _ := raise(t, a, late)
	require.True(t, stored.LastCheckedAt.Equal(at(time.Minute)))
	resolve(t, a, "x", at(2*time.Minute))
	stored, _ = raise(t, a, late)
	require.True(t, stored.LastCheckedAt.Equal(at(time.Minute)))
}

func testResolve(t *testing.T, a Account) {
	require.False(t, resolve(t, a, "unknown", t0))
	require.Empty(t, list(t, a), "resolving the unknown makes nothing")
	raise(t, a, incident("x", t0))
	require.True(t, resolve(t, a, "x", at(time.Minute)))
	require.False(t, resolve(t, a, "x", at(time.Hour)))
	require.True(t, find(t, a, "x").ResolvedAt.Equal(at(time.Minute)), "the first resolution stays")
}

func testFields(t *testing.T, a Account) {
	for i, id := range []string{"plain_active", "a/b", "a:b@c", "..", "é日本😀", "%2F", " "} {
		inc := incident(id, at(time.Duration(i)*time.Millisecond))
		inc.Type = guard.Type(fmt.Sprint("type ", i))
		inc.FirstDetectedAt = at(-time.Hour)
		inc.LastCheckedAt = at(time.Hour + time.Millisecond)
		inc.Evidence = map[string]string{"": "empty key", "quote\"": "new\nline", "é": "日本", "empty": "", "long": strings.Repeat("x", 10_000)}
		stored, opened := raise(t, a, inc)
		require.True(t, opened)
		inc.Active = true
		requireEqual(t, inc, stored)
	}
	zoned := incident("zoned", t0.In(time.FixedZone("", 2*3600)))
	stored, _ := raise(t, a, zoned)
	require.True(t, stored.DetectedAt.Equal(t0))
	bare, _ := raise(t, a, guard.Incident{ID: "bare", DetectedAt: t0})
	require.Empty(t, bare.Evidence)
}

func testOrder(t *testing.T, a Account) {
	for i, id := range []string{"c", "a", "e", "b", "d"} {
		raise(t, a, incident(id, at(time.Duration(i)*time.Minute)))
	}
	resolve(t, a, "d", at(time.Hour))
	resolve(t, a, "c", at(time.Hour))
	var order string
	for _, inc := range list(t, a) {
		order += inc.ID
	}
	require.Equal(t, "beadc", order)
}

func testOwnership(t *testing.T, a Account) {
	inc := incident("x", t0)
	stored, _ := raise(t, a, inc)
	inc.Evidence["reason"] = "changed"
	stored.Evidence["reason"] = "changed"
	find(t, a, "x").Evidence["reason"] = "changed"
	require.Equal(t, "timed_out", find(t, a, "x").Evidence["reason"])
}

func testConcurrent(t *testing.T, a Account) {
	for round := range 5 {
		var opened, closed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, o, err := a.Store.Raise(t.Context(), incident("x", at(time.Duration(round)*time.Hour)))
				if err != nil {
					t.Error(err)
				}
				if o {
					opened.Add(1)
				}
			})
		}
		wg.Wait()
		for range 8 {
			wg.Go(func() {
				c, err := a.Store.Resolve(t.Context(), "x", at(time.Duration(round)*time.Hour+time.Minute))
				if err != nil {
					t.Error(err)
				}
				if c {
					closed.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, opened.Load(), "one caller is told that it is new")
		require.EqualValues(t, 1, closed.Load(), "one caller is told that it is over")
	}
}

func testNoID(t *testing.T, a Account) {
	_, _, err := a.Store.Raise(t.Context(), guard.Incident{Type: guard.TypeDegraded, DetectedAt: t0})
	require.ErrorIs(t, err, guard.ErrNoID)
	require.Empty(t, list(t, a))
	require.False(t, resolve(t, a, "", t0))
}

func testNewer(t *testing.T, a Account) {
	raise(t, a, incident("newer", t0))
	raise(t, a, incident("known", t0))
	a.PlantNewer(t, "newer")
	for range 2 { // the second time shows that the first wrote nothing
		_, _, err := a.Store.Raise(t.Context(), incident("newer", at(time.Hour)))
		require.ErrorIs(t, err, guard.ErrNewerFormat)
		_, err = a.Store.Resolve(t.Context(), "newer", at(time.Hour))
		require.ErrorIs(t, err, guard.ErrNewerFormat)
		got, err := a.Store.List(t.Context())
		require.ErrorIs(t, err, guard.ErrNewerFormat)
		require.Len(t, got, 1, "what can be read is listed beside the error")
		require.Equal(t, "known", got[0].ID)
	}
}

func testSurvive(t *testing.T, a Account) {
	if a.Reopen == nil {
		t.Skip("nothing of this backend outlives the instance")
	}
	x, _ := raise(t, a, incident("x", t0))
	raise(t, a, incident("y", at(time.Minute)))
	resolve(t, a, "y", at(time.Hour))
	before := list(t, a)
	a = a.Reopen(t)
	after := list(t, a)
	require.Len(t, after, 2)
	for i := range after {
		requireEqual(t, before[i], after[i])
	}
	_, opened := raise(t, a, x)
	require.False(t, opened, "an incident that lasts is not raised again by a restart")
}
