package authstore

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"

	"go.mau.fi/libsignal/logger"
	"go.uber.org/goleak"
)

// PlayPart is what this binary does when a test has started it as a process of
// its own; false if none has. The tests outside of the package set it.
var PlayPart = func() bool { return false }

// randomGeneration is newGeneration as it is outside of these tests.
var randomGeneration func(int) string

func TestMain(m *testing.M) {
	if PlayPart() {
		os.Exit(0)
	}
	randomGeneration = newGeneration
	newGeneration = func(n int) string { return fmt.Sprintf("d%d", n) } // tests name rows
	debug.SetGCPercent(400)                                             // many small worlds
	logger.Logger = quiet{}                                             // libsignal makes its own at the first use, without a lock
	goleak.VerifyTestMain(m)
}

// quiet is a logger of libsignal's.
type quiet struct{}

func (quiet) Debug(_, _ string)   {}
func (quiet) Info(_, _ string)    {}
func (quiet) Warning(_, _ string) {}
func (quiet) Error(_, _ string)   {}
func (quiet) Configure(string)    {}
