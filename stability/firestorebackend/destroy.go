package firestorebackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/lock"
)

// destroyAccount is Backend.Destroy, which works after Close too: so it opens the
// account by itself.
func destroyAccount(ctx context.Context, client *firestore.Client, opts ...Option) error {
	b, err := open(client, opts)
	if err != nil {
		return err
	}
	defer b.end()
	return b.destroy(ctx, destroyPage)
}

const (
	destroyer    = "destroys the account" // its name as a holder; the next may go on where one was killed
	destroyLease = time.Minute
	destroyPage  = 400 // documents in a commit
)

func (b *backend) destroy(ctx context.Context, page int) error {
	const op = "destroy the account"
	l := lockStore{b}
	rec, granted, err := l.Acquire(ctx, destroyer, rand.Text(), destroyLease)
	switch {
	case err != nil:
		return fmt.Errorf("firestorebackend: %s: %w", op, err)
	case !granted:
		return fmt.Errorf("firestorebackend: %w: held by %q until %s at the latest", lock.ErrHeld, rec.Holder, rec.LeaseUntil.UTC().Format(time.RFC3339))
	}
	renewed := time.Now()
	remove := func(refs ...*firestore.DocumentRef) error {
		pause := pauses()
		for n := 1; ; n++ {
			if time.Since(renewed) > destroyLease/3 {
				if rec, err = l.Renew(ctx, rec); err != nil {
					return err
				}
				renewed = time.Now()
			}
			err := b.underFence(ctx, laneAuth, op, rec.Epoch, func(context.Context, *writer) (func(*firestore.WriteBatch), error) {
				return func(batch *firestore.WriteBatch) {
					for _, ref := range refs {
						batch.Delete(ref)
					}
				}, nil
			}, func(*writer) {})
			// A document may be removed twice, so a lost reply is no trouble.
			if err == nil || hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
				return err
			}
		}
	}
	// Without creds nobody takes what is left for a session.
	if err := remove(b.credsDoc, b.stateDoc); err != nil {
		return fmt.Errorf("firestorebackend: %s: %w", op, err)
	}
	for _, c := range []*firestore.CollectionRef{b.keys, b.incidents} {
		for {
			docs, err := b.list(ctx, laneAuth, op, c.Select().Limit(page))
			if err != nil {
				return fmt.Errorf("firestorebackend: %s: %w", op, err)
			}
			if len(docs) == 0 {
				break
			}
			refs := make([]*firestore.DocumentRef, len(docs))
			for i, d := range docs {
				refs[i] = d.Ref
			}
			if err := remove(refs...); err != nil {
				return fmt.Errorf("firestorebackend: %s: %w", op, err)
			}
		}
	}
	return b.removeLock(ctx, op, rec)
}

// removeLock removes lock and fence, in one commit, while both are ours.
func (b *backend) removeLock(ctx context.Context, op string, rec lock.Record) error {
	pause := pauses()
	for n := 1; ; n++ {
		snaps, err := b.get(ctx, laneLock, op, b.lockDoc, b.fenceDoc)
		if err != nil {
			return err
		}
		if !snaps[0].Exists() && !snaps[1].Exists() {
			return nil
		}
		h, err := heldOf(snaps[0])
		if err != nil || !snaps[1].Exists() || !(lockStore{b}).ours(h, nil, rec) {
			return fmt.Errorf("firestorebackend: %s: all but its lock is removed; the lock was changed meanwhile: call Destroy again: %w", op, errors.Join(err, lock.ErrLost))
		}
		err = b.write(ctx, laneLock, op, func(ctx context.Context) error {
			batch := b.client.Batch() //nolint:staticcheck // see fenced
			for _, s := range snaps {
				batch.Delete(s.Ref, firestore.LastUpdateTime(s.UpdateTime))
			}
			_, err := batch.Commit(ctx)
			return err
		})
		if err == nil {
			return nil
		}
		// Lost to another, or the reply was: the next look tells.
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return err
		}
	}
}
