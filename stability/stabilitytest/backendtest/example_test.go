package backendtest_test

import (
	"testing"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

// The test of a backend of your own, as a whole.
func ExampleRun() {
	testBackendConforms := func(t *testing.T) {
		backendtest.Run(t, func(*testing.T) func(*testing.T) stability.Backend {
			account := memorybackend.New() // one that nobody has used
			return func(*testing.T) stability.Backend { return account.Backend() }
		})
	}
	_ = testBackendConforms
}
