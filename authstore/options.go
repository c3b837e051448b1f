package authstore

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Option changes a Container. Zero values give the default, negative ones are
// refused: see Validate.
type Option func(*config)

// Validate reports each of opts that is not valid: a duration or a number that is
// negative, or a nil Option. The error matches ErrOptions. stability.New calls it for
// the options of WithAuthStoreOptions; a Container that New makes with such options
// refuses to work.
func Validate(opts ...Option) error {
	var c config
	c.apply(opts)
	return errors.Join(c.errs...)
}

// optionError says what is wrong with one option. It matches ErrOptions.
type optionError string

func (e optionError) Error() string      { return string(e) }
func (optionError) Is(target error) bool { return target == ErrOptions }

func (c *config) apply(opts []Option) {
	for _, o := range opts {
		if o == nil {
			c.fail("a nil Option: leave it out")
			continue
		}
		o(c)
	}
}

// fail remembers a bad option.
func (c *config) fail(format string, args ...any) {
	c.errs = append(c.errs, optionError("authstore: "+fmt.Sprintf(format, args...)))
}

// duration sets one duration: zero keeps the default, negative is an error.
func (c *config) duration(option string, into *time.Duration, d time.Duration) {
	if d < 0 {
		c.fail("%s(%s) is negative: pass a duration above zero, or zero for the default", option, d)
		return
	}
	*into = cmp.Or(d, *into)
}

type config struct {
	codec          codec
	callTimeout    time.Duration
	lookTimeout    time.Duration // of a look at a whole table
	outagePatience time.Duration
	windowWait     time.Duration
	senderKeyCache int
	retention      Retention
	sealNames      bool
	onIncident     []func(Incident)
	log            *slog.Logger
	errs           []error // of options that are not valid

	background  tasks
	writes      unsettledWrites
	secretTurns atomic.Int64
	loadTime    atomic.Int64 // ns that the next load gives a table, if more than callTimeout
	asked       outgoingAsked
}

// nextSecretTurn is 0, and then one more for each call.
func (c *config) nextSecretTurn() int64 { return c.secretTurns.Add(1) - 1 }

// WithCallTimeout bounds every single call of the KV. Default 10 s. The
// contexts that whatsmeow gives have no deadline. A Scan of a whole table has ten
// minutes, or this if it is longer: it takes as long as the account is large. To
// load a device it has this, and after a load that ran out of it twice as much.
func WithCallTimeout(d time.Duration) Option {
	return func(c *config) { c.duration("WithCallTimeout", &c.callTimeout, d) }
}

// WithOutagePatience is how long a store that does not answer is waited for
// before the connection is cut, if the lock is trusted that long. Default 30 s.
func WithOutagePatience(d time.Duration) Option {
	return func(c *config) { c.duration("WithOutagePatience", &c.outagePatience, d) }
}

// WithWindowWait is how long a received message waits for a send that holds
// its session. Then the send fails with ErrWindowBroken. Default 3 s.
func WithWindowWait(d time.Duration) Option {
	return func(c *config) { c.duration("WithWindowWait", &c.windowWait, d) }
}

// WithSenderKeyCache is how many bytes of group sender keys stay in memory,
// those that were used last. The others are read again when they are used.
// Default 8 MiB, which is some 20,000 keys.
func WithSenderKeyCache(bytes int) Option {
	return func(c *config) {
		if bytes < 0 {
			c.fail("WithSenderKeyCache(%d) is negative: pass a number of bytes, or zero for the default", bytes)
			return
		}
		c.senderKeyCache = cmp.Or(bytes, c.senderKeyCache)
	}
}

// WithAEAD seals every value with a, bound to its key. Values that are not
// sealed are refused: see WithPlaintextAllowed. A nil a is refused: without a cipher,
// leave the option out.
func WithAEAD(a AEAD) Option {
	return func(c *config) {
		if a == nil {
			c.fail("WithAEAD(nil): pass a cipher, for example NewAESGCM(key)")
		}
		c.codec.aead, c.codec.opener = a, a
	}
}

// WithSealingRemoved turns sealing off: rows that a has sealed are read, and
// rows that are written are plain. Container.Reseal rewrites everything;
// afterwards the key is not needed any more.
func WithSealingRemoved(a AEAD) Option {
	return func(c *config) {
		if a == nil {
			c.fail("WithSealingRemoved(nil): pass the cipher that has sealed the rows")
		}
		c.codec.aead, c.codec.opener = nil, a
	}
}

// WithPlaintextAllowed turns sealing on for existing data: beside sealed
// values, plain ones are read that were stored before WithAEAD was used. Rows
// that are written are sealed, and Container.Reseal seals all others; leave
// the option out afterwards.
func WithPlaintextAllowed() Option { return func(c *config) { c.codec.allowPlain = true } }

// WithSealedNames lets the KV see keyed hashes where names of rows would say who
// talks to whom: addresses, chats, messages. It needs WithAEAD, with which an
// account that begins has sealed names anyway; this option is for one that began
// without. Rows are moved in the background, and by Container.Reseal; one look at
// all of them, once.
//
// Pass it when every instance runs a version that knows it: an older one finds
// ErrNewerFormat from then on, and leaves the account as it is. Moved rows
// stay so without the option. The way back is Export and Restore.
func WithSealedNames() Option { return func(c *config) { c.sealNames = true } }

// WithOnIncident is told of damage that was found and contained. The Container may
// be at work meanwhile: f must not block, nor call the Container. It may be given
// more than once; all are told.
func WithOnIncident(f func(Incident)) Option {
	return func(c *config) {
		if f != nil {
			c.onIncident = append(c.onIncident, f)
		}
	}
}

// WithLogger takes log lines. Default none.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if l != nil {
			c.log = l
		}
	}
}

// IncidentKind says what was found.
type IncidentKind string

const (
	// IncidentCorrupt: a row did not parse. It was set aside and counts as
	// missing, so the protocol rebuilds it.
	IncidentCorrupt IncidentKind = "corrupt"
	// IncidentRefused: the KV refused a row for good; its change is in memory
	// only and ends with the term.
	IncidentRefused IncidentKind = "refused"
)

// Incident is damage that was contained.
type Incident struct {
	Kind IncidentKind
	Row  Kind // what kind of row
	Err  error
	At   time.Time
}

func (c *config) incident(i Incident) {
	i.At = time.Now()
	if i.Kind == IncidentRefused {
		c.log.Error("the backend refused a row; its change is in memory only", "kind", i.Kind, "row", i.Row, "error", i.Err)
	} else {
		c.log.Error("a damaged row was set aside", "kind", i.Kind, "row", i.Row, "error", i.Err)
	}
	for _, f := range c.onIncident {
		f(i)
	}
}
