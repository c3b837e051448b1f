package authstore

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrWindowBroken reports a write of a session that was read before
	// somebody else changed it, or waited too long for it. Nothing was
	// written and nothing went out on the wire: send the message again.
	ErrWindowBroken = errors.New("authstore: the session changed while the message was being encrypted: send it again")

	// ErrNotSaved reports a store call on a device that has never been saved.
	ErrNotSaved = errors.New("authstore: the device is not paired yet: nothing can be stored for it")

	// ErrDeviceDeleted reports a call on a device that was deleted. Its data
	// is kept: see Container.Restore. Ask the Container for a new Device.
	ErrDeviceDeleted = errors.New("authstore: this device was deleted: ask for a new one")

	// ErrSuperseded reports a call on a device after the Container has given
	// out another, or was closed.
	ErrSuperseded = errors.New("authstore: this device belongs to a term that is over")

	// ErrUnknownDevice reports a Device that did not come from this Container.
	ErrUnknownDevice = errors.New("authstore: this device does not come from this container: use Container.Device")

	// ErrDeviceIDMustBeSet reports an attempt to save or delete a device that
	// has no JID.
	ErrDeviceIDMustBeSet = errors.New("authstore: the device has no JID yet: it can be saved after pairing only")

	// ErrNothingDeleted reports that there is no deleted device to restore.
	ErrNothingDeleted = errors.New("authstore: no deleted device to restore")

	// ErrSealed reports sealed data that is read without a key. Permanent.
	ErrSealed = errors.New("authstore: stored data is sealed")

	// ErrWrongKey reports sealed data that the given keys do not open. Nothing
	// is written over it. Permanent.
	ErrWrongKey = errors.New("authstore: stored data was sealed with a key that was not given: pass that key too")

	// ErrNotSealed reports plain data where sealing is required. Permanent.
	ErrNotSealed = errors.New("authstore: stored data is not sealed, but sealing is required")

	// ErrOptions reports options of New that are not valid; the text names each.
	// Permanent.
	ErrOptions = errors.New("authstore: an option is not valid")

	// ErrUnavailable reports a store that did not answer until the term had
	// to be given up. It is the cause given to Fence.Cut.
	ErrUnavailable = errors.New("authstore: the store cannot be reached")
)

// overError is what every method returns once its Device is over. It matches
// context.Canceled, which makes whatsmeow leave the message unacknowledged so
// that the server delivers it again, and the cause.
type overError struct {
	op    string
	cause error
}

func (e *overError) Error() string {
	return fmt.Sprintf("authstore: %s: this device's term is over: %v", e.op, e.cause)
}

func (e *overError) Unwrap() []error { return []error{context.Canceled, e.cause} }

// permanent says that repeating the call cannot help.
func permanent(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerFormat) ||
		errors.Is(err, ErrFenced) || errors.Is(err, ErrSealed) || errors.Is(err, ErrNotSealed) || errors.Is(err, ErrWrongKey) || errors.Is(err, ErrOptions)
}
