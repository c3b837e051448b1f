package firestoresim

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Faults that keep a request from being applied.

// DropRequest loses the request: it is never applied, and the client hears
// nothing until its deadline.
func DropRequest() Fault { return Fault{name: "drop request"} }

// Fail answers with a status and applies nothing.
func Fail(code codes.Code, text string) Fault {
	return Fault{name: "fail " + code.String(), err: status.Error(code, "firestoresim: fault: "+text)}
}

// Unavailable answers UNAVAILABLE, which the client retries.
func Unavailable() Fault { return Fail(codes.Unavailable, "the service is unavailable") }

// ResourceExhausted answers RESOURCE_EXHAUSTED, as for a used-up quota. The
// client retries it.
func ResourceExhausted() Fault { return Fail(codes.ResourceExhausted, "quota exceeded") }

// Aborted answers ABORTED, as for contention. Only RunTransaction retries it.
func Aborted() Fault { return Fail(codes.Aborted, "too much contention") }

// PermissionDenied answers PERMISSION_DENIED, as for a missing role.
func PermissionDenied() Fault {
	return Fail(codes.PermissionDenied, "missing or insufficient permissions")
}

// NoDatabase answers NOT_FOUND, as for a database that does not exist.
func NoDatabase() Fault { return Fail(codes.NotFound, "the database does not exist for this project") }

// Faults that lose the answer of a request that was applied. Not for Listen.

// DropReply applies the request, then answers UNAVAILABLE, as a broken
// connection does.
func DropReply() Fault {
	f := Unavailable()
	f.name, f.applies = "drop reply", true
	return f
}

// SilentReply applies the request; the client hears nothing until its
// deadline.
func SilentReply() Fault { return Fault{name: "silent reply", applies: true} }

// Faults of a network that keeps requests and delivers them later, whether or
// not somebody still waits. They strike what writes; a read that arrives late
// does nothing.

// Late answers UNAVAILABLE at once, as a connection that breaks does, and
// applies the request d later.
func Late(d time.Duration) Fault {
	f := Unavailable()
	f.name, f.late = fmt.Sprintf("late by %v", d), d
	return f
}

// PastDeadline says nothing, and applies the request d later, though its client
// has given up.
func PastDeadline(d time.Duration) Fault {
	return Fault{name: fmt.Sprintf("past the deadline by %v", d), late: d}
}

// Duplicate applies the request and answers, and applies it once more d later.
func Duplicate(d time.Duration) Fault {
	return Fault{name: fmt.Sprintf("duplicate after %v", d), kind: kindTwice, late: d}
}

// Faults of time.

// Delay lets d pass before the request is applied.
func Delay(d time.Duration) Fault {
	return Fault{name: fmt.Sprintf("delay %v", d), kind: kindDelay, before: d}
}

// DelayReply lets d pass after the request was applied.
func DelayReply(d time.Duration) Fault {
	return Fault{name: fmt.Sprintf("delay reply %v", d), kind: kindDelay, after: d}
}

// Hang holds the request. It is applied when the fault is stopped, unless the
// client has given up before.
func Hang() Fault { return Fault{name: "hang", kind: kindHang} }

// Faults of listeners.

// SilentListener leaves listeners open and says nothing on them any more. When
// it is stopped they are told what they missed.
func SilentListener() Fault { return Fault{name: "silent listener", kind: kindSilent} }

// CutListener ends listeners with UNAVAILABLE; clients come back by
// themselves, after a second.
func CutListener() Fault {
	f := Unavailable()
	f.name, f.kind = "cut listener", kindCut
	return f
}
