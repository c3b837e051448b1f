package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// ErrNoBouncer reports that PgBouncer is not installed here.
var ErrNoBouncer = errors.New("postgrestest: no PgBouncer on this machine: install it (Debian: apt-get install pgbouncer)")

// NeedBouncer starts a PgBouncer in transaction mode before s, with few server
// connections, so that statements of one client change between them. It returns
// a connection string without a query mode. Where it is not installed the test
// is skipped, or fails if NeedEnv is 1.
func NeedBouncer(t testing.TB, s *Server) (dsn string) {
	t.Helper()
	dsn, stop, err := startBouncer(t.Context(), s)
	switch {
	case errors.Is(err, ErrNoBouncer) && os.Getenv(NeedEnv) != "1":
		t.Skipf("this test needs a PgBouncer: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return dsn
}

func startBouncer(ctx context.Context, s *Server) (dsn string, stop func(), err error) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; !exists(path) {
			return "", nil, ErrNoBouncer
		}
	}
	port, err := stabilitytest.FreePort()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "bouncer")
	if err != nil {
		return "", nil, fmt.Errorf("postgrestest: %w", err)
	}
	addr := net.JoinHostPort("127.0.0.1", port)
	// With auth_type any the user of the server connection is given here.
	settings := fmt.Sprintf("[databases]\npostgres = host=127.0.0.1 port=%s user=postgres\n"+
		"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%s\nunix_socket_dir=\nauth_type=any\n"+
		"pool_mode=transaction\ndefault_pool_size=3\nmax_client_conn=100\n", s.port, port)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := errors.Join(os.WriteFile(file, []byte(settings), 0o644), os.Chmod(dir, 0o755)); err != nil {
		return "", nil, fmt.Errorf("postgrestest: %w", err)
	}
	c := exec.CommandContext(context.WithoutCancel(ctx), path, file)
	c.Dir = dir
	s.as(c)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", nil, fmt.Errorf("postgrestest: %w", err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return "", nil, fmt.Errorf("postgrestest: pgbouncer: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(exited)
	}()
	stop = func() {
		_ = c.Process.Kill()
		<-exited
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return "postgres://postgres@" + addr + "/postgres?sslmode=disable", stop, nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name())
			return "", nil, fmt.Errorf("postgrestest: pgbouncer ended at once: %s", text)
		default:
		}
		if time.Now().After(end) {
			stop()
			return "", nil, fmt.Errorf("postgrestest: pgbouncer does not listen: %w", err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
