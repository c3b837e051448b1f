package localbackend

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

const openFlags = 0

// bbolt locks the byte at 2^64-1.
func overlapped() *windows.Overlapped {
	return &windows.Overlapped{Offset: 1<<32 - 1, OffsetHigh: 1<<32 - 1}
}

// tryFlock takes the lock that bbolt takes, without waiting.
func tryFlock(f *os.File, exclusive bool) (bool, error) {
	var flags uint32 = windows.LOCKFILE_FAIL_IMMEDIATELY
	if exclusive {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, overlapped())
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("LockFileEx", err)
}

func unflock(f *os.File) error {
	return os.NewSyscallError("UnlockFileEx", windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, overlapped()))
}

// handOver prepares a locked file for bbolt's own locking: here a handle
// conflicts with itself, so the lock is given back for a moment. A process that takes
// it then leaves a sound file, or keeps it, and bbolt's attempt fails.
func handOver(f *os.File) error { return unflock(f) }

func syncDir(string) error { return nil } // NTFS journals names

func isSymlinkRefused(error) bool { return false }
