package stability_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// server is where an account lives; each Backend is one instance's access.
type server interface{ Backend() stability.Backend }

// newServer is memory, or with WASTABILITY_BACKEND=firestore a simulated
// Firestore reached through the official client: the same scenarios, the same
// virtual time.
func newServer(t testing.TB) server {
	switch name := os.Getenv("WASTABILITY_BACKEND"); name {
	case "", "memory":
		return memorybackend.New()
	case "firestore":
		return &firestoreServer{t: t}
	default:
		t.Fatalf("WASTABILITY_BACKEND is %q: memory or firestore", name)
		return nil
	}
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
