package firestorebackend

import (
	"context"
	"crypto/rand"
	"flag"
	"hash/fnv"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/guard/guardtest"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/internal/signallog"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "12") // unless the command line says another: some wait for seconds
	debug.SetGCPercent(400)             // many small worlds
	signallog.Silence()                 // else those in parallel race for the logger that libsignal makes
	goleak.VerifyTestMain(firestoresim.Main(m))
}

// emulator is the official emulator. From here on the environment names none,
// or clients would dial it by themselves.
func emulator(t testing.TB) *firestoresim.Emulator {
	t.Helper()
	e := firestoresim.NeedEmulator(t)
	require.NoError(t, os.Unsetenv(firestoresim.HostEnv))
	return e
}

// onEmulator gives a client of the official emulator, with a project of its
// own.
func onEmulator(t testing.TB) *firestore.Client {
	t.Helper()
	e := emulator(t)
	c, err := e.Client(t.Context(), "demo-"+strings.ToLower(rand.Text()[:20]))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ofToday skips two thirds of a suite's rows on the emulator, others each day.
// The simulator runs all of them; at full size the emulator does too.
func ofToday(t *testing.T) {
	t.Helper()
	row := fnv.New32a()
	_, _ = row.Write([]byte(t.Name()))
	day := time.Now().Unix() / (24 * 60 * 60)
	if !stabilitytest.Full() && (int64(row.Sum32())+day)%3 != 0 {
		t.Skip("another day's row: WASTABILITY_FULL=1 runs it")
	}
}

func opened(t testing.TB, c *firestore.Client, opts ...Option) stability.Backend {
	t.Helper()
	b, err := New(c, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// patient bears with an emulator on a busy machine.
var patient = WithTimeout(time.Minute)

// inTurn keeps reads and commits apart. The emulator applies a commit document
// by document while others read, in one request, in a query and in a read-only
// transaction alike (5 of 3,000 reads of three documents saw half a commit);
// Firestore itself promises one moment. firestoresim keeps that promise, so
// that readers beside writers are tested there.
type inTurn struct {
	keyValues
	mu *sync.RWMutex
}

func (s inTurn) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keyValues.Get(ctx, keys...)
}

func (s inTurn) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.keyValues.Commit(ctx, epoch, b)
	// A commit that was given up may still be at work: once the fence has
	// moved it is over, done or refused.
	for err != nil {
		s.b.mu.Lock()
		w := s.b.writer
		unclear := w != nil && w.unclear
		s.b.mu.Unlock()
		if !unclear {
			break
		}
		if moved := s.b.settle(context.Background(), laneAuth, "test", w); lostRace(moved) && !aborted(moved) {
			break
		}
	}
	return err
}

func authAccount(t *testing.T, c *firestore.Client) authstoretest.Account {
	b := opened(t, c, patient)
	return authstoretest.Account{
		KV: inTurn{b.Auth.(keyValues), new(sync.RWMutex)}, Lock: b.Lock,
		Reopen: func(t *testing.T) authstoretest.Account {
			require.NoError(t, b.Close())
			return authAccount(t, c)
		},
		Other: func(t *testing.T) authstoretest.Account { return authAccount(t, c) },
	}
}

func stateAccount(t *testing.T, c *firestore.Client) reconnecttest.Account {
	b := opened(t, c, patient)
	return reconnecttest.Account{
		State: b.State, Lock: b.Lock,
		Reopen: func(t *testing.T) reconnecttest.Account {
			require.NoError(t, b.Close())
			return stateAccount(t, c)
		},
		PlantNewer: func(t *testing.T) {
			_, err := c.Doc(DefaultRoot+"/state/wa_connection").Set(t.Context(),
				map[string]any{"version": reconnect.StateVersion + 1, "waStatus": map[string]any{}})
			require.NoError(t, err)
		},
	}
}

func incidentAccount(t *testing.T, c *firestore.Client) guardtest.Account {
	b := opened(t, c, patient)
	return guardtest.Account{
		Store: b.Incidents,
		Reopen: func(t *testing.T) guardtest.Account {
			require.NoError(t, b.Close())
			return incidentAccount(t, c)
		},
		PlantNewer: func(t *testing.T, id string) {
			_, err := c.Doc(DefaultRoot+"/incidents/"+id).Set(t.Context(),
				map[string]any{"version": guard.RecordVersion + 1, "active": "yes"})
			require.NoError(t, err)
		},
	}
}

func TestTheLockConformsOnTheEmulator(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	locktest.Run(t, locktest.Config{Lease: time.Second, New: func(t *testing.T) func() lock.Store {
		ofToday(t)
		root := "accounts/" + rand.Text()
		return func() lock.Store { return opened(t, c, WithRoot(root), patient).Lock }
	}})
}

func TestAuthConformsOnTheEmulator(t *testing.T) {
	t.Parallel()
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account {
		ofToday(t)
		return authAccount(t, onEmulator(t))
	})
}

func TestStateConformsOnTheEmulator(t *testing.T) {
	t.Parallel()
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, onEmulator(t)) })
}

func TestIncidentsConformOnTheEmulator(t *testing.T) {
	t.Parallel()
	guardtest.Run(t, func(t *testing.T) guardtest.Account {
		ofToday(t)
		return incidentAccount(t, onEmulator(t))
	})
}
