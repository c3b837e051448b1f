// Package postgrestest starts real Postgres servers for tests: the programs
// that the machine has installed, each server with a folder and a port of its
// own, on this machine only. It can be killed, stopped for a while and started
// again, as servers are. On Linux the folder is in memory (/dev/shm) where that
// has room, unless TMPDIR names another place: a server's thousand files are made
// there in a third of the time.
//
// A test asks for the binary's shared server with Need, or starts one of its
// own with Start if it is going to break it.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// ErrNoPostgres reports that no server is installed here.
var ErrNoPostgres = errors.New("postgrestest: no Postgres server on this machine: install it (Debian: apt-get install postgresql) and run the tests as root or as an ordinary user")

// Option changes a server that is being started.
type Option func(*Server)

// WithSetting sets one of the server's configuration parameters, such as
// "fsync", "off".
func WithSetting(name, value string) Option {
	return func(s *Server) { s.settings = append(s.settings, name+"="+value) }
}

// Server is a Postgres server. Safe for concurrent use.
type Server struct {
	bin, dir string
	held     io.Closer // says, until it is closed, that dir is in use
	port     string
	settings []string
	from     string // a data folder to begin with; without one, initdb makes it

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	log    string
}

// binaries is the folder of the newest installed server.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return "", ErrNoPostgres
	}
	major := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return major(a) - major(b) })), nil
}

// Start makes a new, empty server with the superuser "postgres", whom it trusts,
// and the database "postgres". The caller calls Close.
func Start(ctx context.Context, opts ...Option) (*Server, error) {
	s, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	if err := s.init(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.Resume(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) init(ctx context.Context) error {
	made := s.command(ctx, "initdb", "-D", s.data(), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1")
	if cp, err := exec.LookPath("cp"); s.from != "" && err == nil {
		made = exec.CommandContext(ctx, cp, "-R", s.from, s.data())
		made.Dir = s.dir
		s.as(made)
	}
	if out, err := made.CombinedOutput(); err != nil {
		return fmt.Errorf("postgrestest: %s: %w: %s", filepath.Base(made.Path), err, out)
	}
	return nil
}

// lighten drops the templates of databases that a server never makes, while it
// does not run.
func (s *Server) lighten(ctx context.Context) error {
	c := s.command(ctx, "postgres", "--single", "-D", s.data(), "-c", "fsync=off", "postgres")
	c.Stdin = strings.NewReader("UPDATE pg_database SET datistemplate = false\nDROP DATABASE template0\nDROP DATABASE template1\n")
	out, err := c.CombinedOutput()
	if _, left := os.Stat(filepath.Join(s.data(), "base", "1")); err == nil && left == nil {
		err = errors.New("template1 is still there")
	}
	if err != nil {
		return fmt.Errorf("postgrestest: drop the templates: %w: %s", err, out)
	}
	return nil
}

// Follow makes a standby of s by a base backup, and starts it. s needs nothing
// special: the defaults of Postgres allow it. Promote makes it a primary.
func (s *Server) Follow(ctx context.Context, opts ...Option) (*Server, error) {
	f, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	out, err := f.command(ctx, "pg_basebackup", "-d", s.DSN(), "-D", f.data(), "-R", "--checkpoint=fast", "--no-sync").CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgrestest: pg_basebackup: %w: %s", err, out), f.Close())
	}
	if err := f.Resume(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Promote makes a standby a primary, with what it has by then.
func (s *Server) Promote(ctx context.Context) error {
	out, err := s.command(ctx, "pg_ctl", "-D", s.data(), "-w", "promote").CombinedOutput()
	if err != nil {
		return fmt.Errorf("postgrestest: promote: %w: %s", err, out)
	}
	return nil
}

func prepare(opts []Option) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, held, err := newFolder()
	if err != nil {
		return nil, fmt.Errorf("postgrestest: %w", err)
	}
	s := &Server{bin: bin, dir: dir, held: held, log: filepath.Join(dir, "log")}
	for _, o := range opts {
		o(s)
	}
	if err = s.own(); err == nil {
		s.port, err = stabilitytest.FreePort()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

const dataFolder = "data" // in a server's folder

func (s *Server) data() string { return filepath.Join(s.dir, dataFolder) }

// Addr is where it listens.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", s.port) }

// DSN is a connection string for the superuser, over TCP.
func (s *Server) DSN() string {
	return "postgres://postgres@" + s.Addr() + "/postgres?sslmode=disable"
}

// Resume starts the server, if it does not run, and waits until it answers.
func (s *Server) Resume(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("postgrestest: %w", err)
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-k", s.dir, "-c", "listen_addresses=127.0.0.1", "-p", s.port, "-c", "shared_buffers=16MB"}
	args = append(args, ownMemory...)
	for _, set := range s.settings {
		args = append(args, "-c", set)
	}
	cmd := s.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("postgrestest: start: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s.saysReady(cmd.Process.Pid) && s.command(ctx, "pg_isready", "-q", "-h", "127.0.0.1", "-p", s.port).Run() == nil {
			return nil
		}
		select {
		case <-exited:
			s.cmd = nil
			return fmt.Errorf("postgrestest: the server ended at once: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("postgrestest: the server does not answer: %w: %s", ctx.Err(), s.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// saysReady reports what the server says of itself in a file. To ask it over the
// network takes a process each time.
func (s *Server) saysReady(pid int) bool {
	const state = 7 // the line of it
	lines := noteOf(s.data())
	return len(lines) > state && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[state]) == "ready"
}

// noteOf is what a server notes of itself among its data, by lines.
func noteOf(data string) []string {
	text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	return strings.Split(string(text), "\n")
}

func (s *Server) tail() string {
	text, _ := os.ReadFile(s.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// Stop ends the server in good order (connections are cut) and keeps its data.
func (s *Server) Stop() error {
	return s.end(func(cmd *exec.Cmd) error { return cmd.Process.Signal(syscall.SIGINT) })
}

// Kill ends all processes of the server at once, as a power cut would, except
// that what was written reaches the disk even if it was not synced.
func (s *Server) Kill() error {
	return s.end(func(cmd *exec.Cmd) error {
		killAll(cmd)
		return nil
	})
}

func (s *Server) end(how func(*exec.Cmd) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	if err := how(s.cmd); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("postgrestest: %w", err)
	}
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		killAll(s.cmd)
		<-s.exited
	}
	s.cmd = nil
	return nil
}

// Close ends the server at once and removes its data, and on Linux its shared memory.
func (s *Server) Close() error {
	err := s.end(func(cmd *exec.Cmd) error {
		endNow(cmd)
		return nil
	})
	freeMemory(s.data())
	if e := errors.Join(os.RemoveAll(s.dir), s.held.Close()); e != nil && !errors.Is(e, os.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("postgrestest: %w", e))
	}
	return err
}

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	c.Dir = s.dir
	s.as(c)
	return c
}
