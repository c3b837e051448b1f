package localbackend

import (
	"errors"
	"fmt"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// panicError is a panic or a memory fault inside bbolt.
type panicError struct{ value any }

func (p panicError) Error() string {
	return fmt.Sprintf("the file changed or broke while it was open: %v", p.value)
}
func (p panicError) Unwrap() error { return damage{} }

// guarded turns panics and memory faults of f into errors: the file is mapped,
// and whoever truncates it makes reading a fault.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = panicError{r}
		}
	}()
	return f()
}

// judge ends the term after a panic.
func (f *file) judge(err error) {
	if errors.As(err, new(panicError)) {
		f.abandoned.Store(true)
		f.unusable.Store(true)
	}
}

// view runs fn in a reading transaction. Every commit before it is seen,
// what is committed meanwhile is not.
func (f *file) view(fn func(*reader) error) error {
	if err := f.whole(); err != nil {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	err := guarded(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			r := &reader{tx, f.pending}
			if len(f.pending) > 0 {
				h, err := readLogHead(tx)
				if err != nil {
					return err
				}
				if h.generation != f.log.generation {
					r.pending = nil // folded: tx has it
				}
			}
			return fn(r)
		})
	})
	f.judge(err)
	return err
}

// update runs fn in a writing transaction, durable when it returns nil. One at
// a time. After an error nothing is applied, or the outcome is unknown.
func (f *file) update(fn func(*bbolt.Tx) error) error {
	if err := f.ours(); err != nil {
		return err
	}
	defer f.wrote()
	if f.unsettled {
		if err := f.settle(); err != nil {
			return err
		}
	}
	var (
		tx   *bbolt.Tx
		txid int
	)
	err := guarded(func() (err error) {
		if tx, err = f.db.Begin(true); err != nil {
			return err
		}
		txid = tx.ID()
		if err := fn(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		tx, err = nil, tx.Commit()
		return err
	})
	if err == nil {
		f.own.tx = txid
		return nil
	}
	if f.judge(err); f.unusable.Load() {
		return fmt.Errorf("localbackend: write %s: %w", f.path, err)
	}
	if tx != nil { // fn failed, or bbolt is not open: nothing was written
		return err
	}
	// bbolt has rolled back, unless its meta page had been written: then memory
	// shows the commit and the disk may not.
	var now int
	if verr := f.view(func(r *reader) error { now = r.tx.ID(); return nil }); verr != nil {
		f.unusable.Store(true) // could not be mapped: this term cannot go on
	} else {
		f.unsettled, f.unsettledTx = now == txid, txid
	}
	return fmt.Errorf("localbackend: write %s: %w", f.path, err)
}

// settle writes the newest meta page again and syncs it. Without that a next
// commit could use pages which the meta page on disk, an older one, still
// refers to.
func (f *file) settle() error {
	page := make([]byte, f.db.Info().PageSize)
	var (
		off int64
		tx  int
	)
	err := f.view(func(r *reader) error {
		if f.unsettled && r.tx.ID() != f.unsettledTx {
			f.unusable.Store(true) // what bbolt remembers is not what the file says
			return fmt.Errorf("transaction %d is gone from memory too, and %d came back", f.unsettledTx, r.tx.ID())
		}
		tx = r.tx.ID()
		off = int64(tx%2) * int64(len(page))
		return nil
	})
	if err == nil {
		_, err = f.f.ReadAt(page, off)
	}
	if err == nil {
		_, err = f.f.WriteAt(page, off)
	}
	if err == nil {
		err = f.sync(f.f)
	}
	if err != nil {
		return fmt.Errorf("localbackend: settle the last commit of %s: %w", f.path, err)
	}
	f.unsettled, f.own.tx = false, tx
	f.wrote()
	return nil
}
