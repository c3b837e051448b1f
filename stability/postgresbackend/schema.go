package postgresbackend

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/wastability/wastability/lock"
)

//go:embed migrations/*.sql
var files embed.FS

// SchemaVersion is the newest version of the schema that this library knows.
const SchemaVersion = 2

// Migrations are the schema's SQL files in the order in which they are run, for
// people who want to read them or run them by hand. Their texts have the schema
// "wastability"; those of db have its own.
func (db *DB) Migrations() ([]string, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("postgresbackend: list the migrations: %w", err)
	}
	slices.Sort(names)
	name := pgx.Identifier{db.schema}.Sanitize()
	var out []string
	for _, n := range names {
		text, err := files.ReadFile(n)
		if err != nil {
			return nil, fmt.Errorf("postgresbackend: read %s: %w", n, err)
		}
		out = append(out, strings.NewReplacer("SCHEMA IF NOT EXISTS wastability", "SCHEMA IF NOT EXISTS "+name, "wastability.", name+".").Replace(string(text)))
	}
	return out, nil
}

// Migrate brings the schema to SchemaVersion, in one transaction. Several
// instances may call it at once. It is the only call that creates or changes a
// table, and needs a role that may. The others need USAGE on the schema and
// SELECT, INSERT, UPDATE and DELETE on its tables. It never touches a schema
// that a newer library has migrated.
func (db *DB) Migrate(ctx context.Context) error {
	const op = "migrate the schema"
	texts, err := db.Migrations()
	if err != nil {
		return err
	}
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
			return err
		}
		// Until the end of the transaction only one process is here.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "wastability/"+db.schema); err != nil {
			return err
		}
		var there bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'versions')", db.schema).Scan(&there); err != nil {
			return err
		}
		version := 0
		if there {
			if err := tx.QueryRow(ctx, "SELECT max(version) FROM "+pgx.Identifier{db.schema, "versions"}.Sanitize()).Scan(&version); err != nil {
				return err
			}
		}
		for i := version; i < len(texts); i++ {
			// Without arguments the text may hold many statements.
			if _, err := tx.Conn().PgConn().Exec(ctx, texts[i]).ReadAll(); err != nil {
				return fmt.Errorf("to version %d: %w", i+1, err)
			}
		}
		return nil
	})
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42501" {
			return fmt.Errorf("postgresbackend: %s: the role may not create it: run it as the database's owner: %w", op, err)
		}
		return fmt.Errorf("postgresbackend: %s: %w", op, db.explain(err))
	}
	return db.Check(ctx)
}

// Check tells whether the database can be used: that it answers, that its
// schema fits this library (else ErrNoSchema or ErrNewerSchema), and that it is
// no standby. It warns, in the log, of settings under which a crash of the
// server can lose what was committed. The first use of a lock calls it; call it
// yourself to know at start.
func (db *DB) Check(ctx context.Context) error {
	var (
		version, readable *int
		standby           bool
		fsync, fullPages  string
	)
	err := db.do(ctx, "check the schema", func(ctx context.Context) error {
		return db.pool.QueryRow(ctx, db.q.version).Scan(&version, &readable, &standby, &fsync, &fullPages)
	})
	switch {
	case err != nil:
		return err
	case version == nil || *version < SchemaVersion:
		return permanent(fmt.Errorf("postgresbackend: check the schema %q: %w", db.schema, ErrNoSchema))
	case *readable > SchemaVersion:
		return permanent(fmt.Errorf("postgresbackend: check the schema %q: its version is %d: %w", db.schema, *version, ErrNewerSchema))
	case standby:
		return errors.New("postgresbackend: the server is a standby, which cannot be written to: connect to the primary (target_session_attrs=read-write)")
	}
	if fsync == "off" || fullPages == "off" {
		db.log.Warn("a crash of this Postgres server can lose or damage what was committed: turn these settings on",
			"fsync", fsync, "full_page_writes", fullPages)
	}
	blind := false
	err = db.do(ctx, "read the server's timeline", func(ctx context.Context) error {
		var timeline int64
		err := db.pool.QueryRow(ctx, "SELECT "+timelineSQL).Scan(&timeline)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "42883" || pg.Code == "42501" || pg.Code == "0A000") { // no such function, not allowed, not supported
			blind, err = true, nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if blind {
		db.log.Warn("this Postgres server does not say which timeline it writes: after a failover to a standby that lagged, " +
			"two instances may hold one account until the older one renews its lease")
	}
	db.mu.Lock()
	db.checked, db.blind = true, blind
	db.mu.Unlock()
	return nil
}

// locking are the statements on locks, as this server takes them.
func (db *DB) locking() *lockQueries {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.blind {
		return &db.q.blind
	}
	return &db.q.locks
}

// ready checks once.
func (db *DB) ready(ctx context.Context) error {
	db.mu.Lock()
	checked := db.checked
	db.mu.Unlock()
	if checked {
		return nil
	}
	return db.Check(ctx)
}

// destroy is Backend.Destroy.
func (db *DB) destroy(ctx context.Context, account string) error {
	return db.do(ctx, "destroy the account", func(ctx context.Context) error {
		return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			var (
				freed  int
				holder *string
			)
			if err := tx.QueryRow(ctx, db.q.destroy, account).Scan(&freed, &holder); err != nil {
				return err
			}
			if freed == 0 && holder != nil {
				return fmt.Errorf("%w: held by %q", lock.ErrHeld, *holder)
			}
			_, err := tx.Exec(ctx, db.q.wipe, account)
			return err
		})
	})
}
