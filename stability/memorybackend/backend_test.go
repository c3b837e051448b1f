package memorybackend

import (
	"testing"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

func TestBackendConforms(t *testing.T) {
	backendtest.Run(t, func(*testing.T) func(*testing.T) stability.Backend {
		m := New()
		return func(*testing.T) stability.Backend { return m.Backend() }
	})
}
