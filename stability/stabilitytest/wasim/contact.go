package wasim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"
)

// Contact is somebody to chat with: an account with a real whatsmeow client
// on it, paired, connected, and reconnecting by itself. It is safe for
// concurrent use; Sends take turns.
type Contact struct {
	s    *Service
	acct *Account
	dev  *store.Device
	cli  *whatsmeow.Client
	opts []ContactOption

	sending chan struct{} // one token: a channel, so that waiting for it is durable in a bubble
	closing chan struct{}
	ended   chan struct{}
	cancel  context.CancelFunc
	ctx     context.Context

	mu            sync.Mutex
	up            chan struct{} // closed while logged in
	isUp          bool
	restart       bool         // the service asked for it: come back at once
	link          *contactLink // of the current attempt
	received      []Received
	undecryptable int
	receipts      []events.Receipt
	onMessage     []func(Received)
}

// Received is a message that a contact received.
type Received struct {
	ID     string
	Chat   types.JID
	Sender types.JID
	Text   string
	Retry  int // how often it was sent again after retry receipts
	At     time.Time
	Event  *events.Message
}

// ContactOption configures a contact before it connects.
type ContactOption func(*Contact)

// WithClient sees the contact's client before it connects, for example to
// change its settings.
func WithClient(f func(*whatsmeow.Client)) ContactOption {
	return func(c *Contact) { f(c.cli) }
}

// reconnectPause is what a contact waits between two connections, settle what
// whatsmeow needs to notice that one has ended.
const (
	reconnectPause = time.Second
	settle         = 20 * time.Millisecond
)

// NewContact makes a contact, on a new account or on the one that the phone
// number has already, pairs it, and returns when it is connected; ctx bounds
// that. The service closes it with itself.
func (s *Service) NewContact(ctx context.Context, phone string, opts ...ContactOption) (*Contact, error) {
	s.mu.Lock()
	acct := s.accounts[phone]
	if acct == nil {
		acct = s.newAccount(phone)
	}
	for _, id := range acct.ids() { // a contact loaded from a file has no client any more
		if acct.devices[id].contact {
			acct.devices[id].remove(true)
		}
	}
	s.mu.Unlock()

	c := &Contact{
		s: s, acct: acct, dev: NewMemoryDevice(), opts: opts, sending: make(chan struct{}, 1),
		closing: make(chan struct{}), ended: make(chan struct{}), up: make(chan struct{}),
	}
	c.sending <- struct{}{}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.dev.PushName = acct.pushName
	if s.opt.lidFirst {
		c.dev.LIDMigrationTimestamp = 1
	}
	c.cli = whatsmeow.NewClient(c.dev, nil)
	c.cli.EnableAutoReconnect = false
	c.cli.DisableLoginAutoReconnect = true
	c.cli.ManualHistorySyncDownload = true
	c.cli.EnableDecryptedEventBuffer = true
	c.cli.SynchronousAck = true
	c.cli.BackgroundEventCtx = c.ctx
	c.cli.RefreshCAT = func(context.Context) error { return fmt.Errorf("wasim: contacts have no CAT") }
	c.cli.SetWebsocketHTTPClient(c.httpClient())
	c.cli.SetPreLoginHTTPClient(c.httpClient())
	c.cli.SetMediaHTTPClient(c.httpClient())
	c.cli.AddEventHandler(c.handle)
	for _, o := range opts {
		o(c)
	}
	s.mu.Lock()
	s.contacts = append(s.contacts, c)
	s.mu.Unlock()
	go c.run()
	if err := c.WaitOnline(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("wasim: contact %s did not get online: %w", phone, err)
	}
	return c, nil
}

// Label is the label of the contacts' connections, for Injection.From.
const Label = "contact"

func (c *Contact) httpClient() *http.Client {
	t := c.s.Transport(Label)
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l := &contactLink{Conn: raw, closed: make(chan struct{})}
		c.mu.Lock()
		c.link = l
		c.mu.Unlock()
		return l, nil
	}
	return &http.Client{Transport: t, Timeout: 15 * time.Second}
}

// contactLink tells when whatsmeow has closed the connection, which it does
// when reading has failed.
type contactLink struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *contactLink) Close() error {
	defer l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// run connects again and again until Close.
func (c *Contact) run() {
	defer close(c.ended)
	for {
		c.mu.Lock()
		c.link = nil
		c.mu.Unlock()
		err := c.cli.ConnectContext(c.ctx)
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if err == nil && l != nil {
			select {
			case <-l.closed:
			case <-c.closing: // the service ends the connection: see Close
				c.s.hangUp(l.LocalAddr())
				<-l.closed
			}
		}
		c.setUp(false)
		c.mu.Lock()
		pause := reconnectPause
		if c.restart {
			pause, c.restart = settle, false
		}
		c.mu.Unlock()
		select {
		case <-c.closing:
			pause = settle
		default:
		}
		time.Sleep(pause)
		c.cli.Disconnect() // the socket is gone: this only settles its state
		select {
		case <-c.closing:
			return
		default:
		}
	}
}

// hangUp ends the service's side of the connection from this address. It
// falls silent first, so that the client is not cut amid an answer: whatsmeow
// has a data race there.
func (s *Service) hangUp(from net.Addr) {
	var found *conn
	s.mu.Lock()
	for x := range s.conns {
		if x.link.RemoteAddr().String() == from.String() {
			x.silent.Store(true)
			found = x
		}
	}
	s.mu.Unlock()
	if found != nil {
		time.Sleep(settle)
		_ = found.link.Close()
	}
}

func (c *Contact) handle(evt any) {
	switch e := evt.(type) {
	case *events.QR:
		if err := c.acct.Phone().Scan(e.Codes[0]); err == nil {
			c.s.mu.Lock()
			if p := c.s.pairings[refOf(e.Codes[0])]; p != nil && p.dev != nil {
				p.dev.contact = true
			}
			c.s.mu.Unlock()
		}
	case *events.ManualLoginReconnect:
		c.mu.Lock()
		c.restart = true
		c.mu.Unlock()
	case *events.Connected:
		c.setUp(true)
	case *events.Message:
		if !hasContent(e.Message) {
			return
		}
		r := Received{
			ID: e.Info.ID, Chat: e.Info.Chat, Sender: e.Info.Sender, Text: textOf(e.Message),
			Retry: e.RetryCount, At: time.Now(), Event: e,
		}
		c.mu.Lock()
		c.received = append(c.received, r)
		fs := slices.Clone(c.onMessage)
		c.mu.Unlock()
		for _, f := range fs {
			f(r)
		}
	case *events.UndecryptableMessage:
		c.mu.Lock()
		c.undecryptable++
		c.mu.Unlock()
	case *events.Receipt:
		c.mu.Lock()
		c.receipts = append(c.receipts, *e)
		c.mu.Unlock()
	case *events.KeepAliveTimeout:
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if e.ErrorCount >= 2 && l != nil {
			_ = l.Conn.Close() // reading fails, whatsmeow closes, run connects again
		}
	}
}

// hasContent is false for what only carries keys or talks to the client: in a
// group each message comes with the sender key as an event of its own.
func hasContent(m *waE2E.Message) bool {
	rest := proto.Clone(m).(*waE2E.Message)
	rest.SenderKeyDistributionMessage, rest.MessageContextInfo, rest.ProtocolMessage = nil, nil, nil
	return proto.Size(rest) > 0
}

func textOf(m *waE2E.Message) string {
	if t := m.GetConversation(); t != "" {
		return t
	}
	return m.GetExtendedTextMessage().GetText()
}

func (c *Contact) setUp(up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case up && !c.isUp:
		close(c.up)
	case !up && c.isUp:
		c.up = make(chan struct{})
	}
	c.isUp = up
}

// WaitOnline waits until the contact is connected and logged in.
func (c *Contact) WaitOnline(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-c.ended:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send sends a text to a user or a group and returns the message's id once
// the service has acknowledged it. It waits until the contact is online.
func (c *Contact) Send(ctx context.Context, to types.JID, text string) (id string, err error) {
	return c.SendMessage(ctx, to, &waE2E.Message{Conversation: proto.String(text)})
}

// SendMessage is Send for any message.
func (c *Contact) SendMessage(ctx context.Context, to types.JID, m *waE2E.Message) (id string, err error) {
	select {
	case <-c.sending:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { c.sending <- struct{}{} }()
	if err = c.WaitOnline(ctx); err != nil {
		return "", fmt.Errorf("wasim: contact is offline: %w", err)
	}
	var resp whatsmeow.SendResponse
	for { // a send that took too long before it reached the wire is made again
		id = c.cli.GenerateMessageID()
		c.s.mu.Lock()
		c.s.seen.wrote(id, written{c.acct, m, time.Now()})
		c.s.mu.Unlock()
		resp, err = c.cli.SendMessage(ctx, to, m, whatsmeow.SendRequestExtra{ID: id})
		if !errors.Is(err, errWindowBroken) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("wasim: contact sending to %s: %w", to, err)
	}
	return resp.ID, nil
}

// OnMessage calls f for each message that comes from now on, in the client's
// event handler: a slow f delays the next message.
func (c *Contact) OnMessage(f func(Received)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onMessage = append(c.onMessage, f)
}

// Received lists the messages received so far, oldest first.
func (c *Contact) Received() []Received {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.received)
}

// Texts are the texts of Received.
func (c *Contact) Texts() []string {
	var out []string
	for _, r := range c.Received() {
		out = append(out, r.Text)
	}
	return out
}

// Receipts lists the receipts that came for messages of this contact.
func (c *Contact) Receipts() []events.Receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.receipts)
}

// Undecryptable is how many messages did not decrypt at first; those that
// came again after a retry receipt are in Received, with Retry > 0.
func (c *Contact) Undecryptable() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.undecryptable
}

// Account is the contact's account.
func (c *Contact) Account() *Account { return c.acct }

// JID is the contact's phone number address.
func (c *Contact) JID() types.JID { return c.acct.JID() }

// Client is the contact's whatsmeow client. In a synctest bubble do not call
// its Disconnect.
func (c *Contact) Client() *whatsmeow.Client { return c.cli }

// Close ends the connection from the service's side, so that no goroutine of
// whatsmeow is left behind, and returns when the contact has stopped.
func (c *Contact) Close() {
	c.mu.Lock()
	select {
	case <-c.closing:
	default:
		close(c.closing)
	}
	c.mu.Unlock()
	<-c.ended
	c.cancel()
}
