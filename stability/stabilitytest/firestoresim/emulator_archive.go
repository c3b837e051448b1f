package firestoresim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// archive is a file of the emulator's classes in the form in which Java has them
// in memory: with it the emulator starts in half of the time. The first emulator
// on a machine writes it when it is closed, into the user's cache directory. Java
// ignores a file that does not belong to it.
type archive struct {
	file string // "" if there is nowhere to keep one
	made string // that this emulator writes when it ends; "" if file is there
}

var archives atomic.Int64 // that this process has begun to write

// archiveIn finds or plans the archive for this Java and this jar under dir.
func archiveIn(dir, java, jar string) (a archive) {
	h := sha256.New()
	for _, path := range []string{java, jar} {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return archive{}
		}
		st, err := os.Stat(path)
		if err != nil {
			return archive{}
		}
		fmt.Fprintln(h, path, st.Size(), st.ModTime().UnixNano())
	}
	a.file = filepath.Join(dir, "firestore-emulator-"+hex.EncodeToString(h.Sum(nil)[:8])+".jsa")
	if _, err := os.Stat(a.file); err == nil {
		return a
	}
	if os.MkdirAll(dir, 0o700) != nil {
		return archive{}
	}
	unfinished, _ := filepath.Glob(a.file + ".*")
	for _, f := range unfinished { // of a process that was killed
		if st, err := os.Stat(f); err == nil && time.Since(st.ModTime()) > time.Hour {
			_ = os.Remove(f)
		}
	}
	a.made = fmt.Sprintf("%s.%d.%d", a.file, os.Getpid(), archives.Add(1))
	return a
}

func cachedArchive(java, jar string) archive {
	dir, err := os.UserCacheDir()
	if err != nil {
		return archive{}
	}
	return archiveIn(filepath.Join(dir, "wastability"), java, jar)
}

// args tell Java to read the archive, or to write it. A Java that is too old for
// it does without.
func (a archive) args() []string {
	const orNot = "-XX:+IgnoreUnrecognizedVMOptions"
	switch {
	case a.file == "":
		return nil
	case a.made == "":
		return []string{orNot, "-XX:SharedArchiveFile=" + a.file}
	}
	return []string{orNot, "-XX:ArchiveClassesAtExit=" + a.made}
}

// keep makes what was written the archive, if the emulator ended in good order.
func (a archive) keep(well bool) {
	if a.made == "" {
		return
	}
	if well && os.Rename(a.made, a.file) == nil {
		return
	}
	_ = os.Remove(a.made)
}
