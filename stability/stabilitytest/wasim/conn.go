package wasim

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/types"
)

type node = waBinary.Node
type attrs = waBinary.Attrs

var (
	errFaulted = errors.New("fault")
	errRefused = errors.New("refused")
)

// conn is one client connection. Three goroutines at most: serve (TLS,
// handshake, then reading and handling stanzas one by one), the writer that
// empties the outbox, and short-lived ones for delays.
type conn struct {
	s      *Service
	link   *link
	from   string
	frames framing

	static  [32]byte // the client's Noise key
	payload *waWa6.ClientPayload
	enc     cipher.AEAD // of the writer only
	dec     cipher.AEAD // of the reader only
	wn, rn  uint32

	out    *outbox
	ending atomic.Bool // a FIN is on its way
	silent atomic.Bool // swallow stanzas in both directions

	// guarded by s.mu
	ws       *websocket.Conn
	dev      *Device // after login
	pair     *pairing
	loggedIn bool // past success
	loginAt  time.Time
	stanzas  int // received after login
	held     *[]node
	heals    map[*Injection]func()
}

func (c *conn) setWS(ws *websocket.Conn) {
	c.frames = framing{ws: ws}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.ws = ws
}

func (c *conn) deviceID() string {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.dev == nil {
		return ""
	}
	return c.dev.jid().String()
}

// send queues a stanza. It never blocks. While the connection is silent the
// stanza is dropped: what has to arrive is in the device's pending list.
func (c *conn) send(n node) {
	if !c.silent.Load() {
		c.out.push(outItem{n: &n})
	}
}

// then queues f behind what was sent.
func (c *conn) then(f func()) { c.out.push(outItem{f: f}) }

// closeAfter ends the connection with a FIN, d after what is queued.
func (c *conn) closeAfter(d time.Duration) {
	c.ending.Store(true)
	c.then(func() {
		c.link.sleep(d)
		c.shutdown()
	})
}

// shutdown sends FIN, and closes for good if the client does not.
func (c *conn) shutdown() {
	c.ending.Store(true)
	c.link.fin()
	c.s.spawn(func() {
		c.link.sleep(5 * time.Second)
		c.close()
	})
}

func (c *conn) close() {
	c.link.fin()
	_ = c.link.Close()
	c.out.close()
}

// finish is the last thing serve does.
func (c *conn) finish() {
	c.close()
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	delete(c.s.conns, c)
	if c.dev != nil && c.dev.conn == c {
		c.dev.conn = nil
	}
	if c.dev != nil {
		c.dev.lastEnd = time.Now()
		c.dev.stats.BytesIn += c.link.in.Load()
		c.dev.stats.BytesOut += c.link.out.Load()
	}
	if c.pair != nil {
		c.pair.end(c.s)
	}
}

func (c *conn) writeLoop() {
	for {
		it, ok := c.out.pop()
		if !ok {
			return
		}
		if it.f != nil {
			it.f()
			continue
		}
		plain, err := waBinary.Marshal(*it.n)
		if err != nil {
			panic(fmt.Errorf("wasim: marshalling a stanza: %w", err))
		}
		frame := c.enc.Seal(nil, nonce(c.wn), plain, nil)
		c.wn++
		if c.frames.write(frame) != nil {
			_ = c.link.Close()
			return
		}
	}
}

func (c *conn) readLoop() error {
	for {
		frame, err := c.frames.next()
		if err != nil {
			return err
		}
		plain, err := c.dec.Open(nil, nonce(c.rn), frame, nil)
		c.rn++
		if err != nil {
			c.s.mu.Lock()
			c.s.violation("frame %d does not open: out of order, or under other keys", c.rn-1)
			c.s.mu.Unlock()
			return fmt.Errorf("frame does not open: %w", err)
		}
		if plain, err = waBinary.Unpack(plain); err != nil {
			return err
		}
		n, err := waBinary.Unmarshal(plain)
		if err != nil {
			return err
		}
		c.handle(n)
	}
}

func (c *conn) handle(n *node) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.dev != nil {
		c.dev.count(n, true)
	}
	if c.loggedIn {
		c.stanzas++
		defer c.s.stanzaSeen(c)
	}
	if c.silent.Load() || c.ending.Load() {
		return
	}
	switch {
	case n.Tag == "iq":
		c.handleIQ(n)
	case n.Tag == "ib" && child(n, "unified_session") != nil:
		// newer clients send it when they pair and when they become available
	case c.dev == nil && c.s.known[c.static]:
		c.s.seen.stray(n.Tag)
	case c.dev == nil && n.Tag == "ack":
		// of what it was asked while it pairs
	case c.dev == nil:
		c.s.violation("<%s> before login", n.Tag)
	case n.Tag == "message":
		c.handleMessage(n)
	case n.Tag == "receipt":
		c.handleReceipt(n)
	case n.Tag == "ack":
		c.handleAck(n)
	case n.Tag == "presence":
		if name := str(n, "name"); name != "" {
			c.dev.acct.pushName = name
		}
	case n.Tag == "chatstate":
	default:
		c.unknown(n)
	}
}

func (c *conn) unknown(n *node) {
	u := Unknown{Tag: n.Tag, XMLNS: str(n, "xmlns"), Type: str(n, "type"), XML: xml(n)}
	if c.dev != nil {
		u.Device = c.dev.jid()
	}
	if ch := n.GetChildren(); len(ch) > 0 {
		u.Child = ch[0].Tag
	}
	if n.Tag == "iq" { // once it is on record
		defer c.iqError(n, 501, "feature-not-implemented")
	}
	if f := c.s.opt.onUnknown; f != nil {
		c.s.mu.Unlock()
		ok := f(u)
		c.s.mu.Lock()
		if ok {
			return
		}
	}
	c.s.seen.unknown = append(c.s.seen.unknown, u)
	if c.s.opt.tb != nil {
		c.s.opt.tb.Helper()
		c.s.opt.tb.Errorf("wasim: unknown stanza from %s: %s", u.Device, u.XML)
	}
}

// outbox is an unbounded queue between whoever sends and the writer: nothing
// in the service waits for a client to read.
type outbox struct {
	mu     sync.Mutex
	items  []outItem
	wake   chan struct{}
	closed bool
}

type outItem struct {
	n *node
	f func()
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) push(it outItem) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.items = append(o.items, it)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) pop() (outItem, bool) {
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return outItem{}, false
		}
		if len(o.items) > 0 {
			it := o.items[0]
			o.items[0] = outItem{}
			o.items = o.items[1:]
			o.mu.Unlock()
			return it, true
		}
		o.mu.Unlock()
		<-o.wake
	}
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed, o.items = true, nil
		close(o.wake)
	}
}

// xml prints a stanza. The method for it has another name in newer versions of
// whatsmeow.
func xml(n *node) string {
	if older, ok := any(n).(interface{ XMLString() string }); ok {
		return older.XMLString()
	}
	return fmt.Sprint(n)
}

// str and jid read attributes; a missing one, or one of another type, is the
// zero value.
func str(n *node, key string) string {
	v, _ := n.Attrs[key].(string)
	return v
}

func jid(n *node, key string) types.JID {
	v, _ := n.Attrs[key].(types.JID)
	return v
}

func child(n *node, tags ...string) *node {
	v, ok := n.GetOptionalChildByTag(tags...)
	if !ok {
		return nil
	}
	return &v
}

func content(n *node, tags ...string) []byte {
	if n == nil {
		return nil
	}
	v, ok := n.GetOptionalChildByTag(tags...)
	if !ok {
		return nil
	}
	b, _ := v.Content.([]byte)
	return b
}

// closeWebsocket makes the close handshake, which waits for the client.
func (c *conn) closeWebsocket(code int) {
	c.ending.Store(true)
	c.s.mu.Lock()
	ws := c.ws
	c.s.mu.Unlock()
	if ws != nil {
		_ = ws.Close(websocket.StatusCode(code), "")
	}
	c.close()
}
