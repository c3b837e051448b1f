package stability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	core "github.com/wastability/wastability/stability/internal/term"
)

// Close hands over: the connection ends, the lock is released, the backend is
// closed. A running Run returns ErrClosed. ctx bounds the graceful part; what
// is left is cut. A second Close waits for the first and does nothing. Do not
// wait for it inside a whatsmeow event handler with a ctx that never ends: it
// waits for running handlers.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	first := m.seat.take(closing, time.Now())
	t, watched := m.term, m.watched
	if first {
		m.end()
		if t != nil {
			t.take(core.Stop{Why: why(ErrClosed)})
		}
		m.broadcastLocked()
	}
	m.mu.Unlock()
	if !first {
		select {
		case <-m.shut:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stability: close: %w", context.Cause(ctx))
		}
	}
	defer close(m.shut)

	var errs []error
	if t != nil {
		select {
		case <-t.done:
		case <-ctx.Done():
			t.hurry()
			select {
			case <-t.done:
			case <-time.After(m.cfg.shutdown):
				errs = append(errs, fmt.Errorf("stability: close: a handler or the backend is still busy: %w", context.Cause(ctx)))
			}
		}
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.shutdown)
	select {
	case m.turn <- struct{}{}: // nobody is in the middle of an activation
	case <-bounded.Done():
	}
	m.mu.Lock()
	heir := m.heir
	m.heir = nil
	m.mu.Unlock()
	if watched {
		select {
		case <-m.incidents.done:
		case <-bounded.Done():
			errs = append(errs, errors.New("stability: close: a sink or the store of incidents is still busy"))
		}
	}
	cancel()
	if heir != nil {
		m.release(heir)
	}
	// A wait in vain above must not cost the flush its time.
	bounded, cancel = context.WithTimeout(context.WithoutCancel(ctx), m.cfg.shutdown)
	defer cancel()
	errs = append(errs, m.closeSinks(bounded)...)
	if m.lease != nil {
		errs = append(errs, m.lease.Close(bounded))
	}
	errs = append(errs, m.store.Close(bounded))
	if m.cfg.backend.Close != nil {
		errs = append(errs, closeAll(bounded, "the backend", []func() error{m.cfg.backend.Close})...)
	}
	m.mu.Lock()
	m.eventLocked(Event{Kind: EventClosed})
	m.mu.Unlock()
	select {
	case <-m.notify.drained():
	case <-time.After(observerGrace): // perhaps it is an observer that called
	case <-ctx.Done():
	}
	return errors.Join(errs...)
}

// closeSinks closes the sinks beside each other.
func (m *Manager) closeSinks(ctx context.Context) []error {
	var closers []func() error
	for _, sink := range m.cfg.sinks {
		if c, ok := sink.(io.Closer); ok {
			closers = append(closers, c.Close)
		}
	}
	return closeAll(ctx, "a sink", closers)
}

// closeAll calls code of others beside each other. A call that does not come back
// before ctx ends is left to itself.
func closeAll(ctx context.Context, what string, closers []func() error) (errs []error) {
	results := make(chan error, len(closers))
	for _, c := range closers {
		go func() { results <- c() }()
	}
	for range closers {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-ctx.Done():
			return append(errs, fmt.Errorf("stability: close: %s is still busy", what))
		}
	}
	return errs
}

// observerGrace is how long Close waits for observers to hear the last events.
const observerGrace = time.Second

// untilClosing derives a context that also ends when Close begins.
func (m *Manager) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(m.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// ended is the error of a wait that ctx ended.
func (m *Manager) ended(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, ErrClosed) {
		return ErrClosed
	} else if err != nil {
		return fmt.Errorf("stability: activate: %w", err)
	}
	return ErrClosed
}
