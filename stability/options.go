package stability

import (
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
)

// Option configures New. All are optional but WithBackend. A zero duration, number
// or Policy field means its default. A negative one is an error of New, except
// reconnect.NoYield and authstore.Retention.Sent below zero. Nil, an empty name,
// and any other value that is not valid, are errors of New that name the option.
//
//   - WithBackend (required): where the account lives.
//   - WithQR (none): is called with each code to scan.
//   - WithObserver (none): is called with every transition, in order.
//   - WithLogger (slog.Default()): phone numbers appear at debug level only,
//     contents and keys never.
//   - WithInstanceID (unique per Manager): a fixed name lets a restarted process
//     take over at once; each living instance needs its own.
//   - WithLockOptions (lease 90 s, refresh 30 s, margin 10 s): the lease is how
//     long the lock outlives a crashed holder, the refresh the time between
//     renewals, the margin how long before the end of the lease the holder stops
//     trusting it.
//   - WithLock (built over the backend): a lock of your own.
//   - WithAuthStoreOptions (none): further options of package authstore: call
//     timeout 10 s, outage patience 30 s, window wait 3 s.
//   - WithAuthStore (built over the backend): a store of your own.
//   - WithAEAD (none: not sealed): seals the session and the messages;
//     authstore.NewAESGCM, Tink and Cloud KMS fit.
//   - WithReconnect (1 s, doubled up to 60 s, ±20 %): when to come back. At least
//     30 s after a 503; 2 min after a replacement; 15 min for what helps itself
//     rarely; a random pause of 1 s at most after a crash.
//   - WithConnectTimeout (30 s): from the handshake to being logged in.
//   - WithShutdownTimeout (5 s): for each step of a hand-over.
//   - WithPairingRounds (5): sets of codes that nobody scans, about 160 s each.
//   - WithNewClient (whatsmeow.NewClient): makes the clients of Run, for settings
//     of your own.
//   - WithWhatsmeowLogger (WithLogger's): whatsmeow's own lines, for example
//     waLog.Zerolog(log).
//   - WithPairingOnRequest (off): no code and no connection for one before
//     somebody asks: WaitQR, PairPhone, Reconnect.
//   - WithPairingClient (Chrome (Linux)): what PairPhone calls this device.
//   - WithTransport (a clone of http.DefaultTransport): proxy, TLS roots, dialer.
//   - WithKeepalive (two pings unanswered, or 5 min of silence): when a live
//     connection is given up.
//   - WithAutoHeal (10 attempts in 10 min or 10 in a row, 3 times an hour): when a
//     loop is broken; InProcess begins a new term instead of an exit.
//   - WithExit (os.Exit): how the process ends when a loop is broken.
//   - WithGuard (an outage of 10 min, refreshed every 60 s): what becomes an
//     incident, and when it is over.
//   - WithSink (none): somebody to tell of incidents.
//   - WithVersionRefresh (off): looks up the current version when ours is
//     outdated.
type Option func(*config)

// QR is a code to scan with the phone: Linked devices, Link a device.
type QR struct {
	Code      string
	ExpiresAt time.Time
}

type config struct {
	backend    Backend
	hasBackend bool
	instanceID string
	logger     *slog.Logger

	lock         lock.Lock
	lockOptions  []lock.Option
	store        authstore.Store
	storeOptions []authstore.Option
	aead         authstore.AEAD

	policy          reconnect.Policy
	connectTimeout  time.Duration
	shutdown        time.Duration
	whatsmeowLogger waLog.Logger // nil: logger's
	makeClient      func(*store.Device, waLog.Logger) *whatsmeow.Client
	pairingRounds   int
	pairOnRequest   bool
	pairingClient   whatsmeow.PairClientType
	pairingName     string

	transport *http.Transport

	keepalive      keepalive.Policy
	autoheal       autoheal.Policy
	guardPolicy    guard.Policy
	exit           func(int)
	versionRefresh bool
	sinks          []guard.Sink

	onQR      []func(QR)
	observers []func(Event)

	without []link.Reliance // parts of whatsmeow's inside not to use; tests set it

	errs []error
}

// WithBackend says where the account lives. Required. The Manager closes it.
func WithBackend(b Backend) Option {
	return func(c *config) {
		if c.hasBackend {
			c.fail("WithBackend is given twice: one Manager looks after one account in one backend")
		}
		c.backend, c.hasBackend = b, true
	}
}

// WithInstanceID names this instance in the lock. Default: unique per Manager,
// so that two copies never take each other for themselves. A name that is
// stable across restarts lets a restarted process take over at once; then it
// must be unique among the instances that are alive.
func WithInstanceID(id string) Option {
	return func(c *config) {
		if id == "" {
			c.fail("WithInstanceID(\"\") is empty: pass a name, or leave the option out for a unique one")
		}
		c.instanceID = id
	}
}

// WithLogger gets the Manager's log lines. Default: slog.Default().
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if l == nil {
			c.fail("WithLogger(nil): pass a logger, or leave the option out for slog.Default()")
			return
		}
		c.logger = l
	}
}

// WithWhatsmeowLogger gets whatsmeow's own log lines, of clients that Run or
// NewClient makes and of Logger(nil): for example waLog.Zerolog(logger). They
// name phone numbers. Default: WithLogger's slog, at debug level but for errors
// that name nobody; lines that it does not show are not rendered.
func WithWhatsmeowLogger(l waLog.Logger) Option {
	return func(c *config) {
		if missing(l) {
			c.fail("WithWhatsmeowLogger(nil): pass a logger, or leave the option out for WithLogger's")
			return
		}
		c.whatsmeowLogger = l
	}
}

// WithNewClient makes the clients of Run and NewClient, for hosts with
// settings of their own that must be there before setup runs. The function f
// makes the client with whatsmeow.NewClient, on this device and with this
// logger as they are given. It must not connect it. Default:
// whatsmeow.NewClient itself.
func WithNewClient(f func(*store.Device, waLog.Logger) *whatsmeow.Client) Option {
	return func(c *config) {
		if f == nil {
			c.fail("WithNewClient(nil): pass a function that makes a client, or leave the option out")
			return
		}
		c.makeClient = f
	}
}

// WithReconnect sets everything about reconnection; zero fields keep their
// defaults. The first delay is InitialDelay, 1 s; it doubles up to MaxDelay,
// 60 s; each is varied by ±20 %.
func WithReconnect(p reconnect.Policy) Option { return func(c *config) { c.policy = p } }

// WithConnectTimeout bounds the time from a finished handshake to being logged
// in. Dial, TLS, upgrade and handshake have bounds of their own. Default 30 s.
func WithConnectTimeout(d time.Duration) Option {
	return func(c *config) { c.duration("WithConnectTimeout", &c.connectTimeout, d) }
}

// WithShutdownTimeout bounds the hand-over: how long running handlers may go
// on before the connection is cut, and how long each step after it may take.
// Default 5 s.
func WithShutdownTimeout(d time.Duration) Option {
	return func(c *config) { c.duration("WithShutdownTimeout", &c.shutdown, d) }
}

// WithPairingRounds sets how many sets of codes Run offers one after the other
// while nobody scans; each lasts about 160 s. Then it waits for WaitQR, PairPhone
// or Reconnect. Default 5.
func WithPairingRounds(n int) Option {
	return func(c *config) {
		if n < 0 {
			c.fail("WithPairingRounds(%d) is negative: pass the number of sets of codes to offer", n)
		} else if n > 0 {
			c.pairingRounds = n
		}
	}
}

// WithPairingOnRequest offers no codes before somebody asks for them with
// WaitQR, PairPhone or Reconnect. By default codes are offered as soon as the
// account needs pairing. Not for connections by hand.
func WithPairingOnRequest() Option { return func(c *config) { c.pairOnRequest = true } }

// WithPairingClient sets how this device calls itself when PairPhone asks for a
// code: its type, and the name that the phone then shows to whoever types the
// code. The name must be a common browser and system in the form "Browser (OS)";
// WhatsApp refuses others. Default whatsmeow.PairClientChrome, "Chrome (Linux)".
func WithPairingClient(t whatsmeow.PairClientType, name string) Option {
	return func(c *config) {
		if !pairingName.MatchString(name) {
			c.fail("WithPairingClient: %q is no name that WhatsApp accepts: pass \"Browser (OS)\", as in \"Firefox (Windows)\"", name)
		}
		c.pairingClient, c.pairingName = t, name
	}
}

var pairingName = regexp.MustCompile(`^\S[^()]* \([^()]+\)$`)

// WithTransport sets how the network is reached: proxy, TLS roots, own dialer.
// It is cloned, and its dialers are wrapped. A proxy goes here and nowhere
// else: the client's own SetProxy would take the connection out of the
// Manager's hands. Default: a clone of http.DefaultTransport.
func WithTransport(t *http.Transport) Option {
	return func(c *config) {
		if t == nil {
			c.fail("WithTransport(nil): pass a transport, or leave the option out for the default one")
			return
		}
		c.transport = t
	}
}

// WithAEAD seals everything that authstore writes; see authstore.WithAEAD.
func WithAEAD(a authstore.AEAD) Option {
	return func(c *config) {
		if missing(a) {
			c.fail("WithAEAD(nil): pass a cipher, for example authstore.NewAESGCM(key)")
			return
		}
		c.aead = a
	}
}

// WithLock replaces the lock that is built over Backend.Lock.
func WithLock(l lock.Lock) Option {
	return func(c *config) {
		if missing(l) {
			c.fail("WithLock(nil): pass a lock, or leave the option out")
			return
		}
		c.lock = l
	}
}

// WithLockOptions passes options to the lock over Backend.Lock. Among them are
// lock.WithLease (90 s: how long others wait after a crash), lock.WithRefresh
// (30 s) and lock.WithMargin (10 s: how long before the lease can end the
// connection is cut).
func WithLockOptions(opts ...lock.Option) Option {
	return func(c *config) { c.lockOptions = append(c.lockOptions, given(c, "WithLockOptions", opts)...) }
}

// WithAuthStore replaces the store that is built over Backend.Auth. New writes one
// warning to the log if s lacks optional interfaces: see authstore.Store.
func WithAuthStore(s authstore.Store) Option {
	return func(c *config) {
		if missing(s) {
			c.fail("WithAuthStore(nil): pass a store, or leave the option out")
			return
		}
		c.store = s
	}
}

// WithAuthStoreOptions passes further options to the store over Backend.Auth. What
// authstore.Validate refuses is an error of New.
func WithAuthStoreOptions(opts ...authstore.Option) Option {
	return func(c *config) { c.storeOptions = append(c.storeOptions, given(c, "WithAuthStoreOptions", opts)...) }
}

// WithQR is called with each code to scan, one after the other as they expire,
// from a goroutine of the Manager's. It may call any method of the Manager.
// PrintQR draws them in a terminal.
//
// WhatsApp may ask for a passkey after a code was scanned; newer versions of
// whatsmeow know that. The program answers, in a goroutine of its own, since a
// handler holds up what comes after it: events.PairPasskeyRequest with
// client.SendPasskeyResponse, and events.PairPasskeyConfirmation with
// client.SendPasskeyConfirmation. It confirms at once if SkipHandoffUX is set,
// else when the user has found the event's Code on the phone. The Manager does
// none of this for you, and of whatsmeow only GetQRChannel confirms by itself,
// when SkipHandoffUX is set. Status.PasskeyAsked says that an answer is awaited.
// After five minutes, or when a step fails, a new code is offered.
func WithQR(f func(QR)) Option {
	return func(c *config) {
		if f == nil {
			c.fail("WithQR(nil): pass a function that shows the code")
			return
		}
		c.onQR = append(c.onQR, f)
	}
}

// WithObserver is called with every transition, in order, never under a lock.
// It may call any method of the Manager.
func WithObserver(f func(Event)) Option {
	return func(c *config) {
		if f == nil {
			c.fail("WithObserver(nil): pass a function that takes an Event")
			return
		}
		c.observers = append(c.observers, f)
	}
}
