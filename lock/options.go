package lock

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// Defaults. A setting that is not given is derived from the lease in the same proportions.
const (
	DefaultLease  = 90 * time.Second
	maxHolderID   = 256 // bytes
	maxCheckEvery = time.Second
	maxFastPoll   = time.Second
	minFastPoll   = 10 * time.Millisecond
	barePoll      = 500 * time.Millisecond // without a Watcher; a release is seen within this
)

type config struct {
	lease, refresh, margin        time.Duration
	callTimeout, retryDelay, poll time.Duration
	log                           *slog.Logger

	checkEvery time.Duration // derived: between suspend checks
	fastPoll   time.Duration // derived: between looks at a holder not seen alive lately
}

// Option sets one knob of a Lease. A zero duration means the default.
type Option func(*config)

// WithLease sets how long a term lasts at the store without renewal, and so how
// long others wait after a crash. Default 90 s.
func WithLease(d time.Duration) Option { return func(c *config) { c.lease = d } }

// WithRefresh sets the interval between renewals. Default a third of the lease
// (30 s). Refresh, call timeout and margin together must be less than the
// lease, so that one renewal that hangs loses nothing.
func WithRefresh(d time.Duration) Option { return func(c *config) { c.refresh = d } }

// WithMargin sets how long before the end of the lease the holder stops
// trusting it, and by how much the wall clock may run ahead before trust is
// paused. It must be less than the refresh interval. Default a ninth of the
// lease (10 s), or half the refresh interval where that is less.
func WithMargin(d time.Duration) Option { return func(c *config) { c.margin = d } }

// WithCallTimeout sets how long one call to the store may take. Default 10 s, a
// third of the refresh interval, or what fits into the lease, whichever is
// least.
func WithCallTimeout(d time.Duration) Option { return func(c *config) { c.callTimeout = d } }

// WithRetryDelay sets the first pause after a failed call; it grows by half
// each time, to at most the call timeout. Default a tenth of the call timeout
// (1 s).
func WithRetryDelay(d time.Duration) Option { return func(c *config) { c.retryDelay = d } }

// WithPoll sets how often standby looks at a lock whose holder was seen alive
// lately. Default a ninth of the lease (10 s) where the store can watch, 500 ms
// where it cannot. A holder not seen alive for half a lease is looked at every
// second, so that a crash is noticed in time.
func WithPoll(d time.Duration) Option { return func(c *config) { c.poll = d } }

// WithLogger sets where the Lease logs. Default slog.Default.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// NewHolderID makes a holder id that no other process has: the prefix, which
// may name a host or a service, a dash and 26 random letters and digits.
func NewHolderID(prefix string) string {
	prefix = strings.ToValidUTF8(prefix, "_")
	for len(prefix) > maxHolderID-32 {
		_, n := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-n]
	}
	if prefix == "" {
		prefix = "wa"
	}
	return prefix + "-" + rand.Text()
}

func checkHolder(id string) error {
	switch {
	case id == "":
		return errors.New("lock: no holder id: pass lock.NewHolderID(\"prefix\") or an id that no other instance has")
	case !utf8.ValidString(id):
		return fmt.Errorf("lock: holder id %q is not valid UTF-8: use plain text", id)
	case len(id) > maxHolderID:
		return fmt.Errorf("lock: holder id has %d bytes: use at most %d", len(id), maxHolderID)
	}
	return nil
}

func newConfig(opts []Option, watched bool) (config, error) {
	var c config
	for _, o := range opts {
		if o != nil {
			o(&c)
		}
	}
	for _, k := range []struct {
		name string
		d    time.Duration
	}{
		{"WithLease", c.lease}, {"WithRefresh", c.refresh}, {"WithMargin", c.margin},
		{"WithCallTimeout", c.callTimeout}, {"WithRetryDelay", c.retryDelay}, {"WithPoll", c.poll},
	} {
		if k.d < 0 {
			return c, fmt.Errorf("lock: %s(%v): a duration cannot be negative: pass a positive one, or 0 for the default", k.name, k.d)
		}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.lease, DefaultLease)
	def(&c.refresh, c.lease/3)
	def(&c.margin, min(c.lease/9, c.refresh/2))
	if c.margin >= c.refresh {
		return c, fmt.Errorf("lock: WithMargin(%v) is not less than WithRefresh(%v): lower the margin", c.margin, c.refresh)
	}
	if c.refresh+c.margin >= c.lease {
		return c, fmt.Errorf("lock: WithRefresh(%v) and WithMargin(%v) do not fit into WithLease(%v): lengthen the lease or refresh more often", c.refresh, c.margin, c.lease)
	}
	def(&c.callTimeout, min(10*time.Second, c.refresh/3, (c.lease-c.refresh-c.margin)/2))
	if c.refresh+c.callTimeout+c.margin >= c.lease {
		return c, fmt.Errorf("lock: WithRefresh(%v), WithCallTimeout(%v) and WithMargin(%v) do not fit into WithLease(%v), so one renewal that hangs would lose the lock: lower the call timeout or lengthen the lease", c.refresh, c.callTimeout, c.margin, c.lease)
	}
	def(&c.retryDelay, c.callTimeout/10)
	if c.refresh+c.callTimeout+c.retryDelay+c.margin >= c.lease {
		return c, fmt.Errorf("lock: WithRetryDelay(%v) leaves no time to repeat a renewal within WithLease(%v): lower it", c.retryDelay, c.lease)
	}
	if watched {
		def(&c.poll, c.lease/9)
	} else {
		def(&c.poll, min(barePoll, c.lease/9))
	}
	c.checkEvery = min(maxCheckEvery, c.margin/2)
	c.fastPoll = min(c.poll, max(minFastPoll, min(maxFastPoll, c.lease/90)))
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.retryDelay <= 0 || c.checkEvery <= 0 || c.poll <= 0 {
		return c, fmt.Errorf("lock: WithLease(%v) is too short to be kept: use at least a millisecond", c.lease)
	}
	return c, nil
}
