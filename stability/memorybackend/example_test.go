package memorybackend_test

import (
	"context"
	"fmt"
	"time"

	"github.com/wastability/wastability/stability/memorybackend"
)

// A Memory is one account; each of its Backends is one instance of it.
func ExampleMemory_Backend() {
	ctx := context.Background()
	account := memorybackend.New()
	one, two := account.Backend(), account.Backend()
	held, granted, _ := one.Lock.Acquire(ctx, "one", "a nonce", time.Minute)
	fmt.Println(held.Holder, granted)
	held, granted, _ = two.Lock.Acquire(ctx, "two", "another nonce", time.Minute)
	fmt.Println(held.Holder, granted)
	// Output:
	// one true
	// one false
}
