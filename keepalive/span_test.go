package keepalive_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/keepalive"
)

func TestSpansReadTheWayPeopleSayThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour:               "0s",
		0:                        "0s",
		40 * time.Millisecond:    "0s",
		651 * time.Millisecond:   "700ms",
		999 * time.Millisecond:   "1s",
		19700 * time.Millisecond: "20s",
		50 * time.Second:         "50s",
		10 * time.Minute:         "10m",
		130 * time.Second:        "2m10s",
		time.Hour:                "1h",
		20 * time.Hour:           "20h",
		time.Hour + time.Second:  "1h0m1s",
		90 * time.Minute:         "1h30m",
	} {
		require.Equal(t, want, keepalive.Span(d), d.String())
	}
}
