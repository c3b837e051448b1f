package localbackend

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/guard/guardtest"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	_ = flag.Set("test.parallel", "6") // unless the command line says another: they wait for the disk most of the time
	goleak.VerifyTestMain(m)
}

// newPath is a path where nothing is yet.
func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "wa.db") }

func openAt(t *testing.T, path string, opts ...Option) stability.Backend {
	t.Helper()
	b, err := Open(path, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func authAccount(t *testing.T, path string) authstoretest.Account {
	b := openAt(t, path)
	return authstoretest.Account{
		KV: b.Auth, Lock: b.Lock,
		Reopen: func(t *testing.T) authstoretest.Account {
			require.NoError(t, b.Close())
			return authAccount(t, path)
		},
		Other: func(t *testing.T) authstoretest.Account { return authAccount(t, path) },
	}
}

func TestAuthConforms(t *testing.T) {
	t.Parallel()
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account { return authAccount(t, newPath(t)) })
}

// plant writes a value past the stores, as a newer library would.
func plant(t *testing.T, b stability.Backend, bucket, key []byte, value string) {
	t.Helper()
	require.NoError(t, b.Lock.(lockStore).b.write(t.Context(), "plant", anyEpoch, func(w *batch) error {
		w.put(bucket, key, []byte(value))
		return nil
	}))
}

func stateAccount(t *testing.T, path string) reconnecttest.Account {
	b := openAt(t, path)
	return reconnecttest.Account{
		State: b.State, Lock: b.Lock,
		Reopen: func(t *testing.T) reconnecttest.Account {
			require.NoError(t, b.Close())
			return stateAccount(t, path)
		},
		PlantNewer: func(t *testing.T) {
			plant(t, b, bucketState, keyState, fmt.Sprintf(`{"version":%d,"waStatus":{}}`, reconnect.StateVersion+1))
		},
	}
}

func TestStateConforms(t *testing.T) {
	t.Parallel()
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, newPath(t)) })
}

func incidentAccount(t *testing.T, path string) guardtest.Account {
	b := openAt(t, path)
	hold(t, b)
	return guardtest.Account{
		Store: b.Incidents,
		Reopen: func(t *testing.T) guardtest.Account {
			require.NoError(t, b.Close())
			return incidentAccount(t, path)
		},
		PlantNewer: func(t *testing.T, id string) {
			plant(t, b, bucketIncidents, []byte(id), fmt.Sprintf(`{"version":%d,"active":"yes"}`, guard.RecordVersion+1))
		},
	}
}

func TestIncidentsConform(t *testing.T) {
	t.Parallel()
	guardtest.Run(t, func(t *testing.T) guardtest.Account { return incidentAccount(t, newPath(t)) })
}

func TestLockConforms(t *testing.T) {
	t.Parallel()
	locktest.Run(t, locktest.Config{ProcessBound: true, New: func(t *testing.T) func() lock.Store {
		path := newPath(t)
		return func() lock.Store { return openAt(t, path).Lock }
	}})
}
