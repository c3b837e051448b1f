package guard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimesAreFilledFromEachOther(t *testing.T) {
	now := time.Now()
	stored, opened := Raised(Incident{}, Incident{ID: "x", LastCheckedAt: now})
	require.True(t, opened)
	require.True(t, stored.DetectedAt.Equal(now))
	require.True(t, stored.FirstDetectedAt.Equal(now))
	require.Equal(t, time.UTC, stored.DetectedAt.Location())
	require.Equal(t, stored.DetectedAt, stored.DetectedAt.Round(0), "a monotonic reading does not survive a process")

	stored, _ = Raised(Incident{}, Incident{ID: "x", DetectedAt: now, LastCheckedAt: time.Time{}.In(time.FixedZone("", 3600))})
	require.True(t, stored.LastCheckedAt.Equal(now))
}

func TestARaisedIncidentIsActiveWhateverItSays(t *testing.T) {
	stored, opened := Raised(Incident{}, Incident{ID: "x", Active: false, ResolvedAt: time.Now()})
	require.True(t, opened)
	require.True(t, stored.Active)
	require.Zero(t, stored.ResolvedAt)
}

// An operator reads how long it lasts, and since when it is so again.
func TestAnOccurrenceKeepsItsStartAndANewOneHasNoEnd(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC) }
	first, _ := Raised(Incident{}, Incident{ID: "x", DetectedAt: at(0), LastCheckedAt: at(0)})
	again, opened := Raised(first, Incident{ID: "x", DetectedAt: at(1), LastCheckedAt: at(1)})
	require.False(t, opened)
	require.Equal(t, at(0), again.DetectedAt, "a refresh does not move its start")
	require.Equal(t, at(1), again.LastCheckedAt)

	over, closed := Resolved(again, at(2))
	require.True(t, closed)
	require.Equal(t, at(2), over.ResolvedAt)
	next, opened := Raised(over, Incident{ID: "x", DetectedAt: at(9), LastCheckedAt: at(9)})
	require.True(t, opened)
	require.Zero(t, next.ResolvedAt)
	require.Equal(t, at(9), next.DetectedAt)
	require.Equal(t, at(0), next.FirstDetectedAt)
}
