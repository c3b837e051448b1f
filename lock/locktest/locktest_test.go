package locktest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(*testing.T) func() lock.Store {
	s := locktest.NewStore()
	return func() lock.Store { return s.Connect() }
}

func TestStoreInMemoryConforms(t *testing.T) {
	locktest.Run(t, locktest.Config{New: newStore, Bubble: true})
}

func TestStoreInMemoryConformsInRealTime(t *testing.T) {
	locktest.Run(t, locktest.Config{New: newStore, Lease: 200 * time.Millisecond})
}
