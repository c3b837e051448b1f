package stability

import (
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
)

// WithKeepalive sets everything about the health of a live connection; zero
// fields keep their defaults. A connection is given up after two pings that
// nobody answered, or after StaleAfter of silence, 5 min.
func WithKeepalive(p keepalive.Policy) Option { return func(c *config) { c.keepalive = p } }

// WithAutoHeal sets when a reconnect loop is broken: by default after ten
// attempts in ten minutes, at most three times an hour. The process then ends
// (WithExit), or with Policy.InProcess a new term begins in it. Policy.Disabled
// turns all of it off.
func WithAutoHeal(p autoheal.Policy) Option { return func(c *config) { c.autoheal = p } }

// WithExit replaces os.Exit, which ends the process with code 1 when a
// reconnect loop is broken and everything was handed over.
func WithExit(exit func(code int)) Option {
	return func(c *config) {
		if exit == nil {
			c.fail("WithExit(nil): pass a function that ends the process, or set InProcess in WithAutoHeal")
			return
		}
		c.exit = exit
	}
}

// WithGuard sets everything about incidents; zero fields keep their defaults.
// An outage becomes one after StuckAfter, 10 min.
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
