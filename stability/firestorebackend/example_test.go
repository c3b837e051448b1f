package firestorebackend_test

import (
	"context"
	"fmt"
	"time"

	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// A program of yours makes its client with NewClient; this one asks a Firestore
// in process.
func ExampleNew() {
	ctx := context.Background()
	sim := firestoresim.New()
	defer sim.Close()
	client, err := sim.Client(ctx, "demo-project")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	backend, err := firestorebackend.New(client, firestorebackend.WithRoot("bots/support"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close()
	held, granted, err := backend.Lock.Acquire(ctx, "one", "a nonce", time.Minute)
	fmt.Println(held.Holder, granted, err)
	_, exists := sim.Get("demo-project", "bots/support/locks/wa_connection")
	fmt.Println(exists)
	// Output:
	// one true <nil>
	// true
}
