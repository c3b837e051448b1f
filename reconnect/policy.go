package reconnect

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// NoJitter is the value of Policy.Jitter that turns jitter off.
const NoJitter = -1

// Policy holds every number of this package. A zero field means its default.
type Policy struct {
	// Backoff: the n-th retry waits InitialDelay·Factor^(n-1), at most
	// MaxDelay, then randomised by ±Jitter. The cap is on the value before
	// jitter: with the defaults 60 s may become 72 s.
	InitialDelay time.Duration // 1 s
	MaxDelay     time.Duration // 60 s
	Factor       float64       // 2; at least 1
	Jitter       float64       // 0.2; below 1; NoJitter for none

	// StableAfter is how long a connection must have been up before its end
	// starts a new series. A shorter life continues the old one, so that
	// accept-then-drop is throttled as much as refusing. 60 s.
	StableAfter time.Duration
	// ServiceFloor is the least delay after service_unavailable. 30 s.
	ServiceFloor time.Duration
	// ReplacedPause is the pause after a first connection_replaced. 2 min:
	// long enough for a rolling deploy or a human to end the other copy.
	ReplacedPause time.Duration
	// ReplacedWindow: a second replacement within it parks the connection
	// (SlowRetry). Longer than ReplacedPause + SlowRetry, with jitter, so
	// that a parked connection stays parked while the other copy lives. 1 h.
	ReplacedWindow time.Duration
	// SlowRetry is the interval for client_outdated, connect_rejected and a
	// parked connection. 15 min.
	SlowRetry time.Duration
	// StartJitter is the longest random pause before the first attempt of a
	// term that follows a crash or a heal, so that a fleet does not come back
	// in one instant. A planned hand-over has none. 1 s.
	StartJitter time.Duration
	// StoreRetry is how soon to look again after store_unavailable. 5 s.
	StoreRetry time.Duration

	// YieldAfter: a holder gives the lock up so long after the first attempt of
	// its term that failed for a reason that may be its own (Cause.OfInstance).
	// It does so at once where it would stop or become slow. 2 min; NoYield for
	// never.
	YieldAfter time.Duration
	// YieldSpacing is how long such a holder keeps the lock at least when it got it
	// back; twice as long each time, at most MaxYieldSpacing. 30 s and 10 min.
	YieldSpacing    time.Duration
	MaxYieldSpacing time.Duration

	BanDefault time.Duration // a temporary ban without a time. 24 h
	BanMax     time.Duration // the longest ban that is believed. 30 days

	RestartBurst    int // restart_required, requested and redelivery in a row that are immediate. 5
	RejectTries     int // slow tries after connect_rejected before it stops. 3
	BadSessionTries int // bad_session in a row before each repair. 3

	// LoopWindow is how long an attempt stays in State.Attempts. 10 min.
	LoopWindow time.Duration
	// RestartWindow is how long a restart stays in State.Restarts. 1 h.
	RestartWindow time.Duration
}

// Defaults returns p with every zero field replaced by its default.
func (p Policy) Defaults() Policy {
	def(&p.InitialDelay, time.Second)
	def(&p.MaxDelay, 60*time.Second)
	def(&p.Factor, 2)
	def(&p.Jitter, 0.2)
	def(&p.StableAfter, 60*time.Second)
	def(&p.ServiceFloor, 30*time.Second)
	def(&p.ReplacedPause, 2*time.Minute)
	def(&p.ReplacedWindow, time.Hour)
	def(&p.SlowRetry, 15*time.Minute)
	def(&p.StoreRetry, 5*time.Second)
	def(&p.StartJitter, time.Second)
	def(&p.YieldAfter, 2*time.Minute)
	def(&p.YieldSpacing, 30*time.Second)
	def(&p.MaxYieldSpacing, 10*time.Minute)
	def(&p.BanDefault, 24*time.Hour)
	def(&p.BanMax, 30*24*time.Hour)
	def(&p.RestartBurst, 5)
	def(&p.RejectTries, 3)
	def(&p.BadSessionTries, 3)
	def(&p.LoopWindow, 10*time.Minute)
	def(&p.RestartWindow, time.Hour)
	return p
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// maxPolicy bounds every duration, so that sums cannot overflow.
const maxPolicy = 366 * 24 * time.Hour

// Validate reports the first field that is not valid, by name. Zero fields
// count as their defaults.
func (p Policy) Validate() error {
	p = p.Defaults()
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"InitialDelay", p.InitialDelay}, {"MaxDelay", p.MaxDelay}, {"StableAfter", p.StableAfter},
		{"ServiceFloor", p.ServiceFloor}, {"ReplacedPause", p.ReplacedPause},
		{"ReplacedWindow", p.ReplacedWindow}, {"SlowRetry", p.SlowRetry}, {"StoreRetry", p.StoreRetry},
		{"StartJitter", p.StartJitter}, {"YieldAfter", max(0, p.YieldAfter)}, {"YieldSpacing", p.YieldSpacing}, {"MaxYieldSpacing", p.MaxYieldSpacing}, {"BanDefault", p.BanDefault}, {"BanMax", p.BanMax}, {"LoopWindow", p.LoopWindow},
		{"RestartWindow", p.RestartWindow},
	} {
		if f.value < 0 || f.value > maxPolicy {
			return fmt.Errorf("reconnect: Policy.%s is %v: it must be positive and at most %v", f.name, f.value, maxPolicy)
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{
		{"RestartBurst", p.RestartBurst}, {"RejectTries", p.RejectTries}, {"BadSessionTries", p.BadSessionTries},
	} {
		if f.value < 0 || f.value > 1000 {
			return fmt.Errorf("reconnect: Policy.%s is %d: it must be between 1 and 1000", f.name, f.value)
		}
	}
	switch {
	case p.YieldAfter < 0 && p.YieldAfter != NoYield:
		return fmt.Errorf("reconnect: Policy.YieldAfter is %v: it must be positive, or NoYield", p.YieldAfter)
	case p.MaxYieldSpacing < p.YieldSpacing:
		return fmt.Errorf("reconnect: Policy.MaxYieldSpacing (%v) is shorter than Policy.YieldSpacing (%v)", p.MaxYieldSpacing, p.YieldSpacing)
	// Written so that NaN fails.
	case !(p.Factor >= 1 && p.Factor <= 1000):
		return fmt.Errorf("reconnect: Policy.Factor is %v: it must be between 1 and 1000", p.Factor)
	case p.Jitter != NoJitter && !(p.Jitter > 0 && p.Jitter < 1):
		return fmt.Errorf("reconnect: Policy.Jitter is %v: it must be between 0 and 1, or NoJitter", p.Jitter)
	case p.MaxDelay < p.InitialDelay:
		return fmt.Errorf("reconnect: Policy.MaxDelay (%v) is shorter than Policy.InitialDelay (%v)", p.MaxDelay, p.InitialDelay)
	case p.BanMax < p.BanDefault:
		return fmt.Errorf("reconnect: Policy.BanMax (%v) is shorter than Policy.BanDefault (%v)", p.BanMax, p.BanDefault)
	case p.ReplacedWindow <= p.upper(p.ReplacedPause)+p.upper(p.SlowRetry):
		return fmt.Errorf("reconnect: Policy.ReplacedWindow (%v) must be longer than ReplacedPause + SlowRetry with jitter (%v): raise it or shorten them",
			p.ReplacedWindow, p.upper(p.ReplacedPause)+p.upper(p.SlowRetry))
	}
	return nil
}

// jitter is the jitter factor with NoJitter resolved.
func (p Policy) jitter() float64 {
	if p.Jitter == NoJitter {
		return 0
	}
	return p.Jitter
}

// upper is the longest that d can become by jitter.
func (p Policy) upper(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)*p.jitter())
}

// nominal is the delay before the n-th retry (n from 1), without jitter.
func (p Policy) nominal(n int) time.Duration {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.InitialDelay),
		backoff.WithMultiplier(p.Factor),
		backoff.WithMaxInterval(p.MaxDelay),
		backoff.WithMaxElapsedTime(0),
		// Its own randomness cannot be replayed, and a decision must be
		// repeatable when a better reason arrives: spread does it instead.
		backoff.WithRandomizationFactor(0),
	)
	d := b.NextBackOff()
	for i := 1; i < min(n, 10_000) && d < p.MaxDelay; i++ {
		next := b.NextBackOff()
		if next == d { // Factor 1: it will never grow
			break
		}
		d = next
	}
	return d
}

// spread randomises d by ±Jitter with u in [0,1).
func (p Policy) spread(d time.Duration, u float64) time.Duration {
	return d + time.Duration(float64(d)*p.jitter()*(2*u-1))
}

// raise lifts d to the floor. A delay below it is spread above it, so that a
// fleet does not return in one instant.
func (p Policy) raise(d, floor time.Duration, u float64) time.Duration {
	if d >= floor {
		return d
	}
	return floor + time.Duration(float64(floor)*p.jitter()*u)
}
