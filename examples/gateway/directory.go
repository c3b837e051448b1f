package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/postgresbackend"
)

// directory says which accounts there are, and opens them. To add and to remove
// one may be repeated.
type directory interface {
	list(ctx context.Context) ([]string, error)
	add(ctx context.Context, id string) error
	delist(ctx context.Context, id string) error  // nobody begins it any more
	destroy(ctx context.Context, id string) error // after that: its data
	open(id string) (stability.Backend, error)
}

// folder is a directory for one process: a folder with one for each account.
type folder string

func (f folder) of(id string) string { return filepath.Join(string(f), id) }

func (f folder) list(context.Context) (ids []string, err error) {
	found, err := filepath.Glob(f.of("*"))
	for _, path := range found {
		if _, err := os.Stat(filepath.Join(path, "removed")); err != nil {
			ids = append(ids, filepath.Base(path))
		}
	}
	return ids, err
}

func (f folder) add(_ context.Context, id string) error { return os.MkdirAll(f.of(id), 0o700) }

func (f folder) delist(_ context.Context, id string) error {
	return os.WriteFile(filepath.Join(f.of(id), "removed"), nil, 0o600)
}

func (f folder) destroy(_ context.Context, id string) error { return os.RemoveAll(f.of(id)) }

func (f folder) open(id string) (stability.Backend, error) {
	return localbackend.Open(filepath.Join(f.of(id), "wastability.db"))
}

// table is a directory in Postgres, for any number of processes.
type table struct {
	pool *pgxpool.Pool
	db   *postgresbackend.DB
}

func newTable(ctx context.Context, pool *pgxpool.Pool, db *postgresbackend.DB) (directory, error) {
	if err := db.Migrate(ctx); err != nil {
		return nil, err
	}
	_, err := pool.Exec(ctx, "CREATE TABLE IF NOT EXISTS gateway_accounts (id text PRIMARY KEY)")
	return table{pool, db}, err
}

func (t table) list(ctx context.Context) ([]string, error) {
	rows, err := t.pool.Query(ctx, "SELECT id FROM gateway_accounts ORDER BY id")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (t table) add(ctx context.Context, id string) error {
	_, err := t.pool.Exec(ctx, "INSERT INTO gateway_accounts VALUES ($1) ON CONFLICT DO NOTHING", id)
	return err
}

func (t table) delist(ctx context.Context, id string) error {
	_, err := t.pool.Exec(ctx, "DELETE FROM gateway_accounts WHERE id = $1", id)
	return err
}

func (t table) destroy(ctx context.Context, id string) error {
	b, err := t.open(id)
	if err != nil {
		return err
	}
	defer b.Close()
	for err = b.Destroy(ctx); errors.Is(err, lock.ErrHeld) && ctx.Err() == nil; err = b.Destroy(ctx) {
		time.Sleep(200 * time.Millisecond) // a replica has the lock for a moment, and finds the account removed
	}
	return err
}

func (t table) open(id string) (stability.Backend, error) { return t.db.Account(id) }
