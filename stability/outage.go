package stability

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
)

// outage is what is known of a backend that does not answer.
type outage struct {
	err     error     // why it does not; nil while it does
	since   time.Time // since when that counts here
	watched bool      // another instance held the lock then
	byLock  bool      // it is the lock that found out
	fails   int       // calls of the lock that failed in a row
}

// noteStore remembers whether the backend answers.
func (m *Manager) noteStore(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteStoreLocked(err)
}

// answered notes that the backend answered the incident loop. That ends an
// outage only where nothing else would, because nobody asks for the lock, and only
// if the lock answers too: it may be in another backend. A refusal stands until
// the next activation shows that it is mended.
func (m *Manager) answered() {
	m.mu.Lock()
	stands := m.outageStands()
	m.mu.Unlock()
	if !stands {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), incidentTimeout)
	defer cancel()
	if _, err := m.lock.Load(ctx); err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.outageStands() {
		m.noteStoreLocked(nil)
	}
}

// outageStands reports whether an outage is known of which nobody would
// see the end. With mu held.
func (m *Manager) outageStands() bool {
	return m.outage.err != nil && !refuses(m.outage.err) && len(m.turn) == 0 && m.term == nil && !m.runs.on && m.seat.at != shut
}

func (m *Manager) noteStoreLocked(err error) {
	was := m.outage.err
	m.outage.err, m.outage.byLock, m.outage.watched = err, m.outage.byLock && err != nil, m.outage.watched && err != nil
	switch {
	case refuses(err) && !refuses(was):
		m.logLocked(slog.LevelError, "the backend refuses requests, and a person must mend this; it is asked again until it accepts them", "backend", m.cfg.backend.Name, "error", err)
	case was == nil && err != nil:
		m.logLocked(slog.LevelWarn, "the backend does not answer; waiting for it", "backend", m.cfg.backend.Name, "error", err)
	case was != nil && err == nil:
		m.logLocked(slog.LevelInfo, "the backend answers again", "backend", m.cfg.backend.Name, "after", time.Since(m.outage.since))
	}
	switch {
	case was == nil && err != nil:
		m.outage.since, m.outage.watched = time.Now(), m.seat.at == standby
		m.eventLocked(Event{Kind: EventStoreDown, Reason: reconnect.ReasonStoreUnavailable, Detail: err.Error()})
	case was != nil && err == nil:
		m.eventLocked(Event{Kind: EventStoreUp})
	}
}

// refuses reports an error of the lock that no repetition cures by itself, but
// that a person may mend while this instance waits: a missing table, a grant.
func refuses(err error) bool {
	var p *backoff.PermanentError
	return errors.As(err, &p)
}

// permanent reports an error of the backend that trying again will not cure.
func permanent(err error) bool {
	for _, target := range []error{
		authstore.ErrCorrupt, authstore.ErrNewerFormat, authstore.ErrTooLarge,
		authstore.ErrSealed, authstore.ErrNotSealed, authstore.ErrWrongKey, authstore.ErrOptions,
		reconnect.ErrNewerFormat, ErrUnusable, ErrClosed,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// retryPause yields the pauses between calls to a backend that does not
// answer: the first is InitialDelay, and none is longer than StoreRetry.
func (m *Manager) retryPause() func() time.Duration {
	p := m.cfg.policy.Defaults()
	next := min(p.InitialDelay, p.StoreRetry)
	return func() time.Duration {
		d := next
		next = min(2*next, p.StoreRetry)
		return d
	}
}
