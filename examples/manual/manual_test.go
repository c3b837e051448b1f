package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability"
)

// The simulation waits for a connection after each misdeed, the logout
// included: it ends only if every one was followed by the right step.
func TestAHostThatConnectsByHandComesBackFromEverythingItIsShown(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	quick := demo.Quick
	quick.InitialDelay = 100 * time.Millisecond
	require.NoError(t, simulate(ctx, 50*time.Millisecond, stability.WithReconnect(quick)))
	require.NoError(t, ctx.Err(), "it ended by itself")
}
