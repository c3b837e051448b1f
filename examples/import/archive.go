package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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
		return err
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
		return err
	}
	p.summary(report)
	return nil
}

// reseal seals everything of an account with the key of sealFile.
func reseal(ctx context.Context, a *account, sealFile, oldFile string, out io.Writer) error {
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
	container := authstore.New(a.backend.Auth, authstore.WithAEAD(authstore.NewAESGCM(key, old...)), authstore.WithPlaintextAllowed())
	if err := errors.Join(container.Reseal(ctx, a.fence, newPrinter(out).resealed), container.Close(ctx)); err != nil {
		return err
	}
	fmt.Fprintln(out, "Done. Everything is sealed with the new key, and opens with nothing else.")
	return nil
}
