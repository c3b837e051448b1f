package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The simulation waits for a connection after each misdeed, the logout
// included: it ends only if every one was followed by the right step.
func TestAHostThatConnectsByHandComesBackFromEverythingItIsShown(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, simulate(ctx))
	require.NoError(t, ctx.Err(), "it ended by itself")
}
