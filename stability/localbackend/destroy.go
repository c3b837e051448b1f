package localbackend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wastability/wastability/lock"
)

// destroy removes the file, sound or not. It takes the lock on it first: nobody
// has it then, and whoever opened it before that finds its name gone.
func (b *backend) destroy(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("localbackend: destroy %s: %w", b.path, err)
	}
	f, _, err := openLocked(ctx, b.path, true, lockWait)
	switch {
	case errors.Is(err, errHeld):
		return fmt.Errorf("localbackend: destroy %s: %w", b.path, lock.ErrHeld)
	case errors.Is(err, fs.ErrNotExist):
		return nil // not even its directory exists
	case err != nil:
		return err
	case f != nil:
		err = os.Remove(b.path)
		if err := letGo(f); err != nil {
			return fmt.Errorf("localbackend: destroy %s: %w", b.path, err)
		}
		if err != nil { // some systems remove no open file
			err = os.Remove(b.path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("localbackend: destroy %s: %w", b.path, err)
		}
	}
	dir, base := filepath.Split(b.path)
	removeLeftOvers(dir, base)
	if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("localbackend: destroy %s: sync the directory: %w", b.path, err)
	}
	return nil
}
