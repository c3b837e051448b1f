// Command import moves WhatsApp devices, with everything that belongs to them.
// It takes them from whatsmeow's SQL store, or from any place of ours. It puts
// them into a file of ours, a schema of ours in a Postgres database, or
// Firestore. The account then logs in without pairing, and the people it talks
// to notice nothing.
//
//	import -from sqlite:wa.db -to local:account.db -stopped
//	import -from postgres:"host=/run/postgresql dbname=wa" -to postgres:"host=/run/postgresql dbname=wa" -all -stopped
//	import -from sqlite:wa.db -to local:accounts -all -stopped
//	import -from postgres:$DSN -device 15550001:1@s.whatsapp.net -to postgres:$DSN -account 15550001 -stopped
//	import -from local:old.db -to local:new.db
//	import -from postgresbackend:$DSN -account 15550001 -to local:account.db
//	import -from local:account.db -to firestore:my-project/wa_metrics/longrun
//	import -from sqlite:wa.db -to local:account.db -dry-run
//	import -from local:account.db -to archive:backup.bin -key backup.key
//	import -from archive:backup.bin -key backup.key -to local:account.db
//	import -reseal -to local:account.db -seal new.key -unseal old.key
//
// Behind postgres: stands a connection string. As a source it means
// whatsmeow's own tables. As a target it means the schema of ours (-schema),
// which is made if it is not there. The two may be in one database. -account
// names the account, for example by its phone number. With -all every device
// of the source becomes an account of its own, under its phone number.
// Accounts are in a schema, in a folder each (-to local:FOLDER, as
// examples/gateway keeps them), or under a collection (-to
// firestore:PROJECT/COLLECTION). The source is marked when its last device has
// moved, so the old program cannot be started on it by mistake. If one fails,
// the source is not marked, and calling it again moves the others. As a source
// postgresbackend: means our schema. There is no way back into whatsmeow's
// tables.
//
// Behind firestore: stand a project and the root of the account, by default
// wa_metrics/longrun. FIRESTORE_DATABASE names the database if it has a name.
//
// Stop the program that uses the source first, and never start it on the
// source again: a device that runs in two places loses messages in both. A
// database of whatsmeow's does not tell whether it is in use, hence -stopped.
// If it is written to during the import, that is noticed, and the import
// refused. Of our own places the lock is taken. When the device has moved, the
// source is marked: the device as deleted, a database as one that whatsmeow
// refuses to open. With -keep it is not, nor if it has other devices that have
// not moved or may not be written to: then nothing but you keeps the old
// service from being started.
//
// It can be stopped at any time and started again. An imported account
// is used only after all of it was read back and compared with the source.
//
// An archive is a copy for the worst case, encrypted with the 32 bytes of the file
// that -key names; the account stays where it is. Its lock is taken meanwhile: a
// program that runs calls authstore.Export itself. The file that -seal names has
// the 32 bytes that seal a target of ours; a source of ours may be plain, or sealed
// with the same key. With -reseal the account behind -to is sealed with them: one
// that was plain, or was sealed with the key of -unseal.
//
// A dry run reads the source, counts, and says whether the target would take
// it. Of a target that exists it takes the lock, which counts a term there; one
// that does not exist is not made. There is none of an archive that is written,
// nor of -reseal.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq"
	"go.mau.fi/whatsmeow/types"
	_ "modernc.org/sqlite"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/postgresbackend"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "import:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, usage io.Writer) (err error) {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	flags.SetOutput(usage)
	from := flags.String("from", "", places("sqlite:PATH, postgres:DSN, postgresbackend:DSN, "))
	to := flags.String("to", "", places("postgres:DSN, "))
	device := flags.String("device", "", "JID of the device, if the database has several")
	id := flags.String("account", "", "name of the account in a schema of ours")
	schema := flags.String("schema", postgresbackend.DefaultSchema, "name of the schema of ours")
	all := flags.Bool("all", false, "move every device of the database, each to an account of its own")
	var o options
	flags.BoolVar(&o.stopped, "stopped", false, "nothing uses the source database any more, nor will")
	flags.BoolVar(&o.replace, "replace", false, "take the place of a device that the target has")
	flags.BoolVar(&o.keep, "keep", false, "leave the source unmarked: never start the old service again")
	flags.BoolVar(&o.dryRun, "dry-run", false, "of a move or a restore: read and count; import nothing")
	keyFile := flags.String("key", "", "file with the 32 bytes that encrypt an archive")
	sealFile := flags.String("seal", "", "file with the 32 bytes that seal what is written to a place of ours")
	oldFile := flags.String("unseal", "", "with -reseal: file with the 32 bytes that sealed it until now")
	again := flags.Bool("reseal", false, "seal the account behind -to with the key of -seal")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *again {
		if o.dryRun {
			return errNoDryRun
		}
		return reseal(ctx, *to, *schema, *id, *sealFile, *oldFile, out)
	}
	var aead authstore.AEAD
	if *sealFile != "" {
		key, err := readKey("-seal", *sealFile)
		if err != nil {
			return err
		}
		aead = authstore.NewAESGCM(key)
		o.seal = []authstore.Option{authstore.WithAEAD(aead)}
	}
	var jid types.JID
	if *device != "" {
		if jid, err = types.ParseJID(*device); err != nil {
			return fmt.Errorf("-device: %w", err)
		}
	}
	if *all {
		if *device != "" || *id != "" {
			return errors.New("-all moves every device: leave -device and -account out")
		}
		db, err := openDatabase(ctx, *from, o.dryRun || o.keep)
		if err != nil {
			return fmt.Errorf("-from %s: %w", scheme(*from), err)
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		return everyDevice(ctx, db, *to, *schema, o, out)
	}
	if path, ok := strings.CutPrefix(*from, "archive:"); ok {
		target, e := openTarget(ctx, *to, *schema, *id, o.dryRun)
		if e != nil {
			return fmt.Errorf("-to: %w", e)
		}
		defer func() { err = errors.Join(err, target.close()) }()
		return restore(ctx, path, *keyFile, target, o, out)
	}
	path, export := strings.CutPrefix(*to, "archive:")
	if export && o.dryRun {
		return errNoDryRun
	}
	source, closeSource, err := openSource(ctx, *from, jid, *schema, *id, o.dryRun || o.keep || export, aead)
	if err != nil {
		return fmt.Errorf("-from %s: %w", scheme(*from), err)
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	if export {
		return backup(ctx, source, path, *keyFile, out)
	}
	if *id == "" && slices.Contains([]string{"postgres", "postgresbackend"}, scheme(*to)) {
		if *id, err = onlyAccount(ctx, *from, jid); err != nil {
			return err
		}
	}
	target, err := openTarget(ctx, *to, *schema, *id, o.dryRun)
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}
	defer func() { err = errors.Join(err, target.close()) }()
	return move(ctx, source, target, o, out)
}

var errNoDryRun = errors.New("-dry-run is for a move or a restore: leave it out")

// places says what may stand behind -from and -to.
func places(more string) string {
	return more + "local:PATH, firestore:PROJECT/ROOT or archive:FILE"
}

// options are those of a move.
type options struct {
	stopped, replace, keep, dryRun bool
	seal                           []authstore.Option
}

// importing are the options of the library for a move.
func (o options) importing(more ...authstore.ImportOption) []authstore.ImportOption {
	if o.stopped {
		more = append(more, authstore.SourceStopped())
	}
	if o.replace {
		more = append(more, authstore.ReplaceDevice())
	}
	if o.dryRun {
		more = append(more, authstore.DryRun())
	}
	return more
}

// move moves one device, and tells of it.
func move(ctx context.Context, source authstore.Source, target *account, o options, out io.Writer) error {
	p := newPrinter(out)
	opts := o.importing(authstore.OnProgress(p.show))
	if !o.keep {
		opts = append(opts, authstore.RetireSource())
	}
	container := authstore.New(target.backend.Auth, o.seal...)
	report, err := authstore.Import(ctx, source, container, target.fence, opts...)
	if err == nil {
		err = container.Close(ctx)
	}
	if err != nil {
		if errors.Is(err, authstore.ErrSourceInUse) && !o.stopped && report.From == authstore.FromSQL(nil, types.JID{}).String() {
			return fmt.Errorf("%w (here: -stopped)", err)
		}
		return here(err)
	}
	p.summary(report)
	switch {
	case report.DryRun:
	case report.Retired:
		fmt.Fprintln(out, "Done. The source is marked as moved and will not log in again. Do not start the old service on a copy of it.")
	default:
		fmt.Fprintln(out, "Done. NEVER START THE OLD SERVICE AGAIN: nothing keeps it from using the same device, and both would lose messages.")
	}
	return nil
}

// scheme is what may be printed: a DSN has passwords in it.
func scheme(arg string) string {
	kind, _, _ := strings.Cut(arg, ":")
	return kind
}

func openSource(ctx context.Context, arg string, jid types.JID, schema, id string, readOnly bool, aead authstore.AEAD) (authstore.Source, func() error, error) {
	kind, rest, _ := strings.Cut(arg, ":")
	if rest != "" && (kind == "sqlite" || kind == "postgres") {
		db, err := openDatabase(ctx, arg, readOnly)
		if err != nil {
			return nil, nil, err
		}
		return authstore.FromSQL(db, jid), db.Close, nil
	}
	name, a, err := openThere(ctx, kind, rest, schema, id)
	switch {
	case err != nil:
		return nil, nil, err
	case a == nil:
		return nil, nil, errors.New("pass " + places("sqlite:PATH, postgres:DSN, postgresbackend:DSN, "))
	}
	opts, err := reading(ctx, a.backend.Auth, aead)
	if err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	return authstore.FromKV(name, a.backend.Auth, a.fence, opts...), a.close, nil
}

// openThere opens what is in a place of ours, and holds its lock. If nothing
// is there, it leaves nothing behind. The account is nil if kind is no place
// of ours.
func openThere(ctx context.Context, kind, rest, schema, id string) (name string, a *account, err error) {
	switch {
	case rest == "":
	case kind == "local":
		name = "a local file"
		if _, err = os.Stat(rest); err == nil {
			a, err = openLocal(ctx, rest)
		}
	case kind == "postgresbackend":
		name = "Postgres"
		a, err = place{rest, schema}.source(ctx, id)
	case kind == "firestore":
		name = "Firestore"
		a, err = sourceFirestore(ctx, rest)
	}
	return name, a, err
}

// reading are the options that open a source, plain, sealed with aead, or partly
// so; the mark that it has moved is written as its own program would write.
func reading(ctx context.Context, kv authstore.KV, aead authstore.AEAD) ([]authstore.Option, error) {
	if aead == nil {
		return nil, nil
	}
	container := authstore.New(kv)
	_, err := container.Info(ctx)
	switch err = errors.Join(err, container.Close(ctx)); {
	case errors.Is(err, authstore.ErrSealed):
		return []authstore.Option{authstore.WithAEAD(aead), authstore.WithPlaintextAllowed()}, nil
	case err != nil:
		return nil, err
	}
	return []authstore.Option{authstore.WithSealingRemoved(aead)}, nil
}

// openDatabase opens a database of sqlstore's.
func openDatabase(ctx context.Context, arg string, readOnly bool) (*sql.DB, error) {
	kind, rest, _ := strings.Cut(arg, ":")
	if kind == "sqlite" && rest != "" {
		path, err := filepath.Abs(rest)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return nil, err
		}
		if path = filepath.ToSlash(path); path[0] != '/' {
			path = "/" + path // a drive
		}
		mode := "rw"
		if readOnly {
			mode = "ro"
		}
		dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=" + mode + "&_pragma=busy_timeout(5000)"}
		rest = dsn.String()
	} else if kind != "postgres" || rest == "" {
		return nil, errors.New("pass sqlite:PATH or postgres:DSN")
	}
	db, err := sql.Open(kind, rest)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// account is a backend whose lock is held.
type account struct {
	backend stability.Backend
	term    lock.Term // nil where nothing is written
	fence   authstore.Fence
}

// fence ties the import to the term. There is no connection to cut.
type fence struct{ lock.Term }

func (fence) Cut(error) {}

func openTarget(ctx context.Context, arg, schema, id string, dryRun bool) (*account, error) {
	kind, rest, _ := strings.Cut(arg, ":")
	switch {
	case rest == "":
	case kind == "firestore":
		return targetFirestore(ctx, rest, dryRun)
	case kind == "postgres", kind == "postgresbackend":
		return place{rest, schema}.target(ctx, id, dryRun)
	case kind == "local":
		if _, err := os.Stat(rest); dryRun && errors.Is(err, os.ErrNotExist) {
			return hold(ctx, memorybackend.New().Backend(), rest)
		}
		return openLocal(ctx, rest)
	}
	return nil, errors.New("pass " + places("postgres:DSN, "))
}

func openLocal(ctx context.Context, path string) (*account, error) {
	backend, err := localbackend.Open(path)
	if err != nil {
		return nil, err
	}
	return hold(ctx, backend, path)
}

func hold(ctx context.Context, backend stability.Backend, path string) (*account, error) {
	lease, err := lock.New(backend.Lock, fmt.Sprintf("import-%d-%d", os.Getpid(), time.Now().UnixNano()),
		lock.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	term, granted, err := lease.TryAcquire(ctx)
	if err == nil && !granted {
		err = fmt.Errorf("%s is in use: stop the program that uses it; if it ended without releasing its lock, wait until its lease has run out", path)
	}
	if err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	return &account{backend, term, fence{term}}, nil
}

func (a *account) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	if a.term != nil {
		err = a.term.Release(ctx)
	}
	return errors.Join(err, a.backend.Close())
}
