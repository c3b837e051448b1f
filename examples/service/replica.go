package main

import (
	"context"
	"os"
	"time"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

// envLease shortens the lease of a replica, so that a test can wait for its end.
const envLease = "WASTABILITY_DEMO_LEASE"

// replica serves the account of the simulated service that started it.
func replica(ctx context.Context) error {
	opts, err := demo.ReplicaOptions()
	if err != nil {
		return err
	}
	if text := os.Getenv(envLease); text != "" {
		lease, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		opts = append(opts, stability.WithLockOptions(lock.WithLease(lease)))
	}
	return serve(ctx, opts...)
}
