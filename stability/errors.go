package stability

import "errors"

var (
	// ErrClosed is returned by every call after Close, and by a Run that Close ended.
	ErrClosed = errors.New("stability: the Manager is closed")

	// ErrUnusable is for backends: it marks an error of the lock that waiting
	// cannot cure, such as a path that can be no file, a missing permission or a
	// read-only file system. Run, Activate and TryActivate return it, also from
	// standby. An error that a person may mend while instances wait is not
	// marked: Run and Activate ask again, and Status().StoreUnavailable has it.
	ErrUnusable = errors.New("stability: the backend cannot be used as it is")

	// ErrNotActive reports a call that needs the lock while another instance
	// has it, or nobody asked for it yet: call TryActivate or Activate first.
	ErrNotActive = errors.New("stability: not active: call TryActivate or Activate first")

	// ErrNotAttached reports a call that needs a client before one was given
	// to Attach.
	ErrNotAttached = errors.New("stability: no client attached: pass it to Attach, or make it with NewClient")

	// ErrWrongDevice reports a client whose device does not belong to the
	// present term. Its caches are of another time: ask AuthState for the
	// device and build a new client.
	ErrWrongDevice = errors.New("stability: the client's device is not this term's: build a new client on the device that AuthState returns")

	// ErrRunning reports a second Run, or a call by hand that would get in the
	// way of the one that runs.
	ErrRunning = errors.New("stability: Run already looks after this account")

	// ErrAlreadyPaired reports PairPhone on an account that is paired. Log
	// out first.
	ErrAlreadyPaired = errors.New("stability: this account is paired already: call Logout first to pair another phone")

	// ErrNotPaired reports Logout on an account that is not paired.
	ErrNotPaired = errors.New("stability: this account is not paired")

	// ErrStillListed reports a Logout without a connection: the device is gone
	// here, and the phone's list still has it.
	ErrStillListed = errors.New("stability: logged out here without a connection, so the phone was not told: remove the device there by hand, under Linked devices")

	// ErrTermOver is the cause of a cut when the lock's term ended under a
	// connection.
	ErrTermOver = errors.New("stability: the lock's term is over")

	// ErrStopping is the cause of a cut when this instance hands over.
	ErrStopping = errors.New("stability: stepping down")
)
