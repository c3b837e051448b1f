package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cenkalti/backoff/v4"
)

var (
	// ErrUnavailable reports that Firestore did not answer, or not in time. A
	// repetition may help. The next write settles what became of this one. In
	// a long outage Firestore is asked every 10 s at most; calls return it
	// without a request meanwhile.
	ErrUnavailable = errors.New("firestorebackend: Firestore cannot be reached or does not answer")

	// ErrQuota reports an exhausted quota. Until a growing pause is over,
	// calls return it without a request.
	ErrQuota = errors.New("firestorebackend: the quota of the Firestore project is exhausted: enable billing or raise the quota")

	// ErrPermission reports that the credentials may not read or write here.
	// Like ErrQuota it is not asked for again at once. Credentials that are not
	// accepted at all are ErrUnavailable: that may pass by itself.
	ErrPermission = errors.New("firestorebackend: Firestore denies access: give the service account roles/datastore.user on the project, and check that it is the right project")

	// ErrDatabaseNotFound reports that the project or database does not exist,
	// or that it is no Firestore database in native mode.
	ErrDatabaseNotFound = errors.New("firestorebackend: no such Firestore database: create one in native mode, and check the project and database id given to firestorebackend.NewClient")

	// ErrDamaged reports a document of the lock, the state or an incident that
	// this library cannot have written.
	ErrDamaged = errors.New("firestorebackend: a document was changed by hand or by another program: repair or delete it")

	// ErrClosed is what every call returns after Close.
	ErrClosed = errors.New("firestorebackend: closed: make another backend with New")
)

// enter checks what every call checks first; op is for the error.
func (b *backend) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("firestorebackend: %s: %w", op, err)
	}
	if b.life.Err() != nil {
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
	return nil
}

// write makes one request that writes documents, as call does.
func (b *backend) write(ctx context.Context, l lane, op string, f func(ctx context.Context) error) error {
	return b.call(ctx, l, op, true, func(ctx context.Context, _ func()) error { return f(ctx) })
}

// call makes one request, with its own timeout. f gets a function that gives
// it the timeout anew, for answers that arrive in pieces. While the answer is
// UNAVAILABLE, the request is made again until the timeout, with pauses; a
// client that NewClient did not make does that by itself.
func (b *backend) call(ctx context.Context, l lane, op string, writes bool, f func(ctx context.Context, more func()) error) error {
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	reads, mine := &b.paces[l].reads, &b.paces[l].reads
	if writes {
		mine = &b.paces[l].writes
	}
	by := time.Now().Add(b.timeout)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(b.life, stop)()
	for {
		err := reads.pass(waiting, by, !writes)
		if err == nil && writes {
			err = mine.pass(waiting, by, true)
		}
		if err != nil {
			if closed := b.enter(ctx, op); closed != nil {
				return closed
			}
			return fmt.Errorf("firestorebackend: %s: %w", op, err)
		}
		began := time.Now()
		err, again := b.once(ctx, op, writes, f)
		mine.note(l, err, began)
		if !again {
			return err
		}
	}
}

// once makes the request. again says that it may be made again at once, but for
// a pause.
func (b *backend) once(ctx context.Context, op string, writes bool, f func(ctx context.Context, more func()) error) (err error, again bool) {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(b.timeout, func() { cancel(context.DeadlineExceeded) })
	defer timer.Stop()
	defer context.AfterFunc(b.life, func() { cancel(ErrClosed) })()
	var a answer
	err = f(context.WithValue(inner, answerKey{}, &a), func() { timer.Reset(b.timeout) })
	if told := a.last(); err != nil && told != nil {
		err, again = told, status.Code(told) == codes.Unavailable && inner.Err() == nil
	}
	return b.describe(ctx, inner, op, writes, err), again
}

// describe gives an error its class, by its code and by what was asked. A write
// has conditions that may not hold; then another read tells what is wrong. A
// read of documents by name, or of those in a collection, has none: where it is
// NOT_FOUND or FAILED_PRECONDITION, the database itself is missing or another.
func (b *backend) describe(ctx, inner context.Context, op string, writes bool, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("firestorebackend: %s: %w (%w)", op, cause, err)
	}
	if cause := context.Cause(inner); errors.Is(cause, ErrClosed) {
		return fmt.Errorf("%s: %w", op, cause)
	} else if cause != nil {
		return fmt.Errorf("%w: %s: no answer within %v; the network, or what a client that firestorebackend.NewClient did not make keeps to itself while it retries, such as an exhausted quota for writes: %w",
			ErrUnavailable, op, b.timeout, &hidden{err})
	}
	class := ErrUnavailable
	switch status.Code(err) {
	case codes.ResourceExhausted:
		class = ErrQuota
	case codes.Unauthenticated:
		// The credentials may be new or old by a moment, and gRPC answers so by
		// itself when it could not fetch a token.
		return fmt.Errorf("%w: %s: the credentials were not accepted, which may pass: %w", ErrUnavailable, op, err)
	case codes.PermissionDenied:
		class = ErrPermission
	case codes.NotFound, codes.FailedPrecondition:
		if writes {
			return fmt.Errorf("firestorebackend: %s: %w", op, err)
		}
		class = ErrDatabaseNotFound
	case codes.AlreadyExists, codes.InvalidArgument, codes.Aborted:
		return fmt.Errorf("firestorebackend: %s: %w", op, err)
	}
	return fmt.Errorf("%w: %s: %w", class, op, err)
}

// hidden keeps the text of a cancelled request without its identity: it was
// this package's timeout that cancelled it, and context.Canceled means
// something else to the callers.
type hidden struct{ err error }

func (h *hidden) Error() string { return h.err.Error() }

// lostRace reports that a condition of a write did not hold, or that the write
// met another: nothing of it was applied by this request. An earlier one of the
// client, whose reply was lost, may have been.
func lostRace(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.AlreadyExists, codes.NotFound:
		return !errors.Is(err, ErrDatabaseNotFound)
	}
	return aborted(err)
}

func aborted(err error) bool { return status.Code(err) == codes.Aborted }

// invalid reports a request that Firestore refuses for what it says.
func invalid(err error) bool { return status.Code(err) == codes.InvalidArgument }

// hopeless reports an error that no repetition within this call can cure.
func hopeless(err error) bool {
	for _, target := range []error{ErrQuota, ErrPermission, ErrDatabaseNotFound, ErrClosed, ErrDamaged} {
		if errors.Is(err, target) {
			return true
		}
	}
	return invalid(err)
}

// lasting is how long an operation of the lock has to fail before waiting for it
// ends: a role that is being changed, a document that somebody is editing in a
// console, pass.
const lasting = time.Minute

// judge marks errors that lock.Lease must not wait out: those that no
// repetition cures, once they have lasted.
func (b *backend) judge(op string, err *error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case errors.Is(*err, ErrClosed):
		*err = backoff.Permanent(*err)
	case !errors.Is(*err, ErrPermission) && !errors.Is(*err, ErrDatabaseNotFound) && !errors.Is(*err, ErrDamaged):
		delete(b.failing, op)
	case b.failing[op].IsZero():
		b.failing[op] = time.Now()
	case time.Since(b.failing[op]) >= lasting:
		*err = backoff.Permanent(*err)
	}
}

// tries bounds the repetitions within one call; callers repeat too.
const tries = 4

// longestPause bounds the pauses between them: a change of an incident that
// others keep getting ahead of is tried often.
const longestPause = 500 * time.Millisecond

// pauses yields the pauses between repetitions.
func pauses() func(ctx context.Context) bool {
	d := 20 * time.Millisecond
	return func(ctx context.Context) bool {
		t := time.NewTimer(d/2 + jitter(d))
		defer t.Stop()
		d = min(2*d, longestPause)
		select {
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
