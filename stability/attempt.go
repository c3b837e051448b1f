package stability

import (
	"context"
	"time"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// attempt is what a connection is made of.
type attempt struct {
	number int        // as the core counts
	link   *link.Conn // nil until the dialer saw it
	ctx    context.Context
	cancel context.CancelFunc // nil when the host connected by itself
}

// onDial is told by the dialer of each new attempt, also of one that the host
// began by itself.
func (a *attachment) onDial(c *link.Conn) {
	a.keepSent()
	a.m.mu.Lock()
	a.dialing = c
	a.t.take(core.Socket{Client: a.number})
	bound := a.at.link == c
	a.dialing = nil
	a.m.mu.Unlock()
	switch {
	case !bound:
		c.Cut(ErrStopping)
	case a.auto && c.Foreign(): // no fence stands in front of it, and Run has a better way
		a.t.note(core.Again{Reason: reconnect.ReasonRequested, Detail: "a connection that did not go through the Manager's dialer is replaced by one that does"})
	}
}

// attempt makes an attempt. It returns when the connect function has.
func (a *attachment) attempt(f core.Connect) {
	a.m.mu.Lock()
	at, connect, ending := a.at, a.connect, a.t.core.Ending()
	a.m.mu.Unlock()
	if at.number != f.Conn {
		return // a newer client took this one's place
	}
	err := ErrStopping
	if !ending {
		if !f.Until.IsZero() {
			overdue := time.AfterFunc(time.Until(f.Until), func() { a.t.note(core.Overdue{Conn: f.Conn}) })
			defer overdue.Stop() // a login that does not finish has a deadline of its own
		}
		a.refreshVersion()
		a.link.Restore()
		err = a.call(at.ctx, connect)
	}
	cause, ends := reconnect.Classify(err)
	a.t.noteWith(func() core.Evidence {
		if ends && a.at.number == f.Conn {
			cause = refine(cause, a.at.link)
		}
		return core.CallReturned{Conn: f.Conn, Failed: err != nil, Ends: ends, Cause: cause, Up: a.t.up()}
	})
}

// call calls the host's connect function. One that does not return though its
// context has ended does not hold up the end of the term.
func (a *attachment) call(ctx context.Context, connect func(context.Context) error) error {
	result := make(chan error, 1)
	go func() {
		err := errSetupLeft
		defer func() { result <- err }()
		err = connect(ctx)
	}()
	overdue, stop := a.t.overdue()
	defer stop()
	select {
	case err := <-result:
		return err
	case <-overdue.Done():
		a.m.cfg.logger.Warn("the connect function did not return when its context ended; going on without it")
		return ErrStopping
	}
}

// overdue is a context that ends one step of a hand-over behind the moment at
// which the term began to end.
func (t *term) overdue() (context.Context, context.CancelFunc) {
	return context.WithCancel(t.overtime)
}

// refine tells a link that was dropped in the handshake from a server that did
// not answer: for whatsmeow both are a hello with its parts missing.
func refine(cause reconnect.Cause, l *link.Conn) reconnect.Cause {
	if cause.Reason != reconnect.ReasonTimedOut || l == nil || l.Err() == nil {
		return cause
	}
	raw, ends := reconnect.Classify(l.Err())
	if !ends || raw.Reason != reconnect.ReasonConnectionClosed {
		return cause
	}
	raw.Detail = "the connection was closed during the handshake"
	return raw
}

// cleanUp brings an ended connection to its very end, so that the client can
// be used again.
func (a *attachment) cleanUp(f core.CleanUp) {
	t := a.t
	// Observers hear the best reason that the end brings to light, but they do
	// not wait for a handler that is stuck.
	tell := time.AfterFunc(time.Second, func() { t.note(core.Late{Conn: f.Conn}) })
	defer tell.Stop()
	ctx, cancel := t.overdue()
	stop := func() bool { return true }
	if f.Auto { // Run can make a new client; a host by hand may not
		cancel()
		ctx, cancel = context.WithTimeout(t.overtime, endBudget)
	} else { // it may go on for long; a new client ends the wait
		stop = context.AfterFunc(a.life, cancel)
	}
	err := a.finish(ctx, f.Conn)
	stop()
	cancel()
	t.m.mu.Lock()
	_, cause, _ := t.core.End()
	ending := t.core.Ending()
	t.m.mu.Unlock()
	switch {
	case err == nil:
	case ending: // the device ends with the term, when its mark is off
		a.m.cfg.logger.Warn("a handler did not finish in time before the hand-over", "error", err)
	default:
		a.m.cfg.logger.Warn("a handler of the old connection is still running; going on with a new client", "error", err)
		if cause.Reason == reconnect.ReasonConnectionReplaced {
			t.confirmLock() // before there is another client
		}
		a.giveUp()
	}
	if next := t.note(core.CleanedUp{Conn: f.Conn}); next != nil { // AskLock
		t.confirmLock()
		t.note(core.LockAsked{Conn: f.Conn})
	}
}
