package authstoretest_test

import (
	"testing"

	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// The test of an authstore.KV of your own, with the lock whose epochs fence it.
func ExampleRun() {
	testAuthConforms := func(t *testing.T) {
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
	_ = testAuthConforms
}
