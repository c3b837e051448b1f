package main

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// The test binary is also the replica that play starts.
func TestMain(m *testing.M) {
	if demo.IsReplica() {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestARollingDeployOfRealProcessesLosesNothingAndNeverOverlaps(t *testing.T) {
	gaps, res, err := play(t.Context(), stabilitytest.Pick(3, 20), 50*time.Millisecond, io.Discard)
	require.NoError(t, err)
	require.Equal(t, res.Sent, res.Answered)
	require.Zero(t, res.Twice, "no message was answered twice")
	require.Zero(t, res.Replaced, "two replicas were never logged in at once")
	require.Equal(t, 1, res.Pairings)
	for _, gap := range gaps {
		require.Less(t, gap, 20*time.Second, "a login, and patience for a busy machine")
	}
}
