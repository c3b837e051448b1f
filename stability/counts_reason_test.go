package stability

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestDisconnectIsCountedOnceUnderItsFinalReason(t *testing.T) {
	at := time.Now()
	var c counts
	event := func(k EventKind, r reconnect.Reason) { c.event(&Event{Kind: k, Reason: r, Time: at}) }
	event(EventDisconnected, reconnect.ReasonConnectionClosed)
	require.Empty(t, c.ends, "a better reason may come")
	event(EventReasonKnown, reconnect.ReasonServiceUnavailable)
	event(EventConnecting, "")
	event(EventReasonKnown, reconnect.ReasonTimedOut)
	require.Equal(t, map[reconnect.Reason]uint64{reconnect.ReasonServiceUnavailable: 1}, c.ends)

	event(EventDisconnected, reconnect.ReasonTimedOut)
	c.settle(at.Add(reasonSettles - 1))
	require.Len(t, c.ends, 1)
	c.settle(at.Add(reasonSettles))
	event(EventReasonKnown, reconnect.ReasonLoggedOut)
	event(EventConnecting, "")
	require.Equal(t, map[reconnect.Reason]uint64{reconnect.ReasonServiceUnavailable: 1, reconnect.ReasonTimedOut: 1}, c.ends)

	for _, r := range []reconnect.Reason{"x", "y", "+4915200000001"} {
		event(EventDisconnected, r)
	}
	event(EventConnecting, "")
	require.EqualValues(t, 3, c.ends["other"], "a host's own words do not add up")
}

func TestMeteringACallAllocatesNothing(t *testing.T) {
	var x meter
	began, failed := time.Now(), errors.New("no route")
	require.Zero(t, testing.AllocsPerRun(100, func() { x.note(began, nil); x.note(began, failed) }))
}
