package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"go.mau.fi/whatsmeow/types"

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

// source holds the account's lock. Where there is no account, it leaves nothing
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

// devices lists those of a database of sqlstore.
func devices(ctx context.Context, db *sql.DB) (all []types.JID, err error) {
	rows, err := db.QueryContext(ctx, "SELECT jid FROM whatsmeow_device ORDER BY jid")
	if err != nil {
		return nil, fmt.Errorf("list the devices: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("list the devices: %w", err)
		}
		jid, err := types.ParseJID(text)
		if err != nil {
			return nil, fmt.Errorf("list the devices: %q: %w", text, err)
		}
		all = append(all, jid)
	}
	return all, rows.Err()
}

// accountOf names the account of a device: by its phone number, and its device
// number too where the database has several devices of that number.
func accountOf(jid types.JID, all []types.JID) string {
	same := 0
	for _, other := range all {
		if other.User == jid.User {
			same++
		}
	}
	if same > 1 {
		return fmt.Sprintf("%s:%d", jid.User, jid.Device)
	}
	return jid.User
}

// onlyAccount names the account of the device that is to be moved; "" where the
// source does not tell.
func onlyAccount(ctx context.Context, from string, jid types.JID) (id string, err error) {
	if kind := scheme(from); kind != "sqlite" && kind != "postgres" {
		return "", nil
	}
	db, err := openDatabase(ctx, from, true)
	if err != nil {
		return "", fmt.Errorf("-from %s: %w", scheme(from), err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	all, err := devices(ctx, db)
	switch {
	case err != nil:
		return "", err
	case !jid.IsEmpty():
		return accountOf(jid, all), nil
	case len(all) == 1:
		return accountOf(all[0], all), nil
	}
	return "", fmt.Errorf("the database has %d devices: name one with -device, or move them with -all", len(all))
}

// everyDevice moves all devices of a database of sqlstore into a schema of ours.
// One that cannot be moved does not keep the others from it. One that is there
// already, from an earlier run, is left as it is. The database is marked when
// every device has moved.
func everyDevice(ctx context.Context, from *sql.DB, to place, o options, out io.Writer) error {
	all, err := devices(ctx, from)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%w: the database has none", authstore.ErrNoDevice)
	}
	db, err := to.open(ctx, !o.dryRun)
	if o.dryRun && errors.Is(err, postgresbackend.ErrNoSchema) {
		db, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}
	if db != nil {
		defer db.Close()
	}
	one := o
	one.keep = true // the database is marked once, at the end
	var failed []error
	there := 0
	for n, jid := range all {
		id := accountOf(jid, all)
		fmt.Fprintf(out, "\n== %d of %d: device %s becomes account %s\n", n+1, len(all), jid, id)
		known, err := oneOf(ctx, from, jid, db, id, one, out)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			fmt.Fprintln(out, "not moved:", err)
			failed = append(failed, fmt.Errorf("device %s: %w", jid, err))
		case known:
			fmt.Fprintln(out, "it is there already, and was left as it is")
			there++
		}
	}
	fmt.Fprintf(out, "\n%d devices: %d moved, %d were there already, %d failed\n", len(all), len(all)-there-len(failed), there, len(failed))
	switch {
	case len(failed) > 0:
		return fmt.Errorf("call this again when it is mended, what has moved stays: %w", errors.Join(failed...))
	case o.dryRun:
		fmt.Fprintln(out, "dry run: nothing was written")
		return nil
	case o.keep:
		fmt.Fprintln(out, "Done. NEVER START THE OLD SERVICE AGAIN: nothing keeps it from using the same devices, and both would lose messages.")
		return nil
	}
	if err := authstore.RetireSQL(ctx, from); err != nil {
		return fmt.Errorf("every device has moved, but the old database could not be marked, never start the old service again: %w", err)
	}
	fmt.Fprintln(out, "Done. The database is marked as moved, and the old service will not start on it.")
	return nil
}

// oneOf moves one device. known says that it is in its place already.
func oneOf(ctx context.Context, from *sql.DB, jid types.JID, db *postgresbackend.DB, id string, o options, out io.Writer) (known bool, err error) {
	backend := memorybackend.New().Backend()
	if db != nil {
		if backend, err = db.Account(id); err != nil {
			return false, err
		}
	}
	target, err := holdTarget(ctx, backend, id, o.dryRun)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	if !o.replace {
		info, err := authstore.New(target.backend.Auth).Info(ctx)
		if err != nil {
			return false, err
		}
		if info.Exists && info.JID == jid {
			return true, nil
		}
	}
	return false, move(ctx, authstore.FromSQL(from, jid), target, o, out)
}
