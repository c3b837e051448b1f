package stability_test

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// server is where an account lives; each Backend is one instance's access.
type server interface{ Backend() stability.Backend }

// newServer is memory, or with WASTABILITY_BACKEND=firestore a simulated
// Firestore reached through the official client: the same scenarios, the same
// virtual time.
func newServer(t testing.TB) server {
	name := os.Getenv("WASTABILITY_BACKEND")
	s := serverOf(t, cmp.Or(name, "memory"))
	if s == nil || name == "local" {
		t.Fatalf("WASTABILITY_BACKEND is %q: memory or firestore", name)
	}
	return s
}

func serverOf(t testing.TB, name string) server {
	switch name {
	case "memory":
		return memorybackend.New()
	case "firestore":
		return &firestoreServer{t: t}
	case "local":
		return &fileServer{t: t, path: filepath.Join(t.TempDir(), "wa.db")}
	}
	return nil
}

// fileServer is a file, which each instance opens as a process of its own does.
type fileServer struct {
	t    testing.TB
	path string
}

func (s *fileServer) Backend() stability.Backend {
	b, err := localbackend.Open(s.path)
	require.NoError(s.t, err)
	return b
}

// vanish is what the system does for a process that is gone: it closes its file.
// Elsewhere the lease must run out.
func (n *named) vanish() {
	if _, ok := n.w.memory.(*fileServer); !ok {
		return
	}
	file := n.backend.Lock.(wiredLock).Store
	held, err := file.Load(context.Background())
	require.NoError(n.w.t, err)
	require.NoError(n.w.t, file.Release(context.Background(), held))
}

// look is a Backend for who only reads, again and again.
func (w *world) look() stability.Backend {
	s, ok := w.memory.(*firestoreServer)
	if !ok {
		return w.memory.Backend()
	}
	s.looked.Do(func() { s.looker = s.Backend() })
	return s.looker
}

type firestoreServer struct {
	t    testing.TB
	once sync.Once
	sim  *firestoresim.Server // made on first use, if not given

	looked sync.Once
	looker stability.Backend
}

// Backend has a client of its own, as each process has.
func (s *firestoreServer) Backend() stability.Backend {
	s.once.Do(func() {
		if s.sim == nil {
			s.sim = firestoresim.New()
			s.t.Cleanup(s.sim.Close)
		}
	})
	client, err := s.sim.Client(context.Background(), "demo-stability")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = client.Close() })
	b, err := firestorebackend.New(client)
	require.NoError(s.t, err)
	return b
}

func (s *firestoreServer) billed() firestoresim.Stats { return s.sim.Stats() }
