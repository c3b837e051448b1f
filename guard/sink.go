package guard

import (
	"context"
	"time"
)

// Change says what happened to an incident.
type Change string

// The changes that somebody is told of. A refresh is none.
const (
	ChangeOpened   Change = "opened" // raised, or raised again after it was resolved
	ChangeResolved Change = "resolved"
)

// Notification tells of one change. Its incident is the present state of it.
type Notification struct {
	Change   Change
	Incident Incident
	At       time.Time
}

// Sink tells somebody. Notify must not block and must not call the Manager
// under a lock of its own. A sink queues work that takes time. It is called
// for each change once, in order. A sink that has something to close
// implements io.Closer too; the Manager closes the sinks it was given. One
// that queues implements Flusher.
type Sink interface {
	Notify(n Notification)
}

// Flusher is a Sink that can be waited for: Flush returns when everything that
// was noted before was delivered or given up, or when ctx is over. The Manager
// calls it before it ends the process.
type Flusher interface {
	Flush(ctx context.Context) error
}
