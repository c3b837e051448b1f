package locktest_test

import (
	"testing"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// testLockConforms tests a lock.Store; put a store of your own in its place.
func testLockConforms(t *testing.T) {
	locktest.Run(t, locktest.Config{
		Bubble: true, // in virtual time; false for a store that does I/O
		New: func(t *testing.T) func() lock.Store {
			account := memorybackend.New() // one that nobody has used
			return func() lock.Store { return account.Backend().Lock }
		},
	})
}

// In a test of your own: func TestLockConforms(t *testing.T) { testLockConforms(t) }
func ExampleRun() {
	_ = testLockConforms
}
