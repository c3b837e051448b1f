// Package localbackend keeps an account in one file on this disk: the embedded
// default, over bbolt. Nothing else is needed, and nothing else is written: one
// file, mode 0600, and during its creation a temporary one beside it.
//
// # The lock is the file
//
// bbolt locks its file exclusively while it is open (flock, or LockFileEx), and
// that lock is the lease between processes:
//
//		           Acquire                       Release, Close, loss, death
//		no file ─────────────▶ file open, locked ─────────────▶ file closed
//		closed  ─────────────▶ = a term, epoch+1                = free
//
//	  - [Open] checks the path and remembers it. Acquire opens the file, waiting
//	    a quarter of a second at most for those who only look at it. If another
//	    live process has it, the answer is "not granted", held by
//	    [AnotherProcess]. That is no error, and not a matter of holder ids.
//	  - The operating system frees the lock of a process that is gone, kill -9
//	    included. Nothing expires by time: no clock can take the file from a
//	    process that lives, and none has to be right. A frozen process keeps it.
//	  - Renew looks whether the path still names the file that is open, and writes
//	    nothing. If not (somebody removed, moved or replaced it) the term is lost.
//	    LeaseUntil is for display.
//	  - The epoch stands in the file and grows by one with each term. A term of
//	    this process that is over writes no more, whatever this process holds now.
//	  - Changes looks every 200 ms: a standby takes over within that.
//	  - Damage, a newer format, a path that can be no file, a missing permission and
//	    a read-only file system are permanent (stability.ErrUnusable): a call that
//	    waits for the lock returns them.
//
// A standby has no store: until it holds the lock, reads return [ErrNotHolder],
// incidents included, and commits are fenced.
//
// Locks on network file systems are not to be trusted with this: use a local
// disk, or a backend made for several machines.
//
// # Durable
//
// A commit is one record in a log and one sync. The log is a region of the
// same file: a value of 1 MiB that bbolt keeps and is never asked to change.
// So there is still one file, and a copy of it is the whole account. The
// changes in the log are in memory too, and reads see them. The log is folded
// when it is full, when a commit would take most of it, and at the end of the
// term. That is one bbolt transaction, which also empties the log: its pages,
// a sync, the meta page that makes them count, another sync. Acquire folds the
// log of a process that was killed.
//
// When Commit returns nil it has survived a power cut; killed before that, it
// has happened whole or not at all. A record stands on pages of its own, and
// each of its sectors says under a checksum to which record it belongs. Of one
// that was cut off by a power cut, and that nobody was told of, any sectors may
// be missing; every other gap is damage. This trusts a disk in two things: a
// sector is written or not, and what it has confirmed it keeps. (Should it lose
// again the last records that it had confirmed, as wholly as if they had never
// been written, that cannot be told from a cut.) A file is created under a
// temporary name and linked into place when it is complete, and its directory is
// synced.
//
// A context is obeyed while waiting for a turn. The write itself cannot be
// interrupted: on a disk that hangs, so does the call.
//
// A full disk, or any other write that fails, is an ordinary error, and the
// same batch may be tried again. After a failed write to the log the next
// commit is folded with all before it, and the log begins anew. bbolt rolls
// back what fails. If that failed so late that memory shows the commit and the
// disk may not, the meta page is written and synced again before anything else
// is. The file is not closed for it, so the lock is not lost by it. Opening a
// file does the same first, since the process before may have been killed
// there.
//
// # Damage
//
// bbolt maps its file and trusts it; on a truncated or altered one it ends the process.
// So before bbolt sees the file, Open and Acquire read all of it, with bounds on
// everything. They check both meta pages, each page's structure, a CRC-32C of each key
// and value, totals, which find missing values, and each sector of the log. (5,000
// sessions take some milliseconds; see BenchmarkCheck.) Damage is an error that matches
// authstore.ErrCorrupt and says where it is. The file stays as it is, byte for byte. A
// file that a newer library wrote is authstore.ErrNewerFormat, and stays as it is too.
//
// Values are checked again whenever they are read. If somebody truncates the
// file while it is open, the fault is caught, the call fails and the term
// ends. If somebody copies another file over it (cp backup wa.db), the next
// commit finds that and is not confirmed. The term ends, and the file that was
// put there stays as it is.
package localbackend
