//go:build !linux

package postgrestest

import (
	"io"
	"os"
	"os/exec"
	"strings"
)

func newFolder() (dir string, held io.Closer, err error) {
	dir, err = os.MkdirTemp("", "pg") // short: it holds a socket
	return dir, io.NopCloser(strings.NewReader("")), err
}

func (s *Server) own() error { return nil }

var ownMemory []string

func endNow(c *exec.Cmd) { killAll(c) }

func freeMemory(string) bool { return true }

func (s *Server) as(*exec.Cmd) {}

func killAll(c *exec.Cmd) { _ = c.Process.Kill() }
