package stability

import (
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
)

// WithStaleAfter sets after how much silence a connection is given up, pings
// that nobody answered included. Default 5 min. A black-holed connection is
// found much sooner: two unanswered pings are enough.
func WithStaleAfter(d time.Duration) Option {
	return func(c *config) { c.duration("WithStaleAfter", &c.keepalive.StaleAfter, d) }
}

// WithKeepalive sets everything about the health of a live connection; zero
// fields keep their defaults. It replaces what WithStaleAfter said before it.
func WithKeepalive(p keepalive.Policy) Option { return func(c *config) { c.keepalive = p } }

// WithAutoHeal sets when a reconnect loop is broken: by default after ten
// attempts in ten minutes, at most three times an hour. Policy.Disabled turns
// it off.
func WithAutoHeal(p autoheal.Policy) Option { return func(c *config) { c.autoheal = p } }

// WithHealInProcess begins a new term in this process instead of ending it,
// for programs that nobody restarts.
func WithHealInProcess() Option { return func(c *config) { c.healInProcess = true } }

// WithExit replaces os.Exit, which ends the process with code 1 when a
// reconnect loop is broken and everything was handed over.
func WithExit(exit func(code int)) Option {
	return func(c *config) {
		if exit == nil {
			c.fail("WithExit(nil): pass a function that ends the process, or WithHealInProcess")
			return
		}
		c.exit = exit
	}
}

// WithDisconnectGuard sets after how long an outage becomes an incident.
// Default 10 min.
func WithDisconnectGuard(after time.Duration) Option {
	return func(c *config) { c.duration("WithDisconnectGuard", &c.guardPolicy.StuckAfter, after) }
}

// WithGuard sets everything about incidents; zero fields keep their defaults.
// It replaces what WithDisconnectGuard said before it.
func WithGuard(p guard.Policy) Option { return func(c *config) { c.guardPolicy = p } }

// WithSink adds somebody to tell of incidents, beside the backend's store. May
// be given more than once. A sink that implements io.Closer is closed by
// Close.
func WithSink(s guard.Sink) Option {
	return func(c *config) {
		if missing(s) {
			c.fail("WithSink(nil): pass a sink, for example guard.NewWebhook(url)")
			return
		}
		c.sinks = append(c.sinks, s)
	}
}

// WithVersionRefresh looks up the current WhatsApp Web version when the
// service refuses ours as outdated, and uses it from the next attempt on. It
// goes through WithTransport. Only this Manager's clients use it, by their
// GetClientPayload; a newer version of the process's (store.SetWAVersion) wins.
func WithVersionRefresh() Option { return func(c *config) { c.versionRefresh = true } }

// WithStartJitter bounds the random pause before the first attempt of a term
// that follows a crash or a heal, so that a fleet does not return in one
// instant. A planned hand-over has none. Default 1 s.
func WithStartJitter(d time.Duration) Option {
	return func(c *config) { c.duration("WithStartJitter", &c.startJitter, d) }
}
