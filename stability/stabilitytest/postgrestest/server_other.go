//go:build !linux

package postgrestest

import "os/exec"

func (s *Server) own() error { return nil }

func (s *Server) as(*exec.Cmd) {}

func killAll(c *exec.Cmd) { _ = c.Process.Kill() }
