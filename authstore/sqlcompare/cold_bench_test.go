package sqlcompare

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkColdStart opens an account with 5,000 sessions again and again, in
// turns: sqlstore on SQLite and a file of localbackend. A start is over when a
// send to 256 others has what it asks the store for. Take -benchtime=20x.
func BenchmarkColdStart(b *testing.B) {
	all := []*contender{sqliteStore(b), localStore(b)}
	for _, c := range all {
		c.host.send(3)
		c.host.receive(3)
		fillSessions(b, c)
		c.cold()
	}
	times := make([][]time.Duration, len(all))
	var ratios []float64
	for round := 0; b.Loop(); round++ {
		for turn := range all {
			i := (turn + round) % len(all)
			start := time.Now()
			all[i].cold()
			times[i] = append(times[i], time.Since(start))
		}
		ratios = append(ratios, float64(times[0][round])/float64(times[1][round]))
	}
	require.NotEmpty(b, ratios)
	for i, c := range all {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Microseconds())/1000, fmt.Sprintf("ms-%d", i))
		b.Logf("%s: %v / %v / %v", c.name, times[i][0], times[i][len(times[i])/2], times[i][len(times[i])-1])
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "times-as-fast")
	b.ReportMetric(0, "ns/op")
}
