package authstore

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/wastability/wastability/lock"
)

var (
	// ErrFenced reports a commit with the epoch of a term that is over.
	// Nothing of it was applied.
	ErrFenced = lock.ErrFenced

	// ErrTooLarge reports a value or batch beyond the KV's Limits. Nothing of
	// it was written. It is permanent.
	ErrTooLarge = errors.New("authstore: too large for this backend")

	// ErrCorrupt reports stored bytes that do not parse. It is permanent: the
	// same read fails again. The stored bytes are left untouched.
	ErrCorrupt = errors.New("authstore: stored data is damaged")

	// ErrNewerFormat reports data that a newer library wrote. It is never
	// overwritten: update this instance. It is permanent.
	ErrNewerFormat = errors.New("authstore: stored data has a newer format than this library knows: update this instance")
)

// Kind names a family of entries, such as "session". At most 32 bytes of
// [a-z0-9_].
type Kind string

// Key names one entry: {"session", "123:0"}.
type Key struct {
	Kind Kind
	ID   string // not empty, at most 1,500 bytes of any content
}

// Entry is one keyed value. An empty value is a value, not an absence.
type Entry struct {
	Key   Key
	Value []byte
}

// Batch is applied all or nothing. A key stands in it at most once.
type Batch struct {
	Put    []Entry
	Delete []Key // absent keys are no error
}

// Limits are what one Commit can take. Zero means no limit.
type Limits struct {
	MaxValue int // bytes of one value
	MaxBatch int // bytes of all keys and values of a batch
	MaxKeys  int // puts and deletes of a batch
}

// KV is what a backend gives: one account's keyed values with atomic, fenced
// commits. All methods are safe for concurrent use. Values that are returned
// belong to the caller; values that are passed in are not kept.
//
// An error that matches ErrTooLarge, ErrCorrupt, ErrNewerFormat or ErrFenced
// is permanent. Every other error means that the store could not be reached or
// did not answer: repeating the call may help. After such an error of Commit
// the outcome is unknown until the same batch was applied again.
type KV interface {
	// Get reads; absent keys are absent from the map.
	Get(ctx context.Context, keys ...Key) (map[Key][]byte, error)

	// Scan yields every entry of kind whose id begins with idPrefix, in no
	// promised order. It ends after the first error.
	Scan(ctx context.Context, kind Kind, idPrefix string) iter.Seq2[Entry, error]

	// Commit applies all or nothing, and only while epoch is the newest lock
	// epoch; else ErrFenced. Durable before it returns. Applying the same
	// batch twice is the same as once. Beyond Limits: ErrTooLarge, nothing
	// written.
	Commit(ctx context.Context, epoch int64, b Batch) error

	Limits() Limits
}

// Range is every entry of a kind whose id begins with a prefix.
type Range struct {
	Kind     Kind
	IDPrefix string
}

// RangeScanner is optional: a KV that reads several ranges in one request, where
// each request costs a way over the network. The Container then loads a device
// in two: the record that names it, and everything that belongs to it.
type RangeScanner interface {
	// ScanRanges yields what Scan yields for each of ranges, of which no two
	// have the same kind, in no promised order. It ends after the first error.
	ScanRanges(ctx context.Context, ranges ...Range) iter.Seq2[Entry, error]
}

// Fence ties a Device to one term: a lock.Term plus Cut. The Manager gives it.
type Fence interface {
	Epoch() int64
	Held() bool
	TrustedUntil() time.Time
	// Cut cuts the connection without blocking: when it returns nothing
	// more goes out on the socket.
	Cut(cause error)
}

// refusingKV stands in front of the KV of a Container whose options are not valid.
type refusingKV struct {
	KV
	err error
}

func (k refusingKV) Get(context.Context, ...Key) (map[Key][]byte, error) { return nil, k.err }
func (k refusingKV) Commit(context.Context, int64, Batch) error          { return k.err }

func (k refusingKV) Scan(context.Context, Kind, string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { yield(Entry{}, k.err) }
}
