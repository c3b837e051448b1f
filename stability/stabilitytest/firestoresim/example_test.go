package firestoresim_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// The reply to a create is lost: the client asks again, and is told that what
// it created exists.
func ExampleServer_Fault() {
	ctx := context.Background()
	s := firestoresim.New()
	defer s.Close()
	c, err := s.Client(ctx, "demo-x")
	if err != nil {
		panic(err)
	}
	defer c.Close()

	s.Fault(firestoresim.DropReply()).On(firestoresim.Commit).Now()
	_, err = c.Doc("locks/wa").Create(ctx, map[string]any{"nonce": "n1"})
	fmt.Println(status.Code(err) == codes.AlreadyExists)
	d, _ := s.Get("demo-x", "locks/wa")
	fmt.Println(d.Fields["nonce"], s.Stats().RPCs[firestoresim.Commit])
	// Output:
	// true
	// n1 2
}
