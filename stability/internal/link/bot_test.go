package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const label = "bot"

// bot is a real client behind a Link, paired with a simulated service.
type bot struct {
	t      *testing.T
	s      *wasim.Service
	acct   *wasim.Account
	l      *Link
	client *whatsmeow.Client
	blind  bool // nobody tells the link what was received

	fenced  atomic.Pointer[error] // what the gate answers
	wire    wire
	onRecv  atomic.Pointer[func(xml string)]
	running atomic.Int64 // handlers
	pause   atomic.Int64 // what the handler takes for a receipt or message
	onEvt   atomic.Pointer[func(any)]

	mu       sync.Mutex
	readOn   map[string]uint64 // stanza id, or tag: the generation that last received it
	stale    []string          // events of stanzas of an older connection, outside of a drain
	texts    []string
	byType   map[string]int
	arrived  chan struct{} // closed and replaced at each event
	messages map[string]int
	problems map[Reliance]string
}

// blindTap stands for a logger that does not see received stanzas.
const blindTap Reliance = "tap"

func (b *bot) compat(r Reliance, problem string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems[r] = problem
}

// wire is what passes under the link's own wrapper.
type wire struct {
	mu     sync.Mutex
	writes int
	limbo  bool // between the return of a cut and the next dial
	late   int  // writes in limbo
	hook   func(n int)
}

type wireConn struct {
	net.Conn
	w *wire
}

func (c *wireConn) SetLinger(sec int) error {
	return c.Conn.(interface{ SetLinger(int) error }).SetLinger(sec)
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	c.w.writes++
	n, hook := c.w.writes, c.w.hook
	if c.w.limbo {
		c.w.late++
	}
	c.w.mu.Unlock()
	if hook != nil {
		hook(n)
	}
	return c.Conn.Write(p)
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// tapLog sees received stanzas in the goroutine that read them.
type tapLog struct {
	waLog.Logger
	b *bot
}

func (g tapLog) Sub(module string) waLog.Logger {
	if module == "Recv" {
		return recvLog{waLog.Noop, g.b}
	}
	return waLog.Noop
}

type recvLog struct {
	waLog.Logger
	b *bot
}

func (g recvLog) Debugf(_ string, args ...any) {
	xml := fmt.Sprint(args[0]) // a text or a node, by the version of whatsmeow
	if !g.b.blind {
		_, typ, _ := strings.Cut(xml, ` type="`)
		typ, _, _ = strings.Cut(typ, `"`)
		g.b.l.Received(tagOf(xml), typ)
	}
	g.b.received(xml)
}

func tagOf(xml string) string {
	tag := strings.TrimPrefix(xml, "<")
	if end := strings.IndexAny(tag, " />"); end >= 0 {
		tag = tag[:end]
	}
	return tag
}

func (b *bot) received(xml string) {
	key := tagOf(xml)
	if _, id, ok := strings.Cut(xml, ` id="`); ok {
		key, _, _ = strings.Cut(id, `"`)
	}
	b.mu.Lock()
	if c := b.l.Current(); c != nil {
		b.readOn[key] = c.Generation()
	}
	b.mu.Unlock()
	if f := b.onRecv.Load(); f != nil {
		(*f)(xml)
	}
}

func (b *bot) handle(evt any) {
	b.running.Add(1)
	defer b.running.Add(-1)
	draining := b.l.Draining()
	gen := b.l.Current().Generation()
	if f := b.onEvt.Load(); f != nil {
		(*f)(evt)
	}
	key, slow := "", false
	switch e := evt.(type) {
	case *events.QR:
		_ = b.acct.Phone().Scan(e.Codes[0])
	case *events.Receipt:
		key, slow = e.MessageIDs[0], true
	case *events.Message:
		key, slow = e.Info.ID, true
	case *events.StreamReplaced, *events.StreamError, *events.ManualLoginReconnect:
		key = "stream:error"
	}
	b.mu.Lock()
	b.byType[fmt.Sprintf("%T", evt)]++
	if e, ok := evt.(*events.Message); ok {
		b.messages[e.Info.ID]++
		b.texts = append(b.texts, e.Message.GetConversation())
	}
	if on, ok := b.readOn[key]; ok && on < gen && !draining {
		b.stale = append(b.stale, fmt.Sprintf("%T %s of connection %d on connection %d", evt, key, on, gen))
	}
	close(b.arrived)
	b.arrived = make(chan struct{})
	b.mu.Unlock()
	if d := b.pause.Load(); slow && d > 0 {
		time.Sleep(time.Duration(d))
	}
}

// seen waits until n events of this type have come.
func (b *bot) seen(ctx context.Context, evt any, n int) error {
	for {
		b.mu.Lock()
		have, more := b.byType[fmt.Sprintf("%T", evt)], b.arrived
		b.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %T number %d: %w", evt, n, ctx.Err())
		}
	}
}

func (b *bot) count(evt any) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byType[fmt.Sprintf("%T", evt)]
}

func (b *bot) staleEvents() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stale)
}

// newBot pairs a new account; the bot is offline afterwards. In a bubble.
func newBot(t *testing.T) *bot {
	t.Helper()
	return newBotOn(t, wasim.New(wasim.WithTB(t), wasim.WithFewKeys()))
}

func newBotOn(t *testing.T, s *wasim.Service, without ...Reliance) *bot {
	t.Helper()
	b := &bot{
		t: t, s: s, blind: slices.Contains(without, blindTap), acct: s.NewAccount("491700000001"), readOn: map[string]uint64{}, byType: map[string]int{},
		arrived: make(chan struct{}), messages: map[string]int{}, problems: map[Reliance]string{},
	}
	tr := s.Transport(label)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		b.wire.set(func() { b.wire.writes, b.wire.limbo = 0, false })
		return &wireConn{c, &b.wire}, nil
	}
	b.l = New(Config{Transport: tr, Without: without, Compat: b.compat, Gate: func() error {
		if err := b.fenced.Load(); err != nil {
			return *err
		}
		return nil
	}})
	b.client = whatsmeow.NewClient(wasim.NewMemoryDevice(), tapLog{waLog.Noop, b})
	b.client.ManualHistorySyncDownload = true
	require.NoError(t, b.l.Install(b.client))
	b.client.AddEventHandler(b.handle)

	conn, err := b.l.Connect(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.seen(within(t, time.Minute), &events.ManualLoginReconnect{}, 1))
	require.NoError(t, conn.End(within(t, time.Minute)))
	b.online()
	b.offline()
	return b
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// online connects and waits for the login.
func (b *bot) online() *Conn {
	b.t.Helper()
	before := b.count(&events.Connected{})
	conn, err := b.l.Connect(b.t.Context())
	require.NoError(b.t, err)
	require.NoError(b.t, b.seen(within(b.t, time.Minute), &events.Connected{}, before+1))
	require.True(b.t, b.l.Saw())
	return conn
}

func (b *bot) offline() {
	b.t.Helper()
	require.NoError(b.t, b.l.Current().End(within(b.t, time.Hour)))
}

// cut cuts the current attempt and starts to watch for bytes after it.
func (b *bot) cut() {
	if c := b.l.Current(); c != nil {
		c.Cut(errTest)
		b.wire.set(func() { b.wire.limbo = true })
	}
}

var errTest = errors.New("cut by the test")

func (b *bot) close() {
	b.t.Helper()
	b.l.Cut(nil)
	if c := b.l.Current(); c != nil {
		require.NoError(b.t, c.End(within(b.t, time.Hour)))
	}
	b.s.Close()
}

func (b *bot) fault(f wasim.Fault) *wasim.Injection { return b.s.Fault(f).From(label) }

func (b *bot) device() *wasim.Device { return b.acct.Devices()[0] }
