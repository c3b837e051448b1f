package main

import (
	"context"

	"github.com/wastability/wastability/examples/internal/demo"
)

// replica serves the account of the simulated service that started it.
func replica(ctx context.Context) error {
	opts, err := demo.ReplicaOptions()
	if err != nil {
		return err
	}
	return serve(ctx, opts...)
}
