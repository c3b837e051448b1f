package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// The test binary is also the replica that play starts.
func TestMain(m *testing.M) {
	if os.Getenv(envEndpoint) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestARollingDeployOfRealProcessesLosesNothingAndNeverOverlaps(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer null.Close()
	res, err := play(t.Context(), stabilitytest.Pick(3, 20), null)
	require.NoError(t, err)
	require.Equal(t, res.Sent, res.Answered)
	require.Zero(t, res.Twice, "no message was answered twice")
	require.Zero(t, res.Replaced, "two replicas were never logged in at once")
	for _, gap := range res.Gaps {
		require.Less(t, gap, 2*time.Second)
	}
}
