package stability

import (
	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

// Backend is where an account lives: its lock, its session, its state and its
// incidents. Packages localbackend and memorybackend make one.
type Backend struct {
	Name      string // "local", "memory", "firestore": authStore in Status
	Lock      lock.Store
	Auth      authstore.KV
	State     reconnect.StateStore
	Incidents guard.IncidentStore
	// Close is called once, last, by Manager.Close. It never closes what the
	// host passed in.
	Close func() error
}
