package postgrestest

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	inMemory = "/dev/shm"
	prefix   = "wapg" // short: a folder holds a socket

	// room is what must be free: several servers run at once, of 50 MB each.
	room = 1 << 30
)

// newFolder makes a folder for a server, in memory where that has room. held is
// open for as long as this process needs it.
func newFolder() (dir string, held io.Closer, err error) {
	if memory := root(inMemory); memory != "" {
		if dir, held, err = folderIn(memory); err == nil {
			return dir, held, nil
		}
	}
	return folderIn("")
}

// root is memory, if a server may be there, else "", the usual place.
func root(memory string) string {
	var free syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &free) != nil || free.Bavail*uint64(free.Bsize) < room {
		return ""
	}
	return memory
}

func folderIn(root string) (dir string, held io.Closer, err error) {
	dir, err = os.MkdirTemp(root, prefix)
	if err != nil {
		return "", nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return "", nil, err
	}
	// Where a file system knows no locks, nothing is swept either.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	sweep(filepath.Dir(dir))
	return dir, f, nil
}

// sweep removes what processes have left that were killed: nobody holds it. A
// folder of this minute may not be held yet.
func sweep(root string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		dir := filepath.Join(root, e.Name())
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && freeMemory(filepath.Join(dir, dataFolder)) {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}
