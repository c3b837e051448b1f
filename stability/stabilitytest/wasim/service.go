package wasim

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// Service is one simulated WhatsApp service. Make it with New, give its
// Transport to clients, make accounts with NewAccount, and Close it. It is
// safe for concurrent use.
//
// In a testing/synctest bubble, make and close it inside the bubble.
type Service struct {
	opt    options
	auth   *authority
	static *keys.KeyPair // the service's own Noise key
	noise  noiseKeys
	chain  []byte
	done   chan struct{}
	wg     sync.WaitGroup

	mu         sync.Mutex // never held across I/O; guards what follows
	accounts   map[string]*Account
	byLID      map[string]*Account
	groups     map[string]*Group
	conns      map[*conn]struct{}
	contacts   []*Contact
	injections []*Injection
	pairings   map[string]*pairing // by ref: connections that show QR codes
	links      map[string]*codeLink
	nextID     uint64
	seen       observed
	known      map[[32]byte]bool // Noise keys of clients that have logged in
	listener   net.Listener
	closed     bool
}

type options struct {
	log        *slog.Logger
	tb         TB
	onUnknown  func(Unknown) bool
	closeDelay time.Duration
	qrFirst    time.Duration
	qrRest     time.Duration
	phones     bool
	keyReuse   bool
	http       http.Handler
	compress   bool
	lidFirst   bool
	fewKeys    bool
	// saved keys, set by Load
	static *keys.KeyPair
}

// TB is what a Service needs of testing.TB.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Option configures a Service.
type Option func(*options)

// WithTB makes queries that the service does not know, and what the real
// protocol forbids, fail the test. If tb has a Cleanup method the service
// closes itself with it.
func WithTB(tb TB) Option { return func(o *options) { o.tb = tb } }

// WithLogger logs connections, logins and violations at debug level. Default:
// nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// OnUnknown is asked about each stanza that the service does not know; true
// accepts it: it is still answered with an error, but neither recorded nor
// reported to the TB.
func OnUnknown(f func(Unknown) bool) Option { return func(o *options) { o.onUnknown = f } }

// WithCloseDelay is how long the service waits between a last stanza
// (stream:error, failure) and the FIN behind it. Default 100 ms. With zero the
// client may see either first, or neither: the real service does that too.
func WithCloseDelay(d time.Duration) Option { return func(o *options) { o.closeDelay = d } }

// WithQRLifetime is how long the first of the six QR codes lives and each of
// the others. Default 60 s and 20 s. When the last is over the service closes
// the connection.
func WithQRLifetime(first, rest time.Duration) Option {
	return func(o *options) { o.qrFirst, o.qrRest = first, rest }
}

// WithPhones puts device 0, the phone, into every account's device list, with
// keys of its own. Senders then encrypt to it too, as with the real service.
// Messages to it are counted and dropped, the requests of the account's own
// devices to a phone that is on excepted. Default: the list holds the linked
// devices only.
func WithPhones() Option { return func(o *options) { o.phones = true } }

// AllowPreKeyReuse accepts an upload that gives an id already used to another
// key. Default: such an upload is refused and recorded as a violation.
func AllowPreKeyReuse() Option { return func(o *options) { o.keyReuse = true } }

// WithCompression negotiates permessage-deflate with clients that offer it at
// the upgrade, as newer ones do; then every frame is compressed in both
// directions. Others are served as before. Default: it is declined.
// Service.Compression counts both.
func WithCompression() Option { return func(o *options) { o.compress = true } }

// WithLIDFirst makes contacts address direct messages to the recipient's LID,
// whatever address they are given, as newer clients always do: a host then sees
// chats and senders by LID. Default: an older client addresses as it is told.
func WithLIDFirst() Option { return func(o *options) { o.lidFirst = true } }

// WithFewKeys tells a device that has no prekey at the service that one is
// left. Its client then makes 50 at its first login, and not 812: a pairing
// takes a small part of its time. For tests that pair much and are not about
// keys. Default: the service says what it has.
func WithFewKeys() Option { return func(o *options) { o.fewKeys = true } }

// WithHTTP answers HTTPS requests that are not the websocket (media, version
// checks). Default: 404. Handlers must not hijack.
func WithHTTP(h http.Handler) Option { return func(o *options) { o.http = h } }

// New starts a service that is reached in memory; Listen adds a loopback port.
// The first New of a process overrides whatsmeow.WACertPubKey: from then on
// whatsmeow clients of this process trust simulations only.
func New(opts ...Option) *Service {
	o := options{closeDelay: 100 * time.Millisecond, qrFirst: 60 * time.Second, qrRest: 20 * time.Second}
	for _, f := range opts {
		f(&o)
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opt: o, auth: processAuthority(), static: o.static,
		accounts: map[string]*Account{}, byLID: map[string]*Account{}, groups: map[string]*Group{},
		conns: map[*conn]struct{}{}, pairings: map[string]*pairing{}, links: map[string]*codeLink{},
		known: map[[32]byte]bool{}, seen: newObserved(),
		done: make(chan struct{}),
	}
	if s.static == nil {
		s.static = keys.NewKeyPair()
	}
	s.noise = newNoiseKeys(s.static)
	s.chain = s.auth.noiseChain(*s.static.Pub)
	if c, ok := o.tb.(interface{ Cleanup(func()) }); ok {
		c.Cleanup(s.Close)
	}
	return s
}

// Listen also serves on a loopback TCP port and makes Transport dial it.
func (s *Service) Listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("wasim: listening on loopback: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.listener != nil {
		_ = l.Close()
		return fmt.Errorf("wasim: already listening or closed")
	}
	s.listener = l
	s.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(raw, "", true) })
		}
	})
	return nil
}

// Addr is the loopback address, empty before Listen.
func (s *Service) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcp()
}

// tcp is Addr. The caller holds s.mu.
func (s *Service) tcp() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Close closes the contacts, then every connection, and returns when all
// goroutines of the service have ended. It first falls silent for 20 ms, so
// that clients are not cut amid an answer; then they see a FIN.
func (s *Service) Close() {
	s.mu.Lock()
	contacts := s.contacts
	s.contacts = nil
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range contacts {
		wg.Go(c.Close)
	}
	wg.Wait()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return
	}
	s.closed = true
	close(s.done)
	if s.listener != nil {
		_ = s.listener.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		c.silent.Store(true)
		conns = append(conns, c)
	}
	s.mu.Unlock()
	if len(conns) > 0 {
		time.Sleep(settle)
	}
	for _, c := range conns {
		c.close()
	}
	s.wg.Wait()
}

// violation records that a client did what the real protocol forbids.
func (s *Service) violation(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	s.seen.violations = append(s.seen.violations, msg)
	s.opt.log.Debug("protocol violation", "what", msg)
	if s.opt.tb != nil {
		s.opt.tb.Helper()
		s.opt.tb.Errorf("wasim: protocol violation: %s", msg)
	}
}

// id makes a stanza id. The caller holds s.mu.
func (s *Service) id() string {
	s.nextID++
	return fmt.Sprintf("wasim.%d", s.nextID)
}

// account finds the account of a PN or LID. The caller holds s.mu.
func (s *Service) account(jid types.JID) *Account {
	switch jid.Server {
	case types.DefaultUserServer, types.LegacyUserServer:
		return s.accounts[jid.User]
	case types.HiddenUserServer:
		return s.byLID[jid.User]
	}
	return nil
}

// device finds the device of a PN or LID. The caller holds s.mu.
func (s *Service) device(jid types.JID) *Device {
	if a := s.account(jid); a != nil {
		return a.devices[jid.Device]
	}
	return nil
}

// Account finds an account by its PN or LID, nil if there is none.
func (s *Service) Account(jid types.JID) *Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account(jid)
}

// Device finds a linked device by its PN or LID, nil if there is none.
func (s *Service) Device(jid types.JID) *Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.device(jid)
}
