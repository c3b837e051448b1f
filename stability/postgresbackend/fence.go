package postgresbackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/wastability/wastability/lock"
)

// term is what this instance knows of the fence of the term it writes in.
type term struct {
	epoch int64
	nonce string
	token string // "" when it has to be read
	// unclear says that a commit under token may still land. The token is
	// moved before anything else is written.
	unclear bool
}

// granted notes a term that this instance was given.
func (a *account) granted(t term) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.term = t
	a.seen = max(a.seen, t.epoch)
}

func (a *account) sawEpoch(epoch int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = max(a.seen, epoch)
}

func (a *account) highest() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// doubt notes that what was sent under t may still land.
func (a *account) doubt(t term) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.term.epoch == t.epoch && a.term.nonce == t.nonce && a.term.token == t.token {
		a.term.unclear = true
	}
}

// moved notes that t's token is no longer the fence's.
func (a *account) moved(t term) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.term == t {
		a.term.token = ""
	}
}

// underFence runs one fenced statement. exec reports whether the fence let it
// pass.
func (a *account) underFence(ctx context.Context, op string, epoch int64, exec func(ctx context.Context, t term) (passed bool, err error)) error {
	for {
		t, err := a.current(ctx, op, epoch)
		if err != nil {
			return err
		}
		var passed bool
		err = a.do(ctx, op, func(ctx context.Context) error {
			for n := 1; ; n++ {
				var err error
				passed, err = exec(ctx, t)
				switch {
				case err == nil:
					return nil
				case unclear(err):
					// The server may still be at work on it, or not have begun.
					a.doubt(t)
				case again(err) && n < 5 && ctx.Err() == nil:
					continue
				}
				return err
			}
		})
		if err != nil || passed {
			return err
		}
		a.moved(t) // the fence tells why it did not pass
	}
}

// current gives the term of epoch with a token under which nothing old can land
// any more; ErrFenced if epoch is not the newest.
func (a *account) current(ctx context.Context, op string, epoch int64) (term, error) {
	a.mu.Lock()
	t := a.term
	a.mu.Unlock()
	if t.epoch == epoch && t.token != "" && !t.unclear {
		return t, nil
	}
	// One at a time finds out; the others find it found.
	select {
	case a.fenceSem <- struct{}{}:
		defer func() { <-a.fenceSem }()
	case <-ctx.Done():
		return term{}, fmt.Errorf("postgresbackend: %s: %w", op, ctx.Err())
	}
	a.mu.Lock()
	t = a.term
	a.mu.Unlock()
	if t.epoch == epoch && t.token != "" {
		if !t.unclear {
			return t, nil
		}
		next := term{epoch: epoch, nonce: t.nonce, token: rand.Text()}
		moved, err := a.bump(ctx, op, t, next)
		if err != nil {
			return term{}, err
		}
		if moved {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.term == t {
				a.term = next
			}
			return next, nil
		}
		// An earlier attempt to move it has landed, or the term is over.
	}
	return a.readFence(ctx, op, epoch, t)
}

// bump moves the token. It waits for commits that hold the fence's row, and
// what comes later under the old token does not pass.
func (a *account) bump(ctx context.Context, op string, from, to term) (moved bool, err error) {
	err = a.do(ctx, op+": settle an earlier commit", func(ctx context.Context) error {
		tag, err := a.db.pool.Exec(ctx, a.db.q.bump, a.id, from.epoch, from.nonce, from.token, to.token)
		moved = tag.RowsAffected() == 1
		return err
	})
	return moved, err
}

// readFence reads the token of a term that this instance was granted, or that
// another backend of this process was.
func (a *account) readFence(ctx context.Context, op string, epoch int64, known term) (term, error) {
	var (
		found    term
		released bool
		none     bool
	)
	err := a.do(ctx, op+": read the fence", func(ctx context.Context) error {
		err := a.db.pool.QueryRow(ctx, a.db.q.fence, a.id).Scan(&found.epoch, &found.nonce, &found.token, &released)
		none = errors.Is(err, pgx.ErrNoRows)
		if none {
			return nil
		}
		return err
	})
	if err != nil {
		return term{}, err
	}
	switch {
	case none:
		return term{}, fmt.Errorf("postgresbackend: %s with epoch %d: the account has no term: %w", op, epoch, lock.ErrFenced)
	case found.epoch != epoch || released:
		a.sawEpoch(found.epoch)
		return term{}, fmt.Errorf("postgresbackend: %s with epoch %d, the newest is %d (released: %t): %w", op, epoch, found.epoch, released, lock.ErrFenced)
	case known.epoch == epoch && known.nonce != "" && known.nonce != found.nonce:
		return term{}, fmt.Errorf("postgresbackend: %s with epoch %d: another instance was granted the same epoch, "+
			"as after a restored backup or a promoted standby that lagged: %w", op, epoch, lock.ErrFenced)
	}
	a.granted(found)
	return found, nil
}
