package postgrestest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
)

// NeedEnv is the environment variable that turns a skip for want of a server
// into a failure: set it to 1 on CI.
const NeedEnv = "WASTABILITY_NEED_POSTGRES"

var shared struct {
	mu  sync.Mutex
	s   *Server
	err error

	main     bool    // Main runs, and will remove:
	fresh    *Server // never started: its data is what servers of their own begin with
	freshErr error
}

// fresh is the data of a server that was never started, or empty without a Main
// that would remove it. To copy it takes a fraction of the time that initdb takes.
func fresh(ctx context.Context) (data string, err error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.main {
		return "", nil
	}
	if shared.fresh == nil && shared.freshErr == nil {
		s, err := prepare(nil)
		if err == nil {
			if err = s.init(ctx); err == nil {
				err = s.lighten(ctx)
			}
			if err != nil {
				err = errors.Join(err, s.Close())
			}
		}
		shared.fresh, shared.freshErr = s, err
	}
	if shared.freshErr != nil {
		return "", shared.freshErr
	}
	return shared.fresh.data(), nil
}

// Need is the test binary's one server, started by the first call. Without one
// on this machine the test is skipped, or fails if NeedEnv is 1. Tests share it:
// each takes accounts or schemas of its own. The binary's TestMain ends it; see
// Main.
func Need(t testing.TB) *Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.s == nil && shared.err == nil {
		shared.s, shared.err = Start(context.Background(), WithSetting("fsync", "off"), WithSetting("max_connections", "200"))
	}
	return need(t, shared.s, shared.err)
}

// NeedOwn is a server for this test alone, which may break it. It is closed
// when the test ends. It does not sync unless opts say so: Kill ends processes,
// and the system keeps what they wrote. To sync a thousand files takes most of
// the time of a recovery. With Main it has no database but "postgres", and no
// template to make another of: two thirds of the files of a server are theirs.
func NeedOwn(t testing.TB, opts ...Option) *Server {
	t.Helper()
	data, err := fresh(context.WithoutCancel(t.Context()))
	var s *Server
	if err == nil {
		begin := func(s *Server) { s.from = data }
		s, err = Start(t.Context(), append([]Option{WithSetting("fsync", "off"), begin}, opts...)...)
	}
	s = need(t, s, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func need(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	switch {
	case err == nil:
		return s
	case errors.Is(err, ErrNoPostgres) && os.Getenv(NeedEnv) != "1":
		t.Skipf("this test needs a Postgres server: %v", err)
	default:
		t.Fatal(err)
	}
	return nil
}

// Main is for the TestMain of a package that uses Need or NeedOwn. It runs the
// tests, then ends the shared server, and removes what the others began with:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(postgrestest.Main(m)) }
func Main(m interface{ Run() int }) interface{ Run() int } { return stopping{m} }

type stopping struct{ m interface{ Run() int } }

func (s stopping) Run() int {
	shared.mu.Lock()
	shared.main = true
	shared.mu.Unlock()
	code := s.m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for _, s := range []**Server{&shared.s, &shared.fresh} {
		if *s == nil {
			continue
		}
		if err := (*s).Close(); err != nil && code == 0 {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
		*s = nil
	}
	return code
}
