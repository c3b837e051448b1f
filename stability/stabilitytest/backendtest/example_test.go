package backendtest_test

import (
	"testing"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

// testBackendConforms tests a backend as a whole; put one of your own in its
// place.
func testBackendConforms(t *testing.T) {
	backendtest.Run(t, func(*testing.T) func(*testing.T) stability.Backend {
		account := memorybackend.New() // one that nobody has used
		return func(*testing.T) stability.Backend { return account.Backend() }
	})
}

// In a test of your own: func TestBackendConforms(t *testing.T) { testBackendConforms(t) }
func ExampleRun() {
	_ = testBackendConforms
}
