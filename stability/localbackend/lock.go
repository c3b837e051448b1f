package localbackend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.etcd.io/bbolt"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

// lockStore implements lock.Store and lock.Watcher.
type lockStore struct{ b *backend }

var (
	_ lock.Store   = lockStore{}
	_ lock.Watcher = lockStore{}
)

func (s lockStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	b := s.b
	if holder == "" || nonce == "" || lease <= 0 {
		return lock.Record{}, false, fmt.Errorf("localbackend: acquire: holder %q, nonce %q, lease %v: "+
			"a term needs a holder, a nonce and a lease above zero", holder, nonce, lease)
	}
	if err := b.enter(ctx, "acquire"); err != nil {
		return lock.Record{}, false, err
	}
	defer b.leave()
	b.by.Store(holder)

	t := b.cur.Load()
	if t != nil && (t.unusable.Load() || !t.named()) {
		if err := b.end(t); err != nil {
			return lock.Record{}, false, err
		}
		t = nil
	}
	if t != nil {
		rec := t.record()
		switch {
		case t.nonce == nonce && rec.Holder == holder:
			return t.renewed(lease), true, nil
		case rec.Holder != holder:
			return rec, false, nil
		}
		return b.begin(t.file, lockRecord{Holder: holder, Nonce: nonce, Lease: lease})
	}

	f, err := openFile(ctx, b.path, b.log)
	if errors.Is(err, errHeld) {
		return b.holder(), false, nil
	}
	if err != nil {
		return lock.Record{}, false, hopeless(err)
	}
	rec, granted, err := b.begin(f, lockRecord{Holder: holder, Nonce: nonce, Lease: lease})
	if !granted {
		err = errors.Join(err, f.close())
	}
	return rec, granted, hopeless(err)
}

// hopeless marks an error that waiting cannot cure, so that whoever stands by
// for the lock is told of it.
func hopeless(err error) error {
	for _, target := range []error{authstore.ErrCorrupt, authstore.ErrNewerFormat, errBadPlace, fs.ErrPermission, syscall.EROFS} {
		if errors.Is(err, target) {
			return backoff.Permanent(fmt.Errorf("%w: %w", stability.ErrUnusable, err))
		}
	}
	return err
}

// begin writes a new term into f and makes it the current one. If an earlier
// attempt with this nonce came so far, it is that attempt's term; if that term
// was released, there is none. sem is held.
func (b *backend) begin(f *file, want lockRecord) (lock.Record, bool, error) {
	var had lockRecord
	err := f.view(func(r *reader) error {
		data, err := head(r.tx, keyLock)
		if err == nil {
			had, err = decodeLock(data)
		}
		return err
	})
	if err != nil {
		return lock.Record{}, false, fmt.Errorf("localbackend: acquire %s: %w", b.path, err)
	}
	b.last = lock.Record{Epoch: had.Epoch}
	if had.Nonce == want.Nonce {
		if had.Holder != want.Holder {
			return b.last, false, nil
		}
		want.Epoch, want.AcquiredAt = had.Epoch, had.AcquiredAt
	} else {
		want.Epoch, want.AcquiredAt = had.Epoch+1, time.Now().Round(0).UTC()
		data, err := json.Marshal(want)
		if err != nil {
			return lock.Record{}, false, fmt.Errorf("localbackend: acquire %s: %w", b.path, err)
		}
		if err := f.update(func(tx *bbolt.Tx) error { return putHead(tx, keyLock, data) }); err != nil {
			return lock.Record{}, false, fmt.Errorf("localbackend: acquire: %w", err)
		}
	}
	f.own.nonce = want.Nonce
	t := &term{file: f, epoch: want.Epoch, nonce: want.Nonce, rec: lock.Record{
		Holder: want.Holder, Epoch: want.Epoch, AcquiredAt: want.AcquiredAt,
	}}
	b.cur.Store(t)
	t.enlist()
	return t.renewed(want.Lease), true, nil
}

// renewed counts the lease from now. Nothing is written: the lock lasts as
// long as the file is open.
func (t *term) renewed(lease time.Duration) lock.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now().Round(0).UTC()
	t.rec.Lease, t.rec.RenewedAt, t.rec.LeaseUntil = lease, now, now.Add(lease)
	return t.rec
}

// Renew proves that the term goes on, with one look at the path. It waits for
// no commit.
func (s lockStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	b := s.b
	if err := ctx.Err(); err != nil {
		return lock.Record{}, fmt.Errorf("localbackend: renew: %w", err)
	}
	if b.shut.Load() {
		return lock.Record{}, fmt.Errorf("renew: %w", ErrClosed)
	}
	t := b.cur.Load()
	if t == nil || t.epoch != held.Epoch {
		return lock.Record{}, fmt.Errorf("localbackend: renew epoch %d: this process does not hold it: %w", held.Epoch, lock.ErrLost)
	}
	if !t.unusable.Load() && t.named() {
		lease := held.Lease
		if lease <= 0 {
			lease = t.record().Lease
		}
		return t.renewed(lease), nil
	}
	t.unusable.Store(true)
	b.tidy()
	return lock.Record{}, fmt.Errorf("localbackend: renew: %s was removed, replaced or broken while it was open: %w", b.path, lock.ErrLost)
}

// Release closes the file, after running transactions.
func (s lockStore) Release(ctx context.Context, held lock.Record) error {
	b := s.b
	if err := b.enter(ctx, "release"); err != nil {
		return err
	}
	defer b.leave()
	t := b.cur.Load()
	if t == nil || t.epoch != held.Epoch {
		return nil
	}
	rec := t.record()
	// The release is written for a late repetition of the term's attempt only.
	// The lock is given up by closing, also when the disk is full.
	data, err := json.Marshal(lockRecord{Nonce: t.nonce, Epoch: t.epoch, Lease: rec.Lease, AcquiredAt: rec.AcquiredAt})
	if err == nil && !t.unusable.Load() {
		_ = t.fold(nil, func(tx *bbolt.Tx) error { return putHead(tx, keyLock, data) })
	}
	b.last = lock.Record{Epoch: t.epoch}
	return b.end(t)
}

// Load tells this instance's own term in full. It reads the last epoch of a
// file that nobody has open. If another process has the file open, Load knows only
// that. If another backend of this process has it, Load also says which.
func (s lockStore) Load(ctx context.Context) (lock.Record, error) {
	b := s.b
	if err := ctx.Err(); err != nil {
		return lock.Record{}, fmt.Errorf("localbackend: load the lock: %w", err)
	}
	if b.shut.Load() {
		return lock.Record{}, fmt.Errorf("load the lock: %w", ErrClosed)
	}
	if t := b.cur.Load(); t != nil && !t.unusable.Load() {
		return t.record(), nil
	}
	f, info, err := openLocked(ctx, b.path, false, 0)
	if errors.Is(err, errHeld) {
		return b.holder(), nil
	}
	if err != nil || f == nil {
		return lock.Record{}, err
	}
	defer letGo(f)
	had, err := peek(f, info.Size())
	if err != nil {
		return lock.Record{}, damagedFile(b.path, err)
	}
	return lock.Record{Epoch: had.Epoch}, nil
}

// watchEvery is how often Changes looks. A look is three system calls.
const watchEvery = 200 * time.Millisecond

// Changes looks at the lock on the file every 200 ms: no system tells when
// such a lock becomes free. It yields at once, and when the file has become
// free or taken, has appeared, vanished or been replaced. Looking takes a
// shared lock for a moment. A process that wants the file then waits for it,
// so nothing is missed. It ends when ctx does, without an error, or with
// ErrClosed.
func (s lockStore) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		var (
			last  lookout
			first = true
		)
		for {
			if s.b.shut.Load() {
				yield(lock.Record{}, fmt.Errorf("watch the lock: %w", ErrClosed))
				return
			}
			now, err := s.b.look()
			if first || err != nil || now.differs(last) {
				rec := now.Record
				if t := s.b.cur.Load(); t != nil && err == nil {
					rec = t.record()
				}
				if !yield(rec, err) {
					return
				}
			}
			last, first = now, false
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

type lookout struct {
	lock.Record             // Holder and Epoch, as far as they can be known
	info        fs.FileInfo // nil when there is no file
}

func (l lookout) differs(m lookout) bool {
	return l.Holder != m.Holder || l.Epoch != m.Epoch || (l.info == nil) != (m.info == nil) || l.info != nil && !os.SameFile(l.info, m.info)
}

func (b *backend) look() (lookout, error) {
	if t := b.cur.Load(); t != nil && !t.unusable.Load() {
		return lookout{lock.Record{Holder: t.record().Holder, Epoch: t.epoch}, t.info}, nil
	}
	f, info, err := tryOpenLocked(b.path, false)
	if errors.Is(err, errHeld) {
		info, err := os.Lstat(b.path)
		if errors.Is(err, fs.ErrNotExist) {
			return lookout{}, nil
		}
		return lookout{b.holder(), info}, err
	}
	if err != nil || f == nil {
		return lookout{}, err
	}
	return lookout{info: info}, letGo(f)
}
