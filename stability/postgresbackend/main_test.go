package postgresbackend

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

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
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

func TestMain(m *testing.M) {
	if !playPart() {
		_ = flag.Set("test.parallel", "6") // unless the command line says another: they wait most of the time
		goleak.VerifyTestMain(postgrestest.Main(m))
	}
}

// opened is a DB on the shared server, migrated.
func opened(t testing.TB, opts ...Option) *DB {
	t.Helper()
	return openedOn(t, postgrestest.Need(t).DSN(), opts...)
}

func openedOn(t testing.TB, dsn string, opts ...Option) *DB {
	t.Helper()
	quiet := WithLogger(slog.New(slog.DiscardHandler)) // the shared server has fsync off
	db, err := Open(t.Context(), dsn, append([]Option{quiet}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, db.Migrate(t.Context()))
	return db
}

func anyAccount() string { return "test/" + strings.ToLower(rand.Text()) }

func backend(t testing.TB, db *DB, account string) stability.Backend {
	t.Helper()
	b, err := db.Account(account)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// exec runs SQL as an operator would.
func exec(t testing.TB, db *DB, sql string, args ...any) {
	t.Helper()
	_, err := db.pool.Exec(context.WithoutCancel(t.Context()), sql, args...)
	require.NoError(t, err)
}

// patient is for a commit of 16 MiB on a busy machine.
var patient = WithTimeout(time.Minute)

// inModes runs f in the ways in which pgx sends a statement: prepared, and those
// that a PgBouncer in transaction mode takes. The others are for the full size.
func inModes(t *testing.T, f func(t *testing.T, db *DB)) {
	for _, mode := range stabilitytest.Pick([]string{"cache_statement"}, []string{"cache_statement", "exec", "simple_protocol"}) {
		t.Run(mode, func(t *testing.T) {
			f(t, openedOn(t, postgrestest.Need(t).DSN()+"&default_query_exec_mode="+mode, patient))
		})
	}
}

// Behind a PgBouncer in transaction mode the statements of one connection reach
// the server over several.
func TestBehindAPgBouncerEverythingConforms(t *testing.T) {
	t.Parallel()
	s := postgrestest.Need(t)
	db := openedOn(t, postgrestest.NeedBouncer(t, s)+"&default_query_exec_mode=exec&pool_max_conns=12", patient)
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account { return authAccount(t, db, anyAccount()) })
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, db, anyAccount()) })
	guardtest.Run(t, func(t *testing.T) guardtest.Account { return incidentAccount(t, db, anyAccount()) })
	id := anyAccount()
	a, b := backend(t, db, id), backend(t, db, id)
	rec := hold(t, a, "a")
	require.NoError(t, a.Lock.Release(t.Context(), rec))
	require.Equal(t, rec.Epoch+1, hold(t, b, "b").Epoch)
}

func TestAPgBouncerWithPreparedStatementsIsNamed(t *testing.T) {
	opened(t) // migrates
	db, err := Open(t.Context(), postgrestest.NeedBouncer(t, postgrestest.Need(t))+"&pool_max_conns=8")
	require.NoError(t, err)
	t.Cleanup(db.Close)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range 8 {
		b := backend(t, db, anyAccount())
		wg.Go(func() {
			for range 50 {
				if _, err := b.Lock.Load(t.Context()); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	require.NotEmpty(t, errs)
	for _, err := range errs {
		require.ErrorContains(t, err, "default_query_exec_mode=exec")
	}
}

func authAccount(t *testing.T, db *DB, id string) authstoretest.Account {
	b := backend(t, db, id)
	return authstoretest.Account{
		KV: b.Auth, Lock: b.Lock,
		Reopen: func(t *testing.T) authstoretest.Account {
			require.NoError(t, b.Close())
			return authAccount(t, db, id)
		},
		Other: func(t *testing.T) authstoretest.Account { return authAccount(t, db, id) },
	}
}

func TestAuthConforms(t *testing.T) {
	t.Parallel()
	inModes(t, func(t *testing.T, db *DB) {
		authstoretest.Run(t, func(t *testing.T) authstoretest.Account { return authAccount(t, db, anyAccount()) })
	})
}

func TestLockConforms(t *testing.T) {
	inModes(t, func(t *testing.T, db *DB) {
		locktest.Run(t, locktest.Config{Lease: 200 * time.Millisecond, New: func(t *testing.T) func() lock.Store {
			id := anyAccount()
			return func() lock.Store { return backend(t, db, id).Lock }
		}})
	})
}

func stateAccount(t *testing.T, db *DB, id string) reconnecttest.Account {
	b := backend(t, db, id)
	return reconnecttest.Account{
		State: b.State, Lock: b.Lock,
		Reopen: func(t *testing.T) reconnecttest.Account {
			require.NoError(t, b.Close())
			return stateAccount(t, db, id)
		},
		PlantNewer: func(t *testing.T) {
			v := reconnect.StateVersion + 1
			exec(t, db, `INSERT INTO wastability.state (account, version, state, updated_at) VALUES ($1, $2, $3, now())
				ON CONFLICT (account) DO UPDATE SET version = excluded.version, state = excluded.state`,
				id, v, fmt.Sprintf(`{"version":%d,"waStatus":{"changed":"type"}}`, v))
		},
	}
}

func TestStateConforms(t *testing.T) {
	inModes(t, func(t *testing.T, db *DB) {
		reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account { return stateAccount(t, db, anyAccount()) })
	})
}

func incidentAccount(t *testing.T, db *DB, id string) guardtest.Account {
	b := backend(t, db, id)
	return guardtest.Account{
		Store: b.Incidents,
		Reopen: func(t *testing.T) guardtest.Account {
			require.NoError(t, b.Close())
			return incidentAccount(t, db, id)
		},
		PlantNewer: func(t *testing.T, incident string) {
			exec(t, db, `UPDATE wastability.incidents SET version = $3 WHERE account = $1 AND id = $2`, id, incident, guard.RecordVersion+1)
		},
	}
}

func TestIncidentsConform(t *testing.T) {
	inModes(t, func(t *testing.T, db *DB) {
		guardtest.Run(t, func(t *testing.T) guardtest.Account { return incidentAccount(t, db, anyAccount()) })
	})
}

// hold acquires the account's lock.
func hold(t testing.TB, b stability.Backend, holder string) lock.Record {
	t.Helper()
	rec, granted, err := b.Lock.Acquire(t.Context(), holder, rand.Text(), time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	return rec
}

func put(id, value string) authstore.Batch {
	return authstore.Batch{Put: []authstore.Entry{{Key: authstore.Key{Kind: "session", ID: id}, Value: []byte(value)}}}
}

// value reads; a connection that died meanwhile is one more try.
func value(t testing.TB, b stability.Backend, id string) string {
	t.Helper()
	k := authstore.Key{Kind: "session", ID: id}
	var got map[authstore.Key][]byte
	retried(t, func() (err error) {
		got, err = b.Auth.Get(t.Context(), k)
		return err
	})
	return string(got[k])
}

func retried(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 20 { // more than the pool has connections
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}
