package main

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// The test binary is also the replica that play starts.
func TestMain(m *testing.M) {
	if demo.IsReplica() {
		main()
		return
	}
	os.Exit(firestoresim.Main(m).Run())
}

func TestReplicasOnFirestoreAreDeployedAndKilledAndLoseNothing(t *testing.T) {
	emulator := firestoresim.NeedEmulator(t)
	t.Setenv(emulatorHost, emulator.Addr())
	t.Setenv("GOOGLE_CLOUD_PROJECT", "demo-wastability")
	res, err := play(t.Context(), stabilitytest.Pick(2, 20), io.Discard)
	require.NoError(t, err)
	require.Positive(t, res.Sent)
	require.Equal(t, res.Sent, res.Answered)
	require.Zero(t, res.Twice, "no message was answered twice")
	require.Zero(t, res.Replaced, "two replicas were never logged in at once")
	require.Equal(t, 1, res.Pairings)
	for _, off := range res.Deploys {
		require.Less(t, off, 2*time.Second)
	}
	require.Less(t, res.Crash, 30*time.Second, "the lease of 6 s, and patience for a busy machine")
}
