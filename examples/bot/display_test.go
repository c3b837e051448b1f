package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// Whoever sees only the status line knows what is wrong and what comes next.
func TestStatusLineSaysWhatIsWrong(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := now.Add(-time.Minute)
	base := stability.Status{At: now, Mode: stability.ModeActive, WA: reconnect.StatusConnected, ConnectedAt: ago}
	none := " · messages: 0 handled, 0 waiting, 0 set aside"
	for want, change := range map[string]func(*stability.Status){
		"connected for 1m0s": func(*stability.Status) {},
		"connected, but WhatsApp does not accept what is sent, for 1m0s": func(st *stability.Status) {
			st.Probes.Health, st.Probes.Since = keepalive.Mute, ago
		},
		"connected, but messages are not handled as they should be, for 1m0s": func(st *stability.Status) {
			st.Probes.Health, st.Probes.Since = keepalive.Degraded, ago
		},
		"stands by, b is active, for 1m0s": func(st *stability.Status) {
			st.Mode, st.ModeSince, st.InstanceID, st.LockHolder = stability.ModePassive, ago, "a", "b"
		},
		"not paired for 1m0s · next: start the bot again for a new code": func(st *stability.Status) {
			st.WA, st.DisconnectedSince, st.Parked = reconnect.StatusNeedsPairing, ago, true
		},
		"off: untrusted_server for 1m0s · next: nothing by itself, read the log": func(st *stability.Status) {
			st.WA, st.DisconnectedSince, st.Parked = reconnect.StatusDisconnected, ago, true
			st.LastDisconnectReason = reconnect.ReasonUntrustedServer
		},
		"off: timed_out for 1m0s · next attempt in 40s": func(st *stability.Status) {
			st.WA, st.DisconnectedSince, st.NextRetryAt = reconnect.StatusDisconnected, ago, now.Add(40*time.Second)
			st.LastDisconnectReason = reconnect.ReasonTimedOut
		},
	} {
		st := base
		change(&st)
		require.Equal(t, want+none, (&display{width: 200}).status(st))
	}
}
