package localbackend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// How long an attempt waits for the lock on the file: as long as another
// instance takes to look at it. A holder keeps it for good.
const (
	lockWait  = 250 * time.Millisecond
	lockRetry = 10 * time.Millisecond
)

// errHeld says that another live instance has the file.
var errHeld = errors.New("localbackend: another process has the file")

// errBadPlace marks a path at which no file can ever be. The text that helps
// stands before it.
var errBadPlace = errors.New("")

// file is the open file of a term. It is bbolt's, with what bbolt does not do.
type file struct {
	path string
	db   *bbolt.DB
	f    *os.File // the one bbolt uses
	sync func(*os.File) error
	info fs.FileInfo
	// unusable is set when the term is over although nobody released it: the path
	// names another file, or memory and disk cannot be trusted to agree.
	unusable atomic.Bool
	// unsettled is set when a commit's meta page was written but not synced, and
	// unsettledTx says which. Guarded by backend.sem.
	unsettled   bool
	unsettledTx int
	// own is what this term has written last, by which it knows its file again.
	// Guarded by backend.sem.
	own mark
	// abandoned is set after a panic inside bbolt, whose own mutexes may be
	// held for ever.
	abandoned atomic.Bool
	size      atomic.Int64 // the largest seen: a file never shrinks

	log     commitLog        // guarded by backend.sem
	mu      sync.RWMutex     // held while reading, and while pending changes
	pending map[place][]byte // in the log and not in the tables; nil: deleted
}

// lookAt says what stands at path, in words that help.
func lookAt(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		dir := filepath.Dir(path)
		parent, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("localbackend: %s: the directory %s does not exist: create it first (%w)", path, dir, err)
		case err != nil:
			return nil, fmt.Errorf("localbackend: %s: look at the directory: %w", path, err)
		case !parent.IsDir():
			return nil, fmt.Errorf("localbackend: %s: %s is no directory: choose another path%w", path, dir, errBadPlace)
		}
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, denied(path, err)
	case err != nil:
		return nil, fmt.Errorf("localbackend: look at %s: %w", path, err)
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := filepath.EvalSymlinks(path)
		return nil, fmt.Errorf("localbackend: %s is a symbolic link, and two names for one file are two locks for one account: pass the path of the file itself (%s)%w", path, target, errBadPlace)
	case info.IsDir():
		return nil, fmt.Errorf("localbackend: %s is a directory: pass the path of a file, for example %s%w", path, filepath.Join(path, "wastability.db"), errBadPlace)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("localbackend: %s is no regular file (%s): pass the path of one%w", path, info.Mode().Type(), errBadPlace)
	}
	return info, nil
}

func denied(path string, err error) error {
	return fmt.Errorf("localbackend: %s: this process (user %d) may not read and write it: change the owner or the mode (0600) of the file, or of its directory (0700): %w", path, os.Getuid(), err)
}

func damagedFile(path string, err error) error {
	return fmt.Errorf("localbackend: %s cannot be used and was left as it is: restore a backup, or move it away to start anew with a pairing: %w", path, err)
}

// openRaw opens path for reading and writing; nil when there is nothing.
func openRaw(path string) (*os.File, error) {
	info, err := lookAt(path)
	if err != nil || info == nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|openFlags, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, denied(path, err)
	case err != nil && isSymlinkRefused(err):
		return nil, fmt.Errorf("localbackend: %s is a symbolic link: pass the path of the file itself: %w%w", path, err, errBadPlace)
	case err != nil:
		return nil, fmt.Errorf("localbackend: open %s: %w", path, err)
	}
	return f, nil
}

// openLocked opens path and locks it. A nil file without an error means that
// there is none. errHeld when another instance has it.
func openLocked(ctx context.Context, path string, exclusive bool, wait time.Duration) (*os.File, fs.FileInfo, error) {
	deadline := time.Now().Add(wait)
	for {
		f, info, err := tryOpenLocked(path, exclusive)
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return f, info, err
		}
		t := time.NewTimer(lockRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil, ctx.Err()
		}
	}
}

func tryOpenLocked(path string, exclusive bool) (*os.File, fs.FileInfo, error) {
	f, err := openRaw(path)
	if err != nil || f == nil {
		return nil, nil, err
	}
	info, err := lockNamed(f, path, exclusive)
	if err != nil {
		_ = letGo(f)
		return nil, nil, err
	}
	return f, info, nil
}

// letGo gives a file's lock up and closes it. Without the first, a program that this
// process is starting at the moment has the lock too, until it runs.
func letGo(f *os.File) error { return errors.Join(unflock(f), f.Close()) }

// lockNamed locks f, which was opened under path. Between open and lock the file
// may have been replaced: then what is locked is nobody's any more, and that is
// errHeld.
func lockNamed(f *os.File, path string, exclusive bool) (fs.FileInfo, error) {
	ok, err := tryFlock(f, exclusive)
	if err != nil {
		return nil, fmt.Errorf("localbackend: lock %s: %w (a file system without locks cannot hold it: choose a local disk)", path, err)
	}
	if !ok {
		return nil, errHeld
	}
	info, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Lstat(path); err == nil && !os.SameFile(info, now) || errors.Is(err, fs.ErrNotExist) {
			return nil, errHeld
		}
	}
	if err != nil {
		return nil, fmt.Errorf("localbackend: look at %s: %w", path, err)
	}
	return info, nil
}

// openFile takes the file at path, creating it if there is none, and opens it
// after a full check. errHeld when another instance has it.
func openFile(ctx context.Context, path string, log int) (*file, error) {
	f, info, err := openLocked(ctx, path, true, lockWait)
	if err == nil && f == nil {
		if err = create(path, log); err != nil {
			return nil, err
		}
		f, info, err = openLocked(ctx, path, true, lockWait)
		if err == nil && f == nil {
			err = errHeld // created and gone again: somebody else is at it
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := check(f, info.Size()); err != nil {
		_ = letGo(f)
		return nil, damagedFile(path, err)
	}
	dir, base := filepath.Split(path)
	removeLeftOvers(dir, base)
	if err := syncDir(dir); err != nil { // its creator may have been killed before
		_ = letGo(f)
		return nil, fmt.Errorf("localbackend: open %s: sync the directory: %w", path, err)
	}
	if err := handOver(f); err != nil {
		_ = letGo(f)
		return nil, fmt.Errorf("localbackend: lock %s: %w", path, err)
	}
	db, err := openBolt(path, f)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errHeld
	}
	if err != nil {
		return nil, fmt.Errorf("localbackend: open %s: %w", path, err)
	}
	out := &file{path: path, db: db, f: f, sync: datasync, info: info, pending: make(map[place][]byte)}
	out.size.Store(info.Size())
	// The last transaction may be in the kernel's memory only, if whoever wrote
	// it failed to sync or was killed: it must be on disk before another one
	// takes the pages that it has freed.
	err = out.settle()
	if err == nil {
		err = out.openLog(log)
	}
	out.wrote()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("localbackend: open %s: %w", path, err), out.close())
	}
	return out, nil
}

// openBolt gives f to bbolt, which closes it, also when this fails.
//
// The freelist is kept in the file, as bbolt does by default: it costs one page
// in a write that is dominated by two syncs, and without it bbolt would scan
// the file at each opening and after each failed write, in a goroutine of its
// own, where a fault ends the process.
func openBolt(path string, f *os.File) (db *bbolt.DB, err error) {
	err = guarded(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockWait,
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		return err
	})
	if errors.As(err, new(panicError)) {
		_ = letGo(f)
	}
	return db, err
}

const newSuffix = ".new-"

// create makes an empty account at path, whole or not at all: a process killed
// half way leaves nothing under that name. It is no error when another process
// is faster.
func create(path string, log int) error {
	dir, base := filepath.Split(path)
	tmp, err := os.CreateTemp(dir, base+newSuffix+"*")
	if errors.Is(err, fs.ErrPermission) {
		return denied(path, err)
	}
	if err != nil {
		return fmt.Errorf("localbackend: create %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	db, err := openBolt(tmp.Name(), tmp)
	if err != nil {
		return fmt.Errorf("localbackend: create %s: %w", path, err)
	}
	err = errors.Join(db.Update(func(tx *bbolt.Tx) error { return initialise(tx, log) }), db.Close())
	if err != nil {
		return fmt.Errorf("localbackend: create %s: %w", path, err)
	}
	// A link never replaces what another process has created meanwhile.
	if os.Link(tmp.Name(), path) != nil {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) { // a file system without links
			if err := os.Rename(tmp.Name(), path); err != nil {
				return fmt.Errorf("localbackend: create %s: %w", path, err)
			}
		}
	}
	return nil // openFile syncs the directory
}

// removeLeftOvers removes what killed processes left while creating the same
// account. It takes nothing from a live one that matters: the account exists,
// so its attempt ends either way.
func removeLeftOvers(dir, base string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), base+newSuffix); ok && strings.Trim(n, "0123456789") == "" {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// named tells whether the path still names this file. An error that says
// nothing about that counts as yes.
func (f *file) named() bool {
	now, err := os.Lstat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || os.SameFile(now, f.info)
}

// whole fails when the file has become shorter: then reading it would be a
// memory fault. (guarded catches that too, but bbolt may keep a mutex.)
func (f *file) whole() error {
	was := f.size.Load() // before the look: growth that another call finds meanwhile was not lost
	info, err := f.f.Stat()
	if err != nil {
		return nil // closed: bbolt says so
	}
	if size := info.Size(); size < was {
		f.unusable.Store(true)
		return damaged("%s had %d bytes and has %d: it was truncated while it was open", f.path, was, size)
	} else if size > was {
		f.size.CompareAndSwap(was, size)
	}
	return nil
}

// close waits for reading transactions and gives the lock up. Changes that are still
// in the log go into the tables; where that fails, the next opening does it.
func (f *file) close() error {
	if len(f.pending) > 0 && !f.unusable.Load() {
		_ = f.fold(nil, nil)
	}
	err := error(nil)
	if f.abandoned.Load() { // its mapping stays until the process ends
		err = letGo(f.f)
	} else {
		err = guarded(f.db.Close)
	}
	if err != nil {
		return fmt.Errorf("localbackend: close %s: %w", f.path, err)
	}
	return nil
}
