package localbackend

import (
	"errors"
	"fmt"
	"time"

	"github.com/wastability/wastability/authstore"
)

// The lock on the file keeps other instances away, and nobody else: `cp backup
// wa.db` writes another file's bytes into the one that is open. bbolt has it
// mapped and would go on, half on the old content and half on the new, and
// damage both. So each commit first looks whether the file is still the one that
// this term wrote, and looks again before it is confirmed.

// mark is by what a term knows its own file again.
type mark struct {
	tx     int              // of bbolt's last transaction, which is in its meta page
	nonce  string           // of the term, in the lock record; "" before there is one
	at     int64            // where the last record of the log stands; 0: there is none
	sector [sectorSize]byte // its first sector
	time   time.Time        // when the file was last written, as the file system says
}

// wrote notes that what was last written is our own.
func (f *file) wrote() {
	if info, err := f.f.Stat(); err == nil {
		f.own.time = info.ModTime()
	}
}

// ours fails when the file has become shorter, or holds what this term has not
// written. It costs a few small reads from the kernel's memory. sem is held.
func (f *file) ours() error {
	if err := f.whole(); err != nil {
		return err
	}
	if f.unsettled || f.own.tx == 0 {
		return nil // what the meta pages say is being settled
	}
	info, err := f.f.Stat()
	if err != nil {
		return nil // closed: bbolt says so
	}
	c := &checker{r: f.f, size: info.Size()}
	m, err := c.metas()
	foreign := err == nil && m.txid != uint64(f.own.tx)
	if err == nil && !foreign && f.own.at > 0 {
		var b []byte
		b, err = c.read(f.own.at, sectorSize)
		foreign = err == nil && [sectorSize]byte(b) != f.own.sector
	}
	// Somebody wrote, or only touched it. Another file could agree with ours in
	// what was looked at; it cannot have this term's nonce.
	if err == nil && !foreign && f.own.nonce != "" && !info.ModTime().Equal(f.own.time) {
		var had lockRecord
		had, err = peek(f.f, info.Size())
		if foreign = err == nil && had.Nonce != f.own.nonce; err == nil && !foreign {
			f.own.time = info.ModTime()
		}
	}
	if foreign || errors.Is(err, authstore.ErrCorrupt) || errors.Is(err, authstore.ErrNewerFormat) {
		f.unusable.Store(true)
		return fmt.Errorf("localbackend: something else was copied over %s while it was open, and nothing was written on top of it: "+
			"stop every instance before a backup is put in place", f.path)
	}
	if err != nil {
		return fmt.Errorf("localbackend: look at %s: %w", f.path, err)
	}
	return nil
}
