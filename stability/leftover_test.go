package stability

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventBufferIsLookedThroughBehindABacklog(t *testing.T) {
	var b backlog
	now := time.Now()
	settles := func(want bool, next time.Time) {
		t.Helper()
		due, at := b.settles(now)
		require.Equal(t, want, due)
		require.Equal(t, next, at)
	}
	settles(false, time.Time{})
	b.delivered(now)
	first := now.Add(settleAfter)
	settles(false, first)

	now = now.Add(settleAfter - time.Minute) // a login every quarter of an hour puts nothing off
	b.hungUp()
	settles(false, time.Time{})
	b.delivered(now)
	settles(false, first)

	now = first
	settles(true, first.Add(settleAgain))
	settles(false, first.Add(settleAgain))
	b.delivered(now)
	settles(false, first.Add(settleAfter))
}
