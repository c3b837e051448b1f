package authstore

import "fmt"

// Bounds of every Key, whatever the backend.
const (
	maxKind = 32
	maxID   = 1500
)

// fits reports whether a batch with nothing else in it can take value under k.
// A value that does not fit has to be cut into parts: see codec.cut.
func (l Limits) fits(k Key, value []byte) bool {
	return (l.MaxValue <= 0 || len(value) <= l.MaxValue) &&
		(l.MaxBatch <= 0 || len(k.Kind)+len(k.ID)+len(value) <= l.MaxBatch)
}

// Check reports whether a Commit can take b: ErrTooLarge if it is beyond the
// limits or a key is not of the form that Key promises. Every backend begins
// its Commit with it.
func (l Limits) Check(b Batch) error {
	size := 0
	key := func(k Key) error {
		size += len(k.Kind) + len(k.ID)
		if k.Kind == "" || len(k.Kind) > maxKind || k.ID == "" || len(k.ID) > maxID {
			return fmt.Errorf("commit: a kind has 1 to %d bytes and an id 1 to %d, not %d and %d: %w",
				maxKind, maxID, len(k.Kind), len(k.ID), ErrTooLarge)
		}
		return nil
	}
	for _, e := range b.Put {
		if err := key(e.Key); err != nil {
			return err
		}
		size += len(e.Value)
		if l.MaxValue > 0 && len(e.Value) > l.MaxValue {
			return fmt.Errorf("commit: a %s of %d bytes, the limit is %d: %w", e.Key.Kind, len(e.Value), l.MaxValue, ErrTooLarge)
		}
	}
	for _, k := range b.Delete {
		if err := key(k); err != nil {
			return err
		}
	}
	if n := len(b.Put) + len(b.Delete); l.MaxKeys > 0 && n > l.MaxKeys || l.MaxBatch > 0 && size > l.MaxBatch {
		return fmt.Errorf("commit: %d keys and %d bytes, the limits are %d and %d: %w", n, size, l.MaxKeys, l.MaxBatch, ErrTooLarge)
	}
	return nil
}
