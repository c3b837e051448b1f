package stability

import (
	"context"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

// Backend is where an account lives: its lock, its device, its state and its
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
	// Destroy removes the account for good: its device, state, incidents and
	// lock. It is for the host to call, also after Close; the Manager never
	// does. lock.ErrHeld while an instance holds the account; then nothing is
	// removed. Nothing can be restored afterwards. It is no error if there is
	// no such account, and a Destroy that failed may be called again. An
	// instance that stands by begins the account anew: end it first. Call
	// Manager.Logout before, or the phone goes on listing a device that is gone.
	Destroy func(ctx context.Context) error
}
