package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/firestorebackend"
)

// firestoreClient is another one in tests only.
var firestoreClient = func(ctx context.Context, project string) (*firestore.Client, error) {
	return firestorebackend.NewClient(ctx, project, firestorebackend.WithDatabase(os.Getenv("FIRESTORE_DATABASE")))
}

// openFirestore opens the account under PROJECT/ROOT; without a root, under the
// default one. Nothing is written.
func openFirestore(ctx context.Context, where string) (stability.Backend, error) {
	project, root, _ := strings.Cut(where, "/")
	client, err := firestoreClient(context.WithoutCancel(ctx), project)
	if err != nil {
		return stability.Backend{}, err
	}
	backend, err := firestorebackend.New(client, firestorebackend.WithRoot(root))
	if err != nil {
		return backend, errors.Join(err, client.Close())
	}
	closeBackend := backend.Close
	backend.Close = func() error { return errors.Join(closeBackend(), client.Close()) }
	return backend, nil
}

// untouched reports an account whose lock was never taken and that has no
// device: nothing of ours is there, or it is another root that is meant.
func untouched(ctx context.Context, b stability.Backend) (bool, error) {
	rec, err := b.Lock.Load(ctx)
	if err != nil || rec.Epoch > 0 {
		return false, err
	}
	container := authstore.New(b.Auth)
	info, err := container.Info(ctx)
	return err == nil && !info.Exists && !info.Deleted, errors.Join(err, container.Close(ctx))
}

// sourceFirestore holds the account's lock. If there is no account, it leaves
// nothing behind.
func sourceFirestore(ctx context.Context, where string) (*account, error) {
	backend, err := openFirestore(ctx, where)
	if err != nil {
		return nil, err
	}
	switch empty, err := untouched(ctx, backend); {
	case err != nil:
		return nil, errors.Join(err, backend.Close())
	case empty:
		return nil, errors.Join(fmt.Errorf("%w: nothing is under %s: check the project, the root and FIRESTORE_DATABASE", authstore.ErrNoDevice, where), backend.Close())
	}
	return hold(ctx, backend, where)
}

// targetFirestore holds the account's lock. A dry run takes none where no lock
// was ever taken: it would be the first document there.
func targetFirestore(ctx context.Context, where string, dryRun bool) (*account, error) {
	backend, err := openFirestore(ctx, where)
	if err != nil {
		return nil, err
	}
	return holdTarget(ctx, backend, where, dryRun)
}

// unheld is no term: nothing can be written with it.
type unheld struct{}

func (unheld) Epoch() int64            { return 0 }
func (unheld) Held() bool              { return false }
func (unheld) TrustedUntil() time.Time { return time.Time{} }
func (unheld) Cut(error)               {}
