package locktest_test

import (
	"testing"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// The test of a lock.Store of your own.
func ExampleRun() {
	testLockConforms := func(t *testing.T) {
		locktest.Run(t, locktest.Config{New: func(t *testing.T) func() lock.Store {
			account := memorybackend.New() // one that nobody has used
			return func() lock.Store { return account.Backend().Lock }
		}})
	}
	_ = testLockConforms
}
