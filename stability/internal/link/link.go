package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
)

var (
	// ErrEnded is the cause of a cut made by End.
	ErrEnded = errors.New("link: connection ended by us")
	// ErrCut stands for a cut without a cause.
	ErrCut = errors.New("link: connection cut")
	// ErrClosed reports that whatsmeow closed the connection, after an error
	// or because the server closed the websocket.
	ErrClosed = errors.New("link: connection closed by the client")
	// ErrDisconnected reports that whatsmeow closed the websocket in good
	// order and of its own accord: Client.Disconnect or Logout was called,
	// by the host or by whatsmeow itself.
	ErrDisconnected = errors.New("link: client disconnected")
	// ErrReset reports that the host called Client.ResetConnection, which newer
	// versions of whatsmeow have: it wants a new connection.
	ErrReset = errors.New("link: the host reset the connection")
	// ErrNotInstalled reports a Connect before Install.
	ErrNotInstalled = errors.New("link: no client: call Install first")
	// ErrOtherClient reports an Install with a second client.
	ErrOtherClient = errors.New("link: installed on another client: make a new Link for each client")
	// ErrNotEnded reports a Connect while the connection before it has not
	// been ended.
	ErrNotEnded = errors.New("link: the connection before this one has not been ended: call End on it first")
	// ErrEnding reports a dial while a connection is being ended.
	ErrEnding = errors.New("link: a connection is being ended: connect after End has returned")
	// ErrProtocol reports bytes from the server that are no websocket
	// handshake of the kind whatsmeow can use.
	ErrProtocol = errors.New("link: the server broke the websocket protocol")
	// ErrStatus reports an answer to the upgrade other than 101.
	ErrStatus = errors.New("link: the server refused the websocket")
	// ErrServerClosed reports a websocket close frame from the server.
	ErrServerClosed = errors.New("link: the server closed the websocket")
)

// Config is what a Link needs. The zero value is usable.
type Config struct {
	// Transport carries proxy, TLS settings and dialers. It is cloned, and
	// its dialers are wrapped. nil: a clone of http.DefaultTransport.
	Transport *http.Transport

	// DialTimeout bounds the TCP connection. Default 10 s.
	DialTimeout time.Duration
	// TLSHandshakeTimeout applies where Transport has none. Default 10 s.
	TLSHandshakeTimeout time.Duration
	// UpgradeTimeout bounds dial, TLS and upgrade together. Default 15 s.
	UpgradeTimeout time.Duration
	// HelloTimeout bounds the wait for the server hello, counted from the
	// client hello. Default 15 s, at most 19 s: whatsmeow gives up at 20 s.
	HelloTimeout time.Duration

	// KeepAlive is set on every TCP connection dialed for the websocket.
	// Zero: after 30 s of silence, every 10 s, dead after 3.
	KeepAlive net.KeepAliveConfig

	// Gate is the wire fence: asked before every Write on the websocket's raw
	// connection, without locks. An error cuts the connection, and the Write
	// fails. It must not block. nil: always open.
	Gate func() error

	// Logger receives a few lines at debug level. nil: none.
	Logger *slog.Logger

	// Handle sees every event of the client before the host's handlers do;
	// false keeps it from them. It is put back if the host removes all handlers
	// of its client. nil: none.
	Handle func(evt any) bool

	// Admit is asked before a received message is handled, in the goroutine
	// that handles it: false leaves it alone, unacknowledged. It is handled under
	// the context that is returned. end is called when the handlers have
	// returned. nil: all are.
	Admit func(ctx context.Context, message *waBinary.Node) (handling context.Context, end func(), ok bool)

	// Panicked is told that a handler of the host's panicked while it handled
	// evt, in the goroutine that dispatched it, before whatsmeow goes on. nil:
	// nobody is told.
	Panicked func(evt, value any, stack string)
	// Refused is told that a handler of the host's has returned false for a
	// message, likewise. nil: nobody is told.
	Refused func(id string)
	// Undecryptable is told that the message of that id could not be decrypted,
	// or is for the phone alone, likewise and before whatsmeow acknowledges it.
	// In the second case err is nil. Without the function nobody is told.
	Undecryptable func(id string, err error)

	// Malformed is told that whatsmeow itself panicked while it handled the message
	// of that id, in the goroutine that handles it and before end is called. Newer
	// versions catch that, and acknowledge the message behind this call: then
	// message is nil. With others the process would end. nil: it does.
	Malformed func(id string, message *waBinary.Node, value any, stack string)

	// Restored is told of a setting of the client's that the host had changed,
	// and that was set back before an attempt. It must not block, and not call the
	// client. nil: nobody is told.
	Restored func(setting string)

	// Compat is told what was not found of whatsmeow's inside, and what that
	// means; with an empty text that it was. It is called from any goroutine,
	// possibly often, and must not block. nil: nobody is told.
	Compat func(r Reliance, problem string)
	// Without names what is treated as not found. Tests use it.
	Without []Reliance
}

func (cfg Config) without(r Reliance) bool { return slices.Contains(cfg.Without, r) }

const maxHelloTimeout = whatsmeow.NoiseHandshakeResponseTimeout - time.Second

func (cfg Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.DialTimeout, 10*time.Second)
	def(&cfg.TLSHandshakeTimeout, 10*time.Second)
	def(&cfg.UpgradeTimeout, 15*time.Second)
	def(&cfg.HelloTimeout, 15*time.Second)
	cfg.HelloTimeout = min(cfg.HelloTimeout, maxHelloTimeout)
	if cfg.KeepAlive == (net.KeepAliveConfig{}) {
		cfg.KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
	}
	if cfg.Gate == nil {
		cfg.Gate = func() error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Restored == nil {
		cfg.Restored = func(string) {}
	}
	if cfg.Compat == nil {
		cfg.Compat = func(Reliance, string) {}
	}
	return cfg
}

// Link is one client's way to the network. Safe for concurrent use.
type Link struct {
	cfg   Config
	base  *http.Transport // template for attempts, never dials itself
	media *http.Transport

	connecting chan struct{} // semaphore: one Connect at a time
	drainSem   chan struct{} // semaphore: one drain at a time
	loops      loopCounter
	pumps      pumps
	draining   atomic.Bool
	frames     atomic.Int32 // what is known of the form of the server's hello
	inside     inside       // set by the first Install
	web        *http.Client // the client's, for the websocket
	files      *http.Client // and for media

	mu      sync.Mutex // never held across I/O or a callback
	client  *whatsmeow.Client
	gen     uint64
	current *Conn
	pending *Conn // Connect's, until its dial is seen
	ending  *Conn
	cut     error

	lookAgain bool // the client said that it is connected while a connection was being ended
	onConn    []func(*Conn)
	marker    int
	markers   map[int]chan struct{} // closed when the marker of that number comes out
	id        uint32                // of the permanent handler

	looking atomic.Bool // somebody looks whether the permanent handler is there
}

// New makes a Link for one client.
func New(cfg Config) *Link {
	cfg = cfg.withDefaults()
	l := &Link{
		cfg:        cfg,
		base:       baseTransport(cfg),
		connecting: make(chan struct{}, 1),
		drainSem:   make(chan struct{}, 1),
		markers:    make(map[int]chan struct{}),
	}
	l.web = &http.Client{
		Transport:     attemptTripper{l},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	l.loops.init(func(problem string) { l.report(LoopWords, problem) })
	l.media = l.mediaTransport()
	l.files = &http.Client{Transport: mediaTripper{l}}
	return l
}

// Install gives the client our HTTP clients, the settings under which an
// outside owner of reconnection works, and one permanent event handler.
// Call it before the first Connect and before the host adds handlers: the
// settings are plain fields of the client. A second call with the same client
// sets them again; with another client it fails with ErrOtherClient.
//
// A RefreshCAT of the host's is kept; where there is none, one is set that
// fails, since whatsmeow calls it without a check and would panic.
func (l *Link) Install(c *whatsmeow.Client) error {
	l.mu.Lock()
	first := l.client == nil
	other := !first && l.client != c
	if first {
		l.client = c
	}
	l.mu.Unlock()
	if other {
		return ErrOtherClient
	}

	l.set(c, !first)
	if first {
		l.inside = findInside(c.DangerousInternals(), l.cfg.without)
		if !l.cfg.without(HandlerTable) {
			l.inside.tags = countHandlers(c, l.counted)
		}
		_, counted := handlerList(c)
		l.inside.list = counted && !l.cfg.without(HandlerList)
		l.inside.missing(l.report)
		l.id = c.AddEventHandlerWithSuccessStatus(l.handle)
	}
	return nil
}

func (l *Link) report(r Reliance, problem string) { l.cfg.Compat(r, problem) }

type connKey struct{}

// Connect begins an attempt and runs the client's ConnectContext under a
// long-lived context of its own (which keeps ctx's values). It returns when
// whatsmeow returned. ctx ends the attempt while it is running, by a cut;
// once connected it no longer matters. One at a time: a second call waits.
//
// With a nil error the Conn is connected (it may be down again already), and
// must be ended. With an error the attempt is over and already ended, and the
// Conn, if not nil, is there to be asked.
func (l *Link) Connect(ctx context.Context) (*Conn, error) {
	select {
	case l.connecting <- struct{}{}:
		defer func() { <-l.connecting }()
	case <-ctx.Done():
		return nil, fmt.Errorf("link: waiting to connect: %w", context.Cause(ctx))
	}
	c, client, err := l.begin()
	if err != nil {
		return nil, err
	}
	l.set(client, true)
	connCtx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), connKey{}, c))
	c.cancelConn = cancel
	stop := context.AfterFunc(ctx, func() { c.Cut(context.Cause(ctx)) })

	err = client.ConnectContext(connCtx)
	if errors.Is(err, whatsmeow.ErrAlreadyConnected) && l.strangerConnected() {
		err = nil // the host did, past our dialer: it is adopted
	}
	c.settle(err == nil)
	inTime := stop()
	if err == nil && c.unseen() {
		l.adoptForeign(c)
	}
	l.mu.Lock()
	l.pending = nil
	l.mu.Unlock()
	if err == nil && inTime {
		return c, nil
	}
	if err == nil {
		err = fmt.Errorf("link: connecting: %w", context.Cause(ctx))
	} else if cause := c.Err(); cause != nil && !errors.Is(cause, ErrClosed) && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // whatsmeow only knows what it missed
	}
	// Nothing was handled yet on a failed attempt, so this takes no time. In
	// the rare case that ctx ended while the attempt succeeded it may: bound it.
	endCtx, endCancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer endCancel()
	return c, errors.Join(err, c.End(endCtx))
}

func (l *Link) begin() (*Conn, *whatsmeow.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.client == nil:
		return nil, nil, ErrNotInstalled
	case l.cut != nil:
		return nil, nil, fmt.Errorf("link: cut: %w", l.cut)
	case l.current != nil && !l.current.over():
		return nil, nil, ErrNotEnded
	}
	c := l.newConn(true)
	l.pending = c
	return c, l.client, nil
}

// Current is the newest attempt that the dialer has seen, also when the host
// called the client's Connect itself; nil if there was none.
func (l *Link) Current() *Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// Saw reports whether the dialer has seen the current connection: the newest
// attempt was upgraded to a websocket and is not down. False while the client
// says it is connected means that its connection is not ours (SetProxy was
// called after Install).
func (l *Link) Saw() bool {
	c := l.Current()
	return c != nil && c.Up() && !c.isForeign()
}

// OnConn adds a function that is called once for each attempt the dialer sees,
// without locks of ours. But whatsmeow holds its socket lock meanwhile: the
// function must not block and not call the client.
func (l *Link) OnConn(f func(*Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onConn = append(l.onConn[:len(l.onConn):len(l.onConn)], f)
}

// Cut cuts the current attempt and refuses every further dial, media
// included, until Reopen. It never blocks on the network and may be called
// from anywhere. The first cause stays.
func (l *Link) Cut(cause error) {
	if cause == nil {
		cause = ErrCut
	}
	l.mu.Lock()
	if l.cut == nil {
		l.cut = cause
	}
	conns := []*Conn{l.pending, l.current}
	installed := l.client != nil
	l.mu.Unlock()
	for _, c := range conns {
		if c != nil {
			c.Cut(cause)
		}
	}
	if installed {
		l.endOwnReconnecting()
	}
	l.media.CloseIdleConnections()
}

// Reopen allows dials again after Cut.
func (l *Link) Reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = nil
}

// Draining reports whether the queue is being drained, or a drain was given
// up: events dispatched now come from stanzas of a connection that has ended.
func (l *Link) Draining() bool { return l.draining.Load() }

// open answers whether something new may go out: nil, or why not.
func (l *Link) open() error {
	l.mu.Lock()
	err := l.cut
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("link: cut: %w", err)
	}
	return l.cfg.Gate()
}
