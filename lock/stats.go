package lock

import "time"

// Stats is what a Lease knows without asking the store.
type Stats struct {
	Holder       string        // our own holder id
	Lease        time.Duration // settings in force
	Refresh      time.Duration
	Margin       time.Duration
	Epoch        int64     // of the last term; 0 before the first
	Live         bool      // that term has not ended
	Held         bool      // that term is trusted now: alive and not paused
	TrustedUntil time.Time // of that term; when it ended, once it has
	Cause        error     // why that term ended; nil while it lives and before the first
	LastRenewal  time.Time // when the last successful Acquire or Renew was sent
	Failures     int       // calls that failed in a row
	LastError    error     // of the last failed call; nil after a successful one
	Seen         Record    // the record as last seen, ours or another's
	SeenAt       time.Time // when Seen was found to have changed
	LookedAt     time.Time // when the store last told the record, changed or not
	SeenOver     bool      // Seen names a holder whose lease has run out since, by the local clock: it may be gone
}

// Stats tells the state of the Lease. No I/O.
func (l *Lease) Stats() Stats {
	l.mu.Lock()
	s, t := l.stats, l.cur
	s.Seen, s.SeenAt, s.LookedAt = l.seen.rec, l.seen.at, l.seen.looked
	s.SeenOver = l.seen.over(time.Now(), l.cfg.lease)
	l.mu.Unlock()
	s.Holder, s.Lease, s.Refresh, s.Margin = l.holder, l.cfg.lease, l.cfg.refresh, l.cfg.margin
	if t != nil {
		s.Epoch, s.Held, s.TrustedUntil, s.Cause = t.Epoch(), t.Held(), t.TrustedUntil(), t.Cause()
		s.Live = !t.trust.Load().ended
	}
	return s
}

func (l *Lease) noteError(err error) {
	l.mu.Lock()
	l.stats.Failures++
	l.stats.LastError = err
	l.mu.Unlock()
}

func (l *Lease) noteUnclear(err error) {
	l.noteError(err)
	l.mu.Lock()
	l.unclearAt = time.Now()
	l.mu.Unlock()
}

func (l *Lease) noteOK() {
	l.mu.Lock()
	l.stats.Failures = 0
	l.stats.LastError = nil
	l.mu.Unlock()
}

// sighting is the record as last seen, when it last changed, and when it was
// last looked at, by the local monotonic clock.
type sighting struct {
	rec     Record
	at      time.Time
	looked  time.Time
	changed bool // it changed while we looked on: its holder was alive at that time
}

func (l *Lease) observe(rec Record) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.seen.rec
	if !l.seen.at.IsZero() && old.Epoch == rec.Epoch && old.Holder == rec.Holder &&
		old.RenewedAt.Equal(rec.RenewedAt) && old.LeaseUntil.Equal(rec.LeaseUntil) {
		l.seen.looked = now
		return
	}
	l.seen = sighting{rec: rec, at: now, looked: now, changed: !l.seen.at.IsZero()}
}

// leaseLeft is how long the seen lease lasts at most, if nobody renews it.
func (s *sighting) leaseLeft(now time.Time, def time.Duration) time.Duration {
	if s.rec.Holder == "" {
		return 0
	}
	if s.rec.Lease > 0 {
		def = s.rec.Lease
	}
	return def - now.Sub(s.at)
}

// over reports whether the seen lease has run out. If the store names no lease (a
// file's lock ends with its process), an answer counts for as long as one of ours.
func (s *sighting) over(now time.Time, def time.Duration) bool {
	switch {
	case s.rec.Holder == "":
		return false
	case s.rec.Lease > 0:
		return now.Sub(s.at) >= s.rec.Lease
	}
	return now.Sub(s.looked) >= def
}

func (l *Lease) renewed(sent time.Time) {
	l.mu.Lock()
	l.stats.LastRenewal = sent
	l.stats.Failures = 0
	l.stats.LastError = nil
	l.mu.Unlock()
}

func (l *Lease) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats.LastError
}
