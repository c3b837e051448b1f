// Package plain writes things the way people say them.
package plain

import (
	"strings"
	"time"
)

// Span is a length of time: 700ms, 9s, 2m10s, 1h. What is negative is 0s.
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
