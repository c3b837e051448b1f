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
