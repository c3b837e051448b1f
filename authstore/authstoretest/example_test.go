package authstoretest_test

import (
	"testing"

	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// testAuthConforms tests an authstore.KV, with the lock whose epochs fence it;
// put a backend of your own in its place.
func testAuthConforms(t *testing.T) {
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account {
		account := memorybackend.New()
		instance := func(t *testing.T) authstoretest.Account {
			b := account.Backend()
			t.Cleanup(func() { _ = b.Close() })
			return authstoretest.Account{KV: b.Auth, Lock: b.Lock}
		}
		a := instance(t)
		a.Other = instance
		return a
	})
}

// In a test of your own: func TestAuthConforms(t *testing.T) { testAuthConforms(t) }
func ExampleRun() {
	_ = testAuthConforms
}
