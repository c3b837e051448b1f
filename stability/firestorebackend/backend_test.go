package firestorebackend

import (
	"testing"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

func backendConforms(t *testing.T, newClient func(*testing.T) *firestore.Client) {
	backendtest.Run(t, func(t *testing.T) func(*testing.T) stability.Backend {
		client := newClient(t)
		return func(t *testing.T) stability.Backend { return opened(t, client) }
	})
}

func TestBackendConformsOnTheSimulator(t *testing.T) {
	t.Parallel()
	backendConforms(t, func(t *testing.T) *firestore.Client { return onSim(t, sim(t)) })
}

func TestBackendConformsOnTheEmulator(t *testing.T) {
	t.Parallel()
	backendConforms(t, func(t *testing.T) *firestore.Client {
		ofToday(t)
		return onEmulator(t)
	})
}
