package postgresbackend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

func permanently(err error) bool {
	var p *backoff.PermanentError
	return errors.As(err, &p)
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	for name, f := range map[string]func() (*DB, error){
		"connection string": func() (*DB, error) { return Open(t.Context(), "postgres://user:secret@host:notaport/db") },
		"pool":              func() (*DB, error) { return Open(t.Context(), (*pgxpool.Pool)(nil)) },
		"WithSchema":        func() (*DB, error) { return Open(t.Context(), "host=h", WithSchema("a\x00b")) },
		"WithTimeout":       func() (*DB, error) { return Open(t.Context(), "host=h", WithTimeout(-1)) },
		"WithRetention":     func() (*DB, error) { return Open(t.Context(), "host=h", WithRetention(-1)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f()
			require.ErrorContains(t, err, name)
			require.NotContains(t, err.Error(), "secret")
		})
	}
	db, err := Open(t.Context(), "host=127.0.0.1 port=1 dbname=x")
	require.NoError(t, err, "a database that is away is no error yet")
	defer db.Close()
	for _, id := range []string{"", "a\x00b", "\xff", strings.Repeat("x", maxAccount+1)} {
		_, err := db.Account(id)
		require.Error(t, err)
	}
}

func TestADatabaseThatIsAwayIsAnOutage(t *testing.T) {
	db, err := Open(t.Context(), "postgres://u@127.0.0.1:1/x?sslmode=disable", WithTimeout(time.Second))
	require.NoError(t, err)
	defer db.Close()
	b := backend(t, db, "a")
	_, _, err = b.Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.Error(t, err)
	require.False(t, permanently(err), "%v", err)
	_, err = b.Auth.Get(t.Context(), authstore.Key{Kind: "session", ID: "1"})
	require.Error(t, err)
	require.NotErrorIs(t, err, authstore.ErrCorrupt)
}

func TestAMissingSchemaSaysWhatToRun(t *testing.T) {
	opened(t) // the server is there
	db, err := Open(t.Context(), postgrestest.Need(t).DSN(), WithSchema("not there"))
	require.NoError(t, err)
	defer db.Close()
	b := backend(t, db, "a")
	_, _, err = b.Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.ErrorIs(t, err, ErrNoSchema)
	require.True(t, permanently(err), "a Lease must not wait for it")
	require.ErrorContains(t, err, "Migrate")
	require.ErrorContains(t, err, "not there")
}

func TestASchemaHasAnyNameAndIsMigratedOnce(t *testing.T) {
	const name = `odd "name" of wastability.x`
	dbs := make([]*DB, 4)
	for i := range dbs {
		var err error
		dbs[i], err = Open(t.Context(), postgrestest.Need(t).DSN(), WithSchema(name), WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		t.Cleanup(dbs[i].Close)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(dbs))
	for i, db := range dbs {
		wg.Go(func() { errs[i] = db.Migrate(t.Context()) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	b := backend(t, dbs[0], "a")
	rec := hold(t, b, "one")
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "v")))
	require.NoError(t, dbs[1].Migrate(t.Context()), "once more changes nothing")
	require.Equal(t, "v", value(t, b, "k"))
	texts, err := dbs[0].Migrations()
	require.NoError(t, err)
	require.Len(t, texts, SchemaVersion)
}

// A rolling deploy: the newer library migrates while an older one holds a lock.
func TestEarlierSchemaIsMigratedUnderItsUsers(t *testing.T) {
	db, err := Open(t.Context(), postgrestest.Need(t).DSN(), WithSchema("earlier"), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	texts, err := db.Migrations()
	require.NoError(t, err)
	admin, err := pgxpool.New(t.Context(), postgrestest.Need(t).DSN()+"&default_query_exec_mode=simple_protocol")
	require.NoError(t, err)
	defer admin.Close()
	run := func(sql string) {
		t.Helper()
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	run(texts[0])
	_, _, err = backend(t, db, "a").Lock.Acquire(t.Context(), "new", "n", time.Minute)
	require.ErrorIs(t, err, ErrNoSchema, "its version is older than the library's")
	run(`INSERT INTO earlier.locks (account, holder_instance_id, nonce, lease_epoch, lease_us, acquired_at, renewed_at)
		VALUES ('a', 'old', 'x', 7, 60000000, now(), now())`)
	run(`INSERT INTO earlier.fences (account, lease_epoch, nonce, token, released) VALUES ('a', 7, 'x', 'y', false)`)
	require.NoError(t, db.Migrate(t.Context()))
	b := backend(t, db, "a")
	rec, granted, err := b.Lock.Acquire(t.Context(), "new", "n", time.Minute)
	require.NoError(t, err)
	require.False(t, granted)
	require.Equal(t, "old", rec.Holder)
	run(`UPDATE earlier.locks SET renewed_at = clock_timestamp() WHERE account = 'a' AND lease_epoch = 7`) // as the older one does
	run(`UPDATE earlier.locks SET holder_instance_id = '' WHERE account = 'a' AND lease_epoch = 7`)
	require.Equal(t, int64(8), hold(t, b, "new").Epoch)
}

func TestANewerSchemaIsRefusedUnlessItSaysOtherwise(t *testing.T) {
	db := opened(t, WithSchema("newer"))
	exec(t, db, `INSERT INTO newer.versions (version, readable_by) VALUES (98, 1)`)
	require.NoError(t, db.Check(t.Context()), "an older library may go on beside it")
	exec(t, db, `INSERT INTO newer.versions (version, readable_by) VALUES (99, 99)`)
	fresh, err := Open(t.Context(), postgrestest.Need(t).DSN(), WithSchema("newer"))
	require.NoError(t, err)
	defer fresh.Close()
	b := backend(t, fresh, "a")
	_, _, err = b.Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.ErrorIs(t, err, ErrNewerSchema)
	require.ErrorIs(t, err, authstore.ErrNewerFormat)
	require.True(t, permanently(err))
	require.ErrorIs(t, fresh.Migrate(t.Context()), ErrNewerSchema)
}

func TestMissingGrantsAreNamedAndMayBeRepaired(t *testing.T) {
	db := opened(t, WithSchema("grants"))
	exec(t, db, `CREATE ROLE narrow LOGIN`)
	exec(t, db, `GRANT USAGE ON SCHEMA grants TO narrow`)
	narrow, err := Open(t.Context(), strings.Replace(postgrestest.Need(t).DSN(), "postgres@", "narrow@", 1), WithSchema("grants"))
	require.NoError(t, err)
	defer narrow.Close()
	b := backend(t, narrow, "a")
	_, _, err = b.Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.ErrorContains(t, err, "GRANT")
	require.False(t, permanently(err), "somebody may be about to grant it")
	narrow.faults.since = time.Now().Add(-lasting)
	_, _, err = b.Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.True(t, permanently(err), "it has lasted")
	exec(t, db, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA grants TO narrow`)
	rec := hold(t, b, "one")
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "v")), "these rights suffice")
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{}))
	require.True(t, narrow.faults.since.IsZero())
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	require.NoError(t, b.Destroy(t.Context()))
	require.NoError(t, narrow.Migrate(t.Context()), "nothing has to be created")
}

func TestAReadOnlyServerIsNamed(t *testing.T) {
	opened(t)
	db, err := Open(t.Context(), postgrestest.Need(t).DSN()+"&default_transaction_read_only=on")
	require.NoError(t, err)
	defer db.Close()
	_, _, err = backend(t, db, anyAccount()).Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.ErrorContains(t, err, "read-only")
	require.False(t, permanently(err), "a failover may be under way")
}

func TestTooManyConnectionsAreNamed(t *testing.T) {
	s := postgrestest.Need(t)
	db := opened(t)
	exec(t, db, `CREATE ROLE crowded LOGIN CONNECTION LIMIT 0`)
	few, err := Open(t.Context(), strings.Replace(s.DSN(), "postgres@", "crowded@", 1))
	require.NoError(t, err)
	defer few.Close()
	_, _, err = backend(t, few, "a").Lock.Acquire(t.Context(), "one", "n", time.Minute)
	require.ErrorContains(t, err, "max_connections")
	require.False(t, permanently(err))
}

func TestAnUnsafeServerIsWarnedAbout(t *testing.T) {
	var log bytes.Buffer
	db := opened(t, WithLogger(slog.New(slog.NewTextHandler(&log, nil)))) // the shared server has fsync off
	require.NoError(t, db.Check(t.Context()))
	require.Contains(t, log.String(), "fsync=off")
}

func TestAccountsAreListedAndDestroyed(t *testing.T) {
	db := opened(t, WithSchema("listed"))
	all := func() (ids []string) {
		for id, err := range db.Accounts(t.Context()) {
			require.NoError(t, err)
			ids = append(ids, id)
		}
		return ids
	}
	require.Empty(t, all())
	var want []string
	for i := range 1003 { // more than a page
		id := fmt.Sprintf("%04d", i)
		want = append(want, id)
		exec(t, db, `INSERT INTO listed.locks VALUES ($1, '', 'n', 1, 1, now(), now())`, id)
	}
	require.Equal(t, want, all())

	a, b := backend(t, db, "0001"), backend(t, db, "0002")
	rec, other := hold(t, a, "one"), hold(t, b, "two")
	require.NoError(t, a.Auth.Commit(t.Context(), rec.Epoch, put("k", "mine")))
	require.NoError(t, b.Auth.Commit(t.Context(), other.Epoch, put("k", "theirs")))
	require.ErrorIs(t, a.Destroy(t.Context()), lock.ErrHeld)
	require.Equal(t, "mine", value(t, a, "k"))
	require.NoError(t, a.Lock.Release(t.Context(), rec))
	require.NoError(t, a.Destroy(t.Context()))
	require.NoError(t, a.Destroy(t.Context()), "once more is no error")
	require.Empty(t, values(t, a))
	require.NotContains(t, all(), "0001")
	require.Equal(t, "theirs", value(t, b, "k"), "another account is untouched")
	require.ErrorIs(t, a.Auth.Commit(t.Context(), rec.Epoch, put("k", "late")), authstore.ErrFenced)
	require.Equal(t, int64(1), hold(t, a, "one").Epoch-rec.Epoch, "this instance remembers the epoch")
}

func TestAHandOverWakesWhoWaits(t *testing.T) {
	db := opened(t)
	id := anyAccount()
	a, b := backend(t, db, id), backend(t, db, id)
	quiet := lock.WithLogger(slog.New(slog.DiscardHandler))
	// Without a notification the other would look once in 90 s.
	first, err := lock.New(a.Lock, "a", quiet, lock.WithLease(90*time.Second), lock.WithRefresh(30*time.Second))
	require.NoError(t, err)
	defer first.Close(context.WithoutCancel(t.Context()))
	second, err := lock.New(b.Lock, "b", quiet, lock.WithLease(90*time.Second), lock.WithRefresh(30*time.Second))
	require.NoError(t, err)
	defer second.Close(context.WithoutCancel(t.Context()))
	// A wake-up by the listening itself when it begins proves nothing.
	elsewhere, stop := db.listen.subscribe("another account")
	defer stop()
	<-elsewhere
	waiting := func() bool {
		db.listen.mu.Lock()
		defer db.listen.mu.Unlock()
		return len(db.listen.waiting[id]) > 0
	}
	for range 3 {
		term, err := first.Acquire(t.Context())
		require.NoError(t, err)
		waits := make(chan lock.Term, 1)
		go func() {
			term, err := second.Acquire(context.WithoutCancel(t.Context()))
			if err == nil {
				waits <- term
			}
		}()
		require.Eventually(t, waiting, 10*time.Second, time.Millisecond)
		require.NoError(t, term.Release(t.Context()))
		select {
		case term := <-waits:
			require.NoError(t, term.Release(t.Context()))
		case <-time.After(5 * time.Second):
			require.Fail(t, "the waiting instance was not woken")
		}
	}
	require.Empty(t, elsewhere, "who waits for another account is not woken")
}

// Many accounts over few connections: nothing waits for ever.
func TestManyAccountsShareFewConnections(t *testing.T) {
	opened(t)
	const accounts, conns = 100, 8
	var dbs []*DB
	for range 3 {
		db, err := Open(t.Context(), fmt.Sprintf("%s&pool_max_conns=%d", postgrestest.Need(t).DSN(), conns), WithTimeout(30*time.Second))
		require.NoError(t, err)
		t.Cleanup(db.Close)
		dbs = append(dbs, db)
	}
	prefix := anyAccount()
	each := stabilitytest.Pick(20, 500)
	var wg sync.WaitGroup
	for i := range accounts {
		b := backend(t, dbs[i%len(dbs)], fmt.Sprint(prefix, i))
		wg.Go(func() {
			rec, granted, err := b.Lock.Acquire(t.Context(), "one", fmt.Sprint(i), time.Hour)
			if err != nil || !granted {
				t.Errorf("acquire: %v %v", granted, err)
				return
			}
			for n := range each {
				if err := b.Auth.Commit(t.Context(), rec.Epoch, put(fmt.Sprint("k", n%5), fmt.Sprint(n))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range accounts {
		got := values(t, backend(t, dbs[0], fmt.Sprint(prefix, i)))
		require.Len(t, got, 5)
		for k, v := range got {
			require.Equal(t, fmt.Sprint("k", atoi(t, v)%5), k)
			require.GreaterOrEqual(t, atoi(t, v), each-5)
		}
	}
	for _, db := range dbs {
		require.LessOrEqual(t, int(db.pool.Stat().MaxConns()), conns)
		require.Zero(t, db.pool.Stat().AcquiredConns())
	}
}

func atoi(t *testing.T, s string) (n int) {
	_, err := fmt.Sscan(s, &n)
	require.NoError(t, err)
	return n
}

func TestAClosedBackendSaysSo(t *testing.T) {
	db := opened(t)
	b := backend(t, db, anyAccount())
	rec := hold(t, b, "one")
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, err := b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "v")), ErrClosed)
	require.NoError(t, db.Check(t.Context()), "the DB goes on")
}
