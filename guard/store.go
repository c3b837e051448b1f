package guard

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// RecordVersion is the newest format of a stored incident that this library
// reads and the one it writes.
const RecordVersion = 1

// Raised is what an IncidentStore stores for Raise(inc) when prev is stored
// under the same id, or the zero Incident where nothing is. opened is true when
// it was not active before. Every backend uses it, so that all agree.
//
// Times are kept in UTC and without a monotonic reading. A missing DetectedAt
// or LastCheckedAt is taken from the other.
func Raised(prev, inc Incident) (stored Incident, opened bool) {
	stored = inc
	stored.Evidence = maps.Clone(inc.Evidence)
	stored.Active, stored.ResolvedAt = true, time.Time{}
	stored.DetectedAt = cmp.Or(wall(inc.DetectedAt), wall(inc.LastCheckedAt))
	stored.LastCheckedAt = latest(wall(inc.LastCheckedAt), wall(inc.DetectedAt), wall(prev.LastCheckedAt))
	stored.FirstDetectedAt = cmp.Or(wall(prev.FirstDetectedAt), wall(inc.FirstDetectedAt), stored.DetectedAt)
	if prev.Active {
		stored.DetectedAt = wall(prev.DetectedAt)
	}
	return stored, !prev.Active
}

// Resolved is what an IncidentStore stores for Resolve(prev.ID, at). closed is
// false, and prev is returned, when prev is not active.
func Resolved(prev Incident, at time.Time) (stored Incident, closed bool) {
	if !prev.Active {
		return prev, false
	}
	stored = prev
	stored.Active, stored.ResolvedAt = false, wall(at)
	return stored, true
}

// Sort orders incidents as IncidentStore.List does: active ones first, then
// the newest DetectedAt first, then by id.
func Sort(incidents []Incident) {
	slices.SortFunc(incidents, func(a, b Incident) int {
		if a.Active != b.Active {
			if a.Active {
				return -1
			}
			return 1
		}
		return cmp.Or(b.DetectedAt.Compare(a.DetectedAt), strings.Compare(a.ID, b.ID))
	})
}

// wall makes times comparable with ==: a zero one in any zone is time.Time{}.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

func latest(ts ...time.Time) time.Time {
	return slices.MaxFunc(ts, time.Time.Compare)
}
