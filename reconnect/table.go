package reconnect

import (
	"cmp"
	"slices"
)

// Class groups reasons by who can do something about them.
type Class string

// The classes.
const (
	ClassTransient  Class = "transient"  // passes by itself: retry with backoff
	ClassExpected   Class = "expected"   // part of the protocol: come back at once
	ClassOwn        Class = "own"        // this side ended the connection: come back soon
	ClassSuspicious Class = "suspicious" // retry, and repair the local session if it goes on
	ClassConflict   Class = "conflict"   // somebody else uses the session
	ClassTimed      Class = "timed"      // the service said for how long
	ClassOperator   Class = "operator"   // somebody must change something
	ClassUser       Class = "user"       // somebody must pair (again)
	ClassPermanent  Class = "permanent"  // the session is gone
	ClassHost       Class = "host"       // our own side: lock, store, or the host's wish
)

// Action is the kind of step a Decision asks for.
type Action string

// The actions. ShouldReconnect is true for the first five.
const (
	ActionRetry     Action = "retry"      // again, with backoff
	ActionRestart   Action = "restart"    // again, at once; no failure
	ActionWait      Action = "wait"       // again, when the ban or the pause is over
	ActionSlowRetry Action = "slow_retry" // again, rarely
	ActionWaitStore Action = "wait_store" // again, as soon as the backend answers
	ActionPair      Action = "pair"       // a new device and a new code to scan may be offered
	ActionStop      Action = "stop"       // nothing until somebody acts
	ActionStandby   Action = "standby"    // this term is over: wait for the lock
	ActionNone      Action = "none"       // the host wished it so
)

// row is what the library knows about one reason. The order of rows is the
// precedence: of several causes for one end the uppermost is reported.
type row struct {
	reason Reason
	class  Class
	action Action // the first choice; the Machine may turn it into another
	counts bool   // a failure in the eyes of auto-heal
	text   Text
}

// table is read only. Nothing else in this package orders reasons.
var table = [...]row{
	{ReasonIntentional, ClassHost, ActionNone, false, textIntentional},
	{ReasonLockLost, ClassHost, ActionStandby, false, textLockLost},
	{ReasonHandedOver, ClassOwn, ActionNone, false, textHandedOver},

	{ReasonLoggedOut, ClassPermanent, ActionPair, false, textLoggedOut},
	{ReasonAccountBanned, ClassPermanent, ActionStop, false, textAccountBanned},
	{ReasonAccountLocked, ClassPermanent, ActionStop, false, textAccountLocked},

	{ReasonTemporaryBan, ClassTimed, ActionWait, false, textTemporaryBan},
	{ReasonClientOutdated, ClassOperator, ActionSlowRetry, false, textClientOutdated},
	{ReasonUntrustedServer, ClassOperator, ActionStop, false, textUntrustedServer},

	{ReasonConnectionReplaced, ClassConflict, ActionWait, false, textConnectionReplaced},

	{ReasonPairingFailed, ClassUser, ActionPair, false, textPairingFailed},
	{ReasonMultideviceMismatch, ClassUser, ActionPair, false, textMultideviceMismatch},
	{ReasonQRExpired, ClassUser, ActionPair, false, textQRExpired},
	{ReasonStoreUnavailable, ClassHost, ActionWaitStore, false, textStoreUnavailable},

	{ReasonRestartRequired, ClassExpected, ActionRestart, false, textRestartRequired},
	{ReasonRequested, ClassOwn, ActionRestart, false, textRequested},
	{ReasonRedelivery, ClassOwn, ActionRestart, false, textRedelivery},
	{ReasonHolderLost, ClassHost, ActionRestart, false, textHolderLost},
	{ReasonClosedByProgram, ClassOwn, ActionRetry, false, textClosedByProgram},

	{ReasonServiceUnavailable, ClassTransient, ActionRetry, true, textServiceUnavailable},
	{ReasonBadSession, ClassSuspicious, ActionRetry, true, textBadSession},
	{ReasonConnectRejected, ClassOperator, ActionSlowRetry, false, textConnectRejected},

	{ReasonConnectionLost, ClassTransient, ActionRetry, true, textConnectionLost},
	{ReasonTimedOut, ClassTransient, ActionRetry, true, textTimedOut},
	{ReasonNetworkUnreachable, ClassTransient, ActionRetry, true, textNetworkUnreachable},

	{ReasonConnectionClosed, ClassTransient, ActionRetry, true, textConnectionClosed},
}

// rowOf returns the row of r and its rank: higher beats lower. A reason that
// this library does not know (a newer one wrote it) behaves like
// connection_closed and ranks below everything.
func rowOf(r Reason) (row, int) {
	for i := range table {
		if table[i].reason == r {
			return table[i], len(table) - i
		}
	}
	last := table[len(table)-1]
	last.reason = r
	last.text = textUnknown
	return last, 0
}

// Reasons returns every reason, in order of precedence, highest first.
func Reasons() []Reason {
	out := make([]Reason, len(table))
	for i := range table {
		out[i] = table[i].reason
	}
	return out
}

// Known reports whether r is one of the reasons of this library.
func (r Reason) Known() bool { _, rank := rowOf(r); return rank > 0 }

// Class says who can do something about r.
func (r Reason) Class() Class { x, _ := rowOf(r); return x.class }

// Action is the first choice after r. The Machine may decide otherwise: for
// example it stops after too many connect_rejected in a row.
func (r Reason) Action() Action { x, _ := rowOf(r); return x.action }

// Counts reports whether an end for r is a failure in the eyes of auto-heal:
// one that a fresh process could perhaps cure.
func (r Reason) Counts() bool { x, _ := rowOf(r); return x.counts }

// Text explains r to an operator.
func (r Reason) Text() Text { x, _ := rowOf(r); return x.text }

// Outranks reports whether r is reported rather than o when both were seen for
// the end of one connection.
func (r Reason) Outranks(o Reason) bool {
	_, a := rowOf(r)
	_, b := rowOf(o)
	return a > b
}

// Better joins two causes for the end of the same connection. The reason that
// ranks higher wins; two causes with one reason are merged, so that no code,
// ban time or detail is lost. The result does not depend on the order in which
// causes arrive (Err aside, which is the first that is not nil).
func Better(a, b Cause) Cause {
	_, ra := rowOf(a.Reason)
	_, rb := rowOf(b.Reason)
	// Two unknown reasons have the same rank: any fixed order will do.
	switch cmp.Or(cmp.Compare(ra, rb), cmp.Compare(a.Reason, b.Reason)) {
	case 1:
		return a
	case -1:
		return b
	}
	c := a
	c.Code = max(a.Code, b.Code)
	c.Expire = max(a.Expire, b.Expire)
	if cmp.Or(cmp.Compare(len(b.Detail), len(a.Detail)), cmp.Compare(b.Detail, a.Detail)) > 0 {
		c.Detail = b.Detail
	}
	if slices.Index(sources, b.Source) < slices.Index(sources, a.Source) {
		c.Source = b.Source
	}
	c.OnConnect = a.OnConnect || b.OnConnect
	if c.Err == nil {
		c.Err = b.Err
	}
	return c
}
