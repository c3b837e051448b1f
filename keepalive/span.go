package keepalive

import (
	"strings"
	"time"
)

// Span writes a length of time the way the texts of verdicts do: 700ms, 9s,
// 2m10s, 1h. A negative length is 0s. Texts that stand beside a verdict use it too,
// so that all of them read alike.
func Span(d time.Duration) string {
	unit := time.Second
	if d < time.Second {
		unit = 100 * time.Millisecond
	}
	s := max(0, d).Round(unit).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
