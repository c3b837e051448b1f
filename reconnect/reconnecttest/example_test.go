package reconnecttest_test

import (
	"testing"

	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// The test of a reconnect.StateStore of your own, with the lock whose epochs
// fence it.
func ExampleRun() {
	testStateConforms := func(t *testing.T) {
		reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account {
			b := memorybackend.New().Backend()
			t.Cleanup(func() { _ = b.Close() })
			return reconnecttest.Account{
				State: b.State, Lock: b.Lock,
				PlantNewer: func(t *testing.T) { /* raise the version in the stored record, past the store */ },
			}
		})
	}
	_ = testStateConforms
}
