package localbackend_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
)

// One file holds the account. The process that has it holds the lock; another
// one stands by.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "wastability.db")
	ctx := context.Background()
	for range 2 { // two instances
		backend, err := localbackend.Open(path)
		if err != nil {
			fmt.Println(err)
			return
		}
		m, err := stability.New(stability.WithBackend(backend), stability.WithQR(func(stability.QR) {}))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer m.Close(ctx)
		active, err := m.TryActivate(ctx)
		fmt.Println(active, err)
	}
	// Output:
	// true <nil>
	// false <nil>
}
