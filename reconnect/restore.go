package reconnect

import (
	"maps"
	"slices"
	"time"
)

// Resume says what to do at the start of a term or a process, from the saved
// state. The choices are to wait out a ban, a pause or a backoff that has
// begun, to offer pairing, or to connect now. It changes no counter.
//
// A restart is a person's way to say "try now": a slow retry is shortened to
// MaxDelay, and what was stopped gets one try. A ban and the pause after a
// replacement are not shortened, and neither is anything for a process that gave
// the lock up and took it back (see Began). A restart does not skip a backoff, so
// that a program in a crash loop does not hammer the service.
func (m *Machine) Resume(now time.Time) Decision {
	m.begin(now)
	d := Decision{
		Reason: m.s.LastDisconnectReason, Code: m.s.LastDisconnectCode, Detail: m.s.LastDisconnectDetail,
		Action: ActionRetry,
	}
	switch {
	case m.turn == turnStopped:
		d.Action = ActionStop
	case m.s.Status == StatusNeedsPairing:
		d.Action = ActionPair
		if m.s.LastDisconnectReason.Action() == ActionStop {
			d.Action = ActionStop
		}
	case m.s.NotBefore.After(now):
		d.Action = ActionWait
	case m.turn == turnFirst: // it has not tried yet
	case m.s.NextRetryAt.After(now):
		d.Delay = m.s.NextRetryAt.Sub(now)
		if d.Reason == ReasonConnectionReplaced {
			d.Action = ActionWait
		} else if m.turn != turnAgain {
			d.Delay = min(d.Delay, m.p.upper(m.p.MaxDelay))
		}
	}
	m.schedule(&d, now)
	return d
}

// begin makes the loaded state fit the present, once: a new process is not
// connected, no instant but a wait lies in the future, and no wait is longer
// than the policy can have meant.
func (m *Machine) begin(now time.Time) {
	if m.begun {
		return
	}
	m.begun = true
	s := &m.s

	for _, t := range []*time.Time{&s.ConnectedAt, &s.LastDisconnectAt, &s.FirstDisconnectAt, &s.DisconnectedSince, &s.UpdatedAt} {
		if t.After(now) {
			*t = now
		}
	}
	s.Attempts = instants(s.Attempts, now, m.p.LoopWindow)
	s.Restarts = instants(s.Restarts, now, m.p.RestartWindow)
	s.Replacements = instants(s.Replacements, now, m.p.ReplacedWindow)
	s.Yields = soundYields(s.Yields, now)
	for _, n := range []*int{&s.RetryCount, &s.Failures, &s.RestartStreak, &s.RejectStreak, &s.BadSessionStreak} {
		*n = min(max(*n, 0), maxCount)
	}

	if last := now.Add(m.p.BanMax); s.NotBefore.After(last) {
		s.NotBefore = last
	}
	longest := max(m.p.MaxDelay, m.p.ServiceFloor, m.p.ReplacedPause, m.p.SlowRetry, m.p.StoreRetry)
	last := now.Add(m.p.upper(longest))
	if s.NotBefore.After(last) {
		last = s.NotBefore
	}
	if s.NextRetryAt.After(last) {
		s.NextRetryAt = last
	}

	switch s.Status {
	case StatusNeedsPairing:
	case StatusDisconnected:
		// The outage goes on, and so does its backoff.
		m.counted = !s.DisconnectedSince.IsZero() && s.LastDisconnectReason != ReasonNone && s.LastDisconnectReason.Counts()
	default:
		// The process died while connected, or there has never been one:
		// nobody has seen this outage begin before now.
		if s.Status == StatusConnected {
			s.LastDisconnectAt, s.LastDisconnectReason = now, ReasonHolderLost
			s.LastDisconnectCode, s.LastDisconnectDetail = 0, ""
			if s.FirstDisconnectReason == ReasonNone {
				s.FirstDisconnectAt, s.FirstDisconnectReason, s.Yields = now, ReasonHolderLost, nil
			}
		}
		s.Status = StatusDisconnected
		s.DisconnectedSince = time.Time{}
		s.NextRetryAt = time.Time{}
	}
	if s.DisconnectedSince.IsZero() {
		s.DisconnectedSince = now
	}
}

// instants makes a loaded list usable: in order, nothing in the future,
// nothing before the window, bounded.
func instants(list []time.Time, now time.Time, length time.Duration) []time.Time {
	for i := range list {
		if list[i].After(now) {
			list[i] = now
		}
	}
	slices.SortFunc(list, time.Time.Compare)
	return window(list, now, length)
}

func clone(s State) State {
	s.Attempts = slices.Clone(s.Attempts)
	s.Restarts = slices.Clone(s.Restarts)
	s.Replacements = slices.Clone(s.Replacements)
	s.Yields = slices.Clone(s.Yields)
	s.Unknown = maps.Clone(s.Unknown)
	return s
}

// eachTime visits every instant of s.
func eachTime(s *State, visit func(*time.Time)) {
	for _, t := range []*time.Time{
		&s.ConnectedAt, &s.LastDisconnectAt, &s.FirstDisconnectAt, &s.DisconnectedSince, &s.NextRetryAt, &s.NotBefore, &s.UpdatedAt,
	} {
		visit(t)
	}
	for _, list := range [][]time.Time{s.Attempts, s.Restarts, s.Replacements} {
		for i := range list {
			visit(&list[i])
		}
	}
	for i := range s.Yields {
		visit(&s.Yields[i].At)
	}
}
