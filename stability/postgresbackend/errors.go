package postgresbackend

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/wastability/wastability/authstore"
)

var (
	// ErrNoSchema reports that the tables are not there, or too old for this
	// library: run DB.Migrate. A lock.Lease returns it at once. Run and Activate
	// report it and go on trying, so a migration may also come later.
	ErrNoSchema = errors.New("postgresbackend: the schema is missing or too old: run DB.Migrate once, as a role that may create it")

	// ErrNewerSchema reports a schema that a newer library migrated beyond what
	// this one knows. It matches authstore.ErrNewerFormat, and ends Run.
	ErrNewerSchema = fmt.Errorf("postgresbackend: the schema is newer than this library knows: update this instance: %w", authstore.ErrNewerFormat)
)

// lasting is for how long the server must answer nothing but a refusal before
// the refusal is permanent. Grants are repaired and passwords are changed while
// instances run; a standby should survive that.
const lasting = time.Minute

// faults remembers since when the server refuses.
type faults struct {
	mu    sync.Mutex
	since time.Time // of the first refusal; zero when the last request succeeded
}

func (f *faults) forget() {
	f.mu.Lock()
	f.since = time.Time{}
	f.mu.Unlock()
}

func (f *faults) last() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() {
		f.since = time.Now()
	}
	return time.Since(f.since) >= lasting
}

// explain adds to an error of the server what to do about it, and marks what no
// repetition can cure.
func (db *DB) explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch code := pg.Code; {
	case code == "42P01", code == "3F000": // undefined table, invalid schema name
		return permanent(fmt.Errorf("%w (schema %q): %w", ErrNoSchema, db.schema, err))
	case code == "42501": // insufficient privilege
		return db.refused(fmt.Errorf("the role may not do this: GRANT USAGE ON SCHEMA %s, and SELECT, INSERT, UPDATE, DELETE ON ALL TABLES in it: %w", db.schema, err))
	case code == "28000", code == "28P01": // invalid authorization, invalid password
		return db.refused(fmt.Errorf("the server refuses the role or its password: %w", err))
	case code == "3D000": // invalid catalog name
		return db.refused(fmt.Errorf("there is no such database: %w", err))
	case code == "25006", code == "55000" && strings.Contains(pg.Message, "recovery"): // read only, recovery is in progress
		return fmt.Errorf("the server is read-only, as a standby is: connect to the primary (target_session_attrs=read-write): %w", err)
	case code == "53300": // too many connections
		return fmt.Errorf("the server has no free connection: lower pool_max_conns, or raise its max_connections: %w", err)
	case code == "26000", code == "08P01", code == "42P05": // prepared statement unknown, protocol violation, exists already
		return fmt.Errorf("this connection does not have its prepared statements, as behind a PgBouncer: add default_query_exec_mode=exec to the connection string: %w", err)
	case code == "XX001", code == "XX002": // data corrupted, index corrupted
		return fmt.Errorf("%w: the database is damaged: %w", authstore.ErrCorrupt, err)
	}
	return err
}

// refused is permanent once it has lasted.
func (db *DB) refused(err error) error {
	if db.faults.last() {
		return permanent(err)
	}
	return err
}

// permanent marks err for lock.Lease: it returns instead of waiting.
func permanent(err error) error { return backoff.Permanent(err) }

// open says whether an error leaves open what became of a statement. An answer
// of the server's does not, unless the server was going away.
func unclear(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.HasPrefix(pg.Code, "57") || strings.HasPrefix(pg.Code, "08") || pg.Severity == "FATAL" || pg.Severity == "PANIC"
	}
	return !pgconn.SafeToRetry(err)
}

// again says whether the same statement may simply be repeated at once.
func again(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}
