package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/postgresbackend"
)

// place is our schema in a Postgres database.
type place struct {
	dsn, schema string
}

// open opens the database. With create the schema is made, if it is not there;
// else ErrNoSchema says that it is not.
func (p place) open(ctx context.Context, create bool) (*postgresbackend.DB, error) {
	db, err := postgresbackend.Open(ctx, p.dsn, postgresbackend.WithSchema(p.schema), postgresbackend.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	if create {
		err = db.Migrate(ctx)
	} else {
		err = db.Check(ctx)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// account opens one account, and the database for it alone.
func (p place) account(ctx context.Context, id string, create bool) (stability.Backend, error) {
	if id == "" {
		return stability.Backend{}, errors.New("a schema has many accounts: name this one with -account, for example by its phone number")
	}
	db, err := p.open(ctx, create)
	if err != nil {
		return stability.Backend{}, err
	}
	backend, err := db.Account(id)
	if err != nil {
		db.Close()
		return backend, err
	}
	closeBackend := backend.Close
	backend.Close = func() error {
		defer db.Close()
		return closeBackend()
	}
	return backend, nil
}

// target holds the account's lock. A dry run takes none where no lock was ever
// taken, and makes no schema.
func (p place) target(ctx context.Context, id string, dryRun bool) (*account, error) {
	backend, err := p.account(ctx, id, !dryRun)
	if dryRun && errors.Is(err, postgresbackend.ErrNoSchema) {
		return hold(ctx, memorybackend.New().Backend(), id)
	}
	if err != nil {
		return nil, err
	}
	return holdTarget(ctx, backend, id, dryRun)
}

// holdTarget is hold, unless it is a dry run and nothing is there to be held.
func holdTarget(ctx context.Context, backend stability.Backend, id string, dryRun bool) (*account, error) {
	if dryRun {
		empty, err := untouched(ctx, backend)
		if err != nil {
			return nil, errors.Join(err, backend.Close())
		}
		if empty {
			return &account{backend: backend, fence: unheld{}}, nil
		}
	}
	return hold(ctx, backend, id)
}

// source holds the account's lock. If there is no account, it leaves nothing
// behind.
func (p place) source(ctx context.Context, id string) (*account, error) {
	backend, err := p.account(ctx, id, false)
	if err != nil {
		return nil, err
	}
	switch empty, err := untouched(ctx, backend); {
	case err != nil:
		return nil, errors.Join(err, backend.Close())
	case empty:
		return nil, errors.Join(fmt.Errorf("%w: there is no account %q in this schema", authstore.ErrNoDevice, id), backend.Close())
	}
	return hold(ctx, backend, id)
}

// each opens an account after the other in one schema. A dry
// run makes no schema.
func (p place) each(ctx context.Context, dryRun bool) (opener, func(), error) {
	db, err := p.open(ctx, !dryRun)
	if dryRun && errors.Is(err, postgresbackend.ErrNoSchema) {
		return func(ctx context.Context, id string) (*account, error) {
			return hold(ctx, memorybackend.New().Backend(), id)
		}, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, id string) (*account, error) {
		backend, err := db.Account(id)
		if err != nil {
			return nil, err
		}
		return holdTarget(ctx, backend, id, dryRun)
	}, db.Close, nil
}
