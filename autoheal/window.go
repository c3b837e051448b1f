package autoheal

import (
	"slices"
	"time"
)

// within counts the instants inside the window that ends now. Instants in the
// future count as now: a clock was stepped. leaves(i) is when the i-th oldest
// of them leaves the window.
func within(list []time.Time, now time.Time, length time.Duration) (n int, leaves func(i int) time.Time) {
	var in []time.Time
	for _, t := range list {
		if t.After(now) {
			t = now
		}
		if now.Sub(t) < length {
			in = append(in, t)
		}
	}
	slices.SortFunc(in, time.Time.Compare)
	return len(in), func(i int) time.Time { return in[i].Add(length) }
}
