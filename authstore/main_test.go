package authstore

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// PlayPart is what this binary does when a test has started it as a process of
// its own; false if none has. The tests outside of the package set it.
var PlayPart = func() bool { return false }

func TestMain(m *testing.M) {
	if PlayPart() {
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
