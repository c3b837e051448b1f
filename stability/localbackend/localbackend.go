package localbackend

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

var (
	// ErrNotHolder is what reads return while this backend does not hold the
	// lock: the file belongs to the holder alone, and a standby cannot read it.
	ErrNotHolder = errors.New("localbackend: not the holder: only the instance that holds the lock can read the file")

	// ErrClosed is what every call returns after Close.
	ErrClosed = errors.New("localbackend: closed: open the file again")
)

// AnotherProcess is the Holder of a Record while another process has the file.
// Its name stands in the file, which cannot be read then.
const AnotherProcess = "another process"

// Option configures Open. There are none yet.
type Option func(*backend)

// Open checks path and remembers it; the file itself is opened by Acquire and
// closed at the end of the term. If there is no file, the first Acquire
// creates it, with mode 0600. A file that is damaged, of a newer format, not a
// regular file or not accessible is an error here already; one that another
// process has open is not.
func Open(path string, opts ...Option) (stability.Backend, error) {
	if path == "" {
		return stability.Backend{}, errors.New(`localbackend: no path: pass one, for example localbackend.Open("wastability.db")`)
	}
	abs, err := filepath.Abs(path) // a later chdir changes nothing
	if err != nil {
		return stability.Backend{}, fmt.Errorf("localbackend: %s: %w", path, err)
	}
	b := &backend{path: abs, log: logSize, sem: make(chan struct{}, 1)}
	for _, o := range opts {
		o(b)
	}
	if err := probe(abs); err != nil {
		return stability.Backend{}, err
	}
	return stability.Backend{
		Name: "local", Lock: lockStore{b}, Auth: keyValues{b}, State: stateStore{b}, Incidents: incidentStore{b},
		Close:   b.close,
		Destroy: b.destroy,
	}, nil
}

// probe checks a file that nobody has open.
func probe(path string) error {
	f, info, err := openLocked(context.Background(), path, false, 0)
	if errors.Is(err, errHeld) || err == nil && f == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer letGo(f)
	if _, err := check(f, info.Size()); err != nil {
		return damagedFile(path, err)
	}
	return nil
}

// backend is one instance of an account.
type backend struct {
	path string
	log  int // bytes of a new file's log

	// sem is held by whoever writes, opens or closes; a channel, so that
	// waiting for it obeys a context.
	sem    chan struct{}
	closed bool // guarded by sem
	last   lock.Record
	shut   atomic.Bool // closed, for those without sem

	cur atomic.Pointer[term] // changed with sem held
	by  atomic.Value         // string: who asked for the lock last
}

// term is one possession of the lock. It is never changed but for its record.
type term struct {
	*file
	epoch int64
	nonce string

	mu  sync.Mutex
	rec lock.Record
}

func (t *term) record() lock.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

func (b *backend) enter(ctx context.Context, op string) error {
	select {
	case b.sem <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("localbackend: %s: %w", op, ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		b.leave()
		return fmt.Errorf("localbackend: %s: %w", op, err)
	}
	if b.closed {
		b.leave()
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
	return nil
}

// leave gives sem back, and closes a file that is of no use any more.
func (b *backend) leave() {
	if t := b.cur.Load(); t != nil && t.unusable.Load() {
		_ = b.end(t)
	}
	<-b.sem
}

// end ends the term and gives the file up. sem is held.
func (b *backend) end(t *term) error {
	b.cur.Store(nil) // first: a call that finds the file closed finds no term either
	defer t.delist()
	return t.close()
}

// tidy closes the file of a lost term unless somebody is at work with it, who
// will.
func (b *backend) tidy() {
	select {
	case b.sem <- struct{}{}:
		b.leave()
	default:
	}
}

// close ends the term, if there is one, and with it the lock.
func (b *backend) close() error {
	b.sem <- struct{}{}
	defer func() { <-b.sem }()
	b.closed = true
	b.shut.Store(true)
	if t := b.cur.Load(); t != nil {
		return b.end(t)
	}
	return nil
}

// view runs fn in a reading transaction of the current term.
func (b *backend) view(ctx context.Context, op string, fn func(*reader) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("localbackend: %s: %w", op, err)
		}
		t := b.cur.Load()
		switch {
		case b.shut.Load():
			return fmt.Errorf("%s: %w", op, ErrClosed)
		case t == nil || t.unusable.Load():
			return fmt.Errorf("%s: %w", op, ErrNotHolder)
		}
		err := t.view(fn)
		if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			continue // the term ended meanwhile: b.cur has changed
		}
		if t.unusable.Load() {
			b.tidy()
			if err != nil { // not one bad value: the term is over
				err = fmt.Errorf("%w: %w", err, lock.ErrFenced)
			}
		}
		if err != nil {
			return fmt.Errorf("localbackend: %s: %w", op, err)
		}
		return nil
	}
}

// batch collects what one commit changes.
type batch struct {
	f       *file
	changes []change
}

func (w *batch) put(name, key, value []byte) {
	w.changes = append(w.changes, change{bucketNumber(name), string(key), seal(name, key, value)})
}

func (w *batch) delete(name, key []byte) {
	w.changes = append(w.changes, change{bucketNumber(name), string(key), nil})
}

// get reads as it was before the batch; nil when there is no such value.
func (w *batch) get(name, key []byte) (value []byte, err error) {
	err = w.f.view(func(r *reader) error {
		v, err := r.get(name, key)
		if v != nil {
			value = clone(v)
		}
		return err
	})
	return value, err
}

// write makes durable, as one, what fn puts into a batch, in the current term.
// The epoch must be the term's, unless it is anyEpoch.
func (b *backend) write(ctx context.Context, op string, epoch int64, fn func(*batch) error) error {
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	defer b.leave()
	t := b.cur.Load()
	if t == nil || t.unusable.Load() {
		if epoch == anyEpoch {
			return fmt.Errorf("%s: %w", op, ErrNotHolder)
		}
		return fmt.Errorf("localbackend: %s with epoch %d, but no term is running: %w", op, epoch, lock.ErrFenced)
	}
	if epoch != anyEpoch && epoch != t.epoch {
		return fmt.Errorf("localbackend: %s with epoch %d, the newest is %d: %w", op, epoch, t.epoch, lock.ErrFenced)
	}
	w := &batch{f: t.file}
	err := fn(w)
	if err == nil {
		err = t.commit(w.changes)
	}
	if err != nil && t.unusable.Load() {
		return fmt.Errorf("localbackend: %s: %w: %w", op, err, lock.ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("localbackend: %s: %w", op, err)
	}
	if !t.named() {
		// The last writes went into a file that nobody will find.
		t.unusable.Store(true)
		return fmt.Errorf("localbackend: %s: %s was removed or replaced while it was open: %w", op, b.path, lock.ErrFenced)
	}
	return nil
}

const anyEpoch = -1 << 63
