package postgresbackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wastability/wastability/lock"
)

// lockStore implements lock.Store and lock.Watcher.
type lockStore struct{ a *account }

var (
	_ lock.Store   = lockStore{}
	_ lock.Watcher = lockStore{}
)

// held is a row of locks.
type held struct {
	holder, nonce     string
	epoch, leaseUS    int64
	acquired, renewed time.Time
}

func (h *held) fields() []any {
	return []any{&h.holder, &h.nonce, &h.epoch, &h.leaseUS, &h.acquired, &h.renewed}
}

func (h held) record() lock.Record {
	if h.epoch == 0 {
		return lock.Record{}
	}
	lease := time.Duration(h.leaseUS) * time.Microsecond
	return lock.Record{
		Holder: unescape(h.holder), Epoch: h.epoch, Lease: lease,
		AcquiredAt: h.acquired.UTC(), RenewedAt: h.renewed.UTC(), LeaseUntil: h.renewed.UTC().Add(lease),
	}
}

func micros(d time.Duration) int64 { return int64((d + time.Microsecond - 1) / time.Microsecond) }

// Acquire is one statement. The server's clock alone decides whether a lease has
// run out.
func (s lockStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	const op = "acquire the lock"
	if holder == "" || nonce == "" || lease <= 0 {
		return lock.Record{}, false, fmt.Errorf("postgresbackend: %s: holder %q, nonce %q, lease %v: "+
			"a term needs a holder, a nonce and a lease above zero", op, holder, nonce, lease)
	}
	nonce = escape(nonce)
	a := s.a
	if err := a.db.ready(ctx); err != nil {
		return lock.Record{}, false, err
	}
	var (
		h       held
		granted bool
		moved   bool // the row was written on another timeline
		token   = rand.Text()
	)
	err := a.do(ctx, op, func(ctx context.Context) error {
		for n := 1; ; n++ {
			err := a.db.pool.QueryRow(ctx, a.db.locking().acquire, a.id, escape(holder), nonce, micros(lease), a.highest(), token).
				Scan(append([]any{&granted, &moved}, h.fields()...)...)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				// The row came or went in between: nothing was granted.
				h, granted, moved = held{}, false, false
				return nil
			case again(err) && n < 5 && ctx.Err() == nil:
				continue
			}
			return err
		}
	})
	if err != nil {
		return lock.Record{}, false, err
	}
	if moved {
		if err := a.guard(ctx, lease, &h); err != nil {
			return lock.Record{}, false, err
		}
	}
	if granted {
		a.granted(term{epoch: h.epoch, nonce: nonce, token: token})
	} else {
		a.sawEpoch(h.epoch)
	}
	return h.record(), granted, nil
}

// guard keeps the lock from everybody until a term that this server has lost is
// over: the server was promoted, or restored, since the lock was last written.
// The holder, if the server has its term, renews it as ever.
func (a *account) guard(ctx context.Context, lease time.Duration, h *held) error {
	var until time.Time
	err := a.do(ctx, "guard the lock after a failover", func(ctx context.Context) error {
		err := a.db.pool.QueryRow(ctx, a.db.locking().guard, a.id, micros(lease)).Scan(append(h.fields(), &until)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // another instance was first, or the holder has renewed
		}
		return err
	})
	if err == nil && !until.IsZero() {
		a.db.log.Warn("the Postgres server was promoted or restored since the lock was last written, and may have lost a term: "+
			"nobody is given the lock until such a term is over", "epoch", h.epoch, "until", until.UTC())
	}
	return err
}

// nonceOf is the nonce of the term that rec is about; "" when another instance
// was granted it.
func (a *account) nonceOf(epoch int64) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.term.epoch == epoch {
		return a.term.nonce
	}
	return ""
}

// Renew is one statement on one row, which no commit touches.
func (s lockStore) Renew(ctx context.Context, rec lock.Record) (lock.Record, error) {
	const op = "renew the lock"
	a := s.a
	var (
		h    held
		lost bool
	)
	if rec.Lease <= 0 {
		return lock.Record{}, fmt.Errorf("postgresbackend: %s: the lease is %v: pass the record of Acquire", op, rec.Lease)
	}
	err := a.do(ctx, op, func(ctx context.Context) error {
		err := a.db.pool.QueryRow(ctx, a.db.locking().renew, a.id, rec.Epoch, escape(rec.Holder), micros(rec.Lease), a.nonceOf(rec.Epoch)).Scan(h.fields()...)
		lost = errors.Is(err, pgx.ErrNoRows)
		if lost {
			return nil
		}
		return err
	})
	if err != nil {
		return lock.Record{}, err
	}
	if !lost {
		return h.record(), nil
	}
	now, err := s.Load(ctx)
	if err != nil {
		return lock.Record{}, err
	}
	if now.Epoch < rec.Epoch {
		return now, fmt.Errorf("postgresbackend: renew epoch %d: the newest in the database is %d, which is older: "+
			"a backup was restored, or a standby that lagged was promoted, so commits may be missing: %w", rec.Epoch, now.Epoch, lock.ErrLost)
	}
	return now, fmt.Errorf("postgresbackend: renew epoch %d, the newest is %d of %q: %w", rec.Epoch, now.Epoch, now.Holder, lock.ErrLost)
}

// Release frees the lock and closes the fence behind the term: a commit that is
// still on its way writes no more. It wakes whoever waits.
func (s lockStore) Release(ctx context.Context, rec lock.Record) error {
	a := s.a
	return a.do(ctx, "release the lock", func(ctx context.Context) error {
		_, err := a.db.pool.Exec(ctx, a.db.q.release, a.id, rec.Epoch, escape(rec.Holder), a.nonceOf(rec.Epoch), a.db.listen.channel)
		return err
	})
}

// Load reads the row.
func (s lockStore) Load(ctx context.Context) (lock.Record, error) {
	a := s.a
	if err := a.db.ready(ctx); err != nil {
		return lock.Record{}, err
	}
	var h held
	err := a.do(ctx, "load the lock", func(ctx context.Context) error {
		err := a.db.pool.QueryRow(ctx, a.db.locking().load, a.id).Scan(h.fields()...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return lock.Record{}, err
	}
	a.sawEpoch(h.epoch)
	return h.record(), nil
}

// Changes yields a zero Record when the lock was released, and whenever the
// listening had to begin anew, since a release may have been missed meanwhile.
// It ends when ctx or the backend does. Behind it stands the waiting lease's
// own poll: a PgBouncer in transaction mode carries no notifications.
func (s lockStore) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		wake, stop := s.a.db.listen.subscribe(s.a.id)
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.a.life.Done():
				return
			case <-wake:
			}
			if !yield(lock.Record{}, nil) {
				return
			}
		}
	}
}
