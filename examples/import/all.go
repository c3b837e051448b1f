package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/memorybackend"
)

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

// opener opens the account that one device becomes, and holds its lock.
type opener func(ctx context.Context, id string) (*account, error)

// openEach opens the place where every device becomes an account: a schema of
// ours, a folder with a folder for each account, as examples/gateway keeps them,
// or a collection with a document for each.
func openEach(ctx context.Context, to, schema string, dryRun bool) (opener, func(), error) {
	kind, rest, _ := strings.Cut(to, ":")
	switch {
	case rest == "":
	case kind == "postgres", kind == "postgresbackend":
		return place{rest, schema}.each(ctx, dryRun)
	case kind == "local":
		return func(ctx context.Context, id string) (*account, error) { return inFolder(ctx, rest, id, dryRun) }, func() {}, nil
	case kind == "firestore":
		return func(ctx context.Context, id string) (*account, error) {
			return targetFirestore(ctx, strings.TrimSuffix(rest, "/")+"/"+id, dryRun)
		}, func() {}, nil
	}
	return nil, nil, errors.New("with -all pass postgres:DSN, local:FOLDER or firestore:PROJECT/COLLECTION")
}

func inFolder(ctx context.Context, folder, id string, dryRun bool) (*account, error) {
	dir := filepath.Join(folder, strings.ReplaceAll(id, ":", ".")) // not every system has a colon in a name
	path := filepath.Join(dir, "wastability.db")
	if _, err := os.Stat(path); dryRun && errors.Is(err, os.ErrNotExist) {
		return hold(ctx, memorybackend.New().Backend(), path)
	}
	if !dryRun {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return openLocal(ctx, path)
}

// everyDevice moves all devices of a database of sqlstore, each to an account of
// its own. One that cannot be moved does not keep the others from it. One that is there
// already, from an earlier run, is left as it is. The database is marked when
// every device has moved.
func everyDevice(ctx context.Context, from *sql.DB, to string, schema string, o options, out io.Writer) error {
	all, err := devices(ctx, from)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%w: the database has none", authstore.ErrNoDevice)
	}
	open, done, err := openEach(ctx, to, schema, o.dryRun)
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}
	defer done()
	one := o
	one.keep = true // the database is marked once, at the end
	var failed []error
	there := 0
	for n, jid := range all {
		id := accountOf(jid, all)
		fmt.Fprintf(out, "\n== %d of %d: device %s becomes account %s\n", n+1, len(all), jid, id)
		known, err := oneOf(ctx, from, jid, open, id, one, out)
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
func oneOf(ctx context.Context, from *sql.DB, jid types.JID, open opener, id string, o options, out io.Writer) (known bool, err error) {
	target, err := open(ctx, id)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	if !o.replace {
		info, err := authstore.New(target.backend.Auth, o.seal...).Info(ctx)
		if err != nil {
			return false, here(err)
		}
		if info.Exists && info.JID == jid {
			return true, nil
		}
	}
	return false, move(ctx, authstore.FromSQL(from, jid), target, o, out)
}
