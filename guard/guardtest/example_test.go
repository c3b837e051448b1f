package guardtest_test

import (
	"testing"

	"github.com/wastability/wastability/guard/guardtest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// The test of a guard.IncidentStore of your own.
func ExampleRun() {
	testIncidentsConform := func(t *testing.T) {
		guardtest.Run(t, func(t *testing.T) guardtest.Account {
			b := memorybackend.New().Backend()
			t.Cleanup(func() { _ = b.Close() })
			return guardtest.Account{
				Store:      b.Incidents,
				PlantNewer: func(t *testing.T, id string) { /* raise the version in the stored record, past the store */ },
			}
		})
	}
	_ = testIncidentsConform
}
