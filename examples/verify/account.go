package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/postgresbackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// account is where a backend keeps a new account, in words that fit into the
// environment of another process: local:FILE, firestore:ROOT or postgres:ID.
type account string

const (
	emulatorHost = "FIRESTORE_EMULATOR_HOST" // the official client reads it
	projectName  = "GOOGLE_CLOUD_PROJECT"
	databaseURL  = "DATABASE_URL"
)

// newAccount names a new account. forget removes what can be removed of it.
func newAccount(backend string) (at account, forget func(), err error) {
	switch backend {
	case "local", "memory": // another process cannot look into this one's memory
		dir, err := os.MkdirTemp("", "wastability-verify-")
		return account("local:" + filepath.Join(dir, "session.db")), func() { _ = os.RemoveAll(dir) }, err
	case "firestore":
		return account("firestore:verify/" + rand.Text()), func() {}, nil
	case "postgres":
		return account("postgres:verify/" + rand.Text()), func() {}, nil
	}
	return "", nil, fmt.Errorf("unknown backend %q: pass local, memory, firestore or postgres", backend)
}

func (a account) open(ctx context.Context) (stability.Backend, error) {
	kind, where, _ := strings.Cut(string(a), ":")
	switch kind {
	case "local":
		return localbackend.Open(where)
	case "postgres":
		return openPostgres(ctx, where)
	}
	client, err := firestorebackend.NewClient(context.WithoutCancel(ctx), os.Getenv(projectName))
	if err != nil {
		return stability.Backend{}, err
	}
	b, err := firestorebackend.New(client, firestorebackend.WithRoot(where))
	if err != nil {
		return b, errors.Join(err, client.Close())
	}
	closeBackend := b.Close
	b.Close = func() error { return errors.Join(closeBackend(), client.Close()) }
	return b, nil
}

func openPostgres(ctx context.Context, id string) (stability.Backend, error) {
	db, err := postgresbackend.Open(ctx, os.Getenv(databaseURL))
	if err != nil {
		return stability.Backend{}, err
	}
	b, err := db.Account(id)
	if err == nil {
		err = db.Migrate(ctx)
	}
	if err != nil {
		db.Close()
		return stability.Backend{}, err
	}
	closeBackend := b.Close
	b.Close = func() error {
		defer db.Close()
		return closeBackend()
	}
	return b, nil
}

// startPostgres starts a server for this process and its children, unless the
// environment names one.
func startPostgres(ctx context.Context) (stop func() error, err error) {
	if os.Getenv(databaseURL) != "" {
		return func() error { return nil }, nil
	}
	s, err := postgrestest.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("-backend postgres: %w; or set %s to use a database of yours", err, databaseURL)
	}
	return s.Close, os.Setenv(databaseURL, s.DSN())
}

// startEmulator starts Firestore's emulator for this process and its children,
// unless the environment names one, or a project, in which case that is used.
func startEmulator(ctx context.Context) (stop func() error, err error) {
	if os.Getenv(emulatorHost) == "" && os.Getenv(projectName) != "" {
		return func() error { return nil }, nil
	}
	e, err := firestoresim.StartEmulator(ctx)
	if err != nil {
		return nil, fmt.Errorf("-backend firestore: %w; or set %s to use a project of yours", err, projectName)
	}
	return e.Close, errors.Join(os.Setenv(emulatorHost, e.Addr()), os.Setenv(projectName, cmp.Or(os.Getenv(projectName), "demo-verify")))
}
