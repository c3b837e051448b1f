package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/wastability/wastability/authstore"
)

// readKey reads the 32 bytes of a key.
func readKey(option, path string) (key [32]byte, err error) {
	if path == "" {
		return key, fmt.Errorf("%s names a file with 32 random bytes: make one with head -c 32 /dev/urandom", option)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return key, fmt.Errorf("%s: %w", option, err)
	}
	if len(data) != len(key) {
		return key, fmt.Errorf("%s: %s has %d bytes: a key has %d", option, path, len(data), len(key))
	}
	return [32]byte(data), nil
}

// backup writes an archive. It has its name only when it is whole.
func backup(ctx context.Context, source authstore.Source, path, keyFile string, out io.Writer) (err error) {
	key, err := readKey("-key", keyFile)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	report, err := authstore.Export(ctx, source, f, key, authstore.OnProgress(newPrinter(out).show))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return here(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	fmt.Fprintf(out, "\ndevice %s: %d rows, %d bytes in %s. Keep the key apart from it: together they are the account.\n", report.JID, report.Rows, report.Bytes, path)
	return nil
}

// restore puts the device of an archive into target.
func restore(ctx context.Context, path, keyFile string, target *account, o options, out io.Writer) error {
	key, err := readKey("-key", keyFile)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := newPrinter(out)
	container := authstore.New(target.backend.Auth, o.seal...)
	report, err := authstore.Restore(ctx, f, key, container, target.fence, o.importing(authstore.OnProgress(p.show))...)
	if err == nil {
		err = container.Close(ctx)
	}
	if err != nil {
		return here(err)
	}
	p.summary(report)
	return nil
}

// reseal seals everything of the account behind to with the key of sealFile.
func reseal(ctx context.Context, to, schema, id, sealFile, oldFile string, out io.Writer) (err error) {
	key, err := readKey("-seal", sealFile)
	if err != nil {
		return err
	}
	var old [][32]byte
	if oldFile != "" {
		k, err := readKey("-unseal", oldFile)
		if err != nil {
			return err
		}
		old = append(old, k)
	}
	kind, rest, _ := strings.Cut(to, ":")
	if kind == "postgres" {
		kind = "postgresbackend"
	}
	_, a, err := openThere(ctx, kind, rest, schema, id)
	switch {
	case kind == "local" && errors.Is(err, os.ErrNotExist), errors.Is(err, authstore.ErrNoDevice):
		return fmt.Errorf("-to: %w: %w", errNothing, err)
	case err != nil:
		return fmt.Errorf("-to: %w", err)
	case a == nil:
		return errors.New("-to: with -reseal pass postgres:DSN, local:PATH or firestore:PROJECT/ROOT")
	}
	defer func() { err = errors.Join(err, a.close()) }()
	container := authstore.New(a.backend.Auth, authstore.WithAEAD(authstore.NewAESGCM(key, old...)), authstore.WithPlaintextAllowed())
	info, err := container.Info(ctx)
	if err == nil && !info.Exists && !info.Deleted {
		err = fmt.Errorf("-to: %w", errNothing)
	}
	if err == nil {
		err = container.Reseal(ctx, a.fence, newPrinter(out).resealed)
	}
	if err = errors.Join(err, container.Close(ctx)); err != nil {
		return err
	}
	fmt.Fprintln(out, "Done. Everything is sealed with the new key, and opens with nothing else.")
	return nil
}

var errNothing = errors.New("there is no account to seal")

// here names the option of this command where the library names one of its own.
func here(err error) error {
	switch {
	case errors.Is(err, authstore.ErrSealed):
		return fmt.Errorf("%w (here: -seal)", err)
	case errors.Is(err, authstore.ErrNotSealed):
		return fmt.Errorf("%w (here: seal the target first, with -reseal)", err)
	}
	return err
}
