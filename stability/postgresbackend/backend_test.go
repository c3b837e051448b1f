package postgresbackend

import (
	"testing"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

func TestBackendConforms(t *testing.T) {
	db := opened(t)
	backendtest.Run(t, func(*testing.T) func(*testing.T) stability.Backend {
		id := anyAccount()
		return func(t *testing.T) stability.Backend { return backend(t, db, id) }
	})
}
