package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/wastability/wastability/lock"
)

// ErrSilent reports that the renewal of a lock had no answer in time, twice and
// more in a row. One such renewal is a busy server; two are a connection that
// fell silent, which a client without keepalives never replaces. It comes with
// what the renewal itself reported, ErrUnavailable as a rule.
var ErrSilent = errors.New("firestorebackend: Firestore has not answered twice in a row: if other programs reach it, " +
	"the connection has fallen silent, and a client without gRPC keepalives keeps it: make the client with firestorebackend.NewClient, " +
	"or give its connection firestorebackend.DialOptions")

// attentive is the lock, and counts the renewals that had no answer. The words
// that it adds to the error are in the warnings of the lease and in the status.
type attentive struct {
	lockStore
	unanswered *atomic.Int32
}

var (
	_ lock.Store   = attentive{}
	_ lock.Watcher = attentive{}
)

func (s attentive) Renew(ctx context.Context, rec lock.Record) (lock.Record, error) {
	renewed, err := s.lockStore.Renew(ctx, rec)
	if !timedOut(err) {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, errPaused) { // the caller gave up, or nothing was asked
			s.unanswered.Store(0)
		}
		return renewed, err
	}
	if s.unanswered.Add(1) < 2 {
		return renewed, err
	}
	return renewed, fmt.Errorf("%w: %w", ErrSilent, err)
}

// timedOut reports an answer that did not come in time, by our timeout or by
// the caller's.
func timedOut(err error) bool {
	var own *hidden
	return errors.As(err, &own) || errors.Is(err, context.DeadlineExceeded)
}
