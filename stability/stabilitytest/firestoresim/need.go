package firestoresim

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
)

var shared struct {
	mu  sync.Mutex
	e   *Emulator
	err error
}

// NeedEmulator is the test binary's one emulator, started by the first call.
// Without one on this machine the test is skipped, or fails if
// WASTABILITY_NEED_EMULATOR is 1, as on CI. Tests share it: each takes a
// project of its own (demo-, and something random).
//
// It is not for a testing/synctest bubble: it waits for the network. The
// binary's TestMain has to end it; see Main.
func NeedEmulator(t testing.TB) *Emulator {
	t.Helper()
	e, err := sharedEmulator()
	switch {
	case err == nil:
		return e
	case errors.Is(err, ErrNoEmulator) && os.Getenv(NeedEnv) != "1":
		t.Skipf("this test compares with the official emulator: %v", err)
	default:
		t.Fatal(err)
	}
	return nil
}

func sharedEmulator() (*Emulator, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.e == nil && shared.err == nil {
		shared.e, shared.err = StartEmulator(context.Background())
	}
	return shared.e, shared.err
}

// StopEmulator ends the emulator that NeedEmulator started, if it did. The next
// NeedEmulator starts another.
func StopEmulator() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	e := shared.e
	shared.e, shared.err = nil, nil
	if e == nil {
		return nil
	}
	return e.Close()
}

// Main is for the TestMain of a package that uses NeedEmulator. It runs the
// tests, then ends the emulator, so that what looks for goroutines afterwards
// finds none:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(firestoresim.Main(m)) }
//
// Without it the emulator's process still ends with the test binary on Linux;
// elsewhere it would stay. A single test that verifies goroutines itself calls
// NeedEmulator first and passes goleak.IgnoreCurrent.
func Main(m interface{ Run() int }) interface{ Run() int } { return stoppingMain{m} }

type stoppingMain struct{ m interface{ Run() int } }

func (s stoppingMain) Run() int {
	code := s.m.Run()
	if err := StopEmulator(); err != nil && code == 0 {
		os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	return code
}
