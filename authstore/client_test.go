package authstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// host is a real client on an authstore, against the simulated service.
type host struct {
	sim   *wasim.Service
	kv    *authstore.TestKV
	store *authstore.Container
	acct  *wasim.Account
	cli   *whatsmeow.Client

	cancel context.CancelFunc
	ctx    context.Context

	mu            sync.Mutex
	texts         map[string]int
	undecryptable int
	waiting       chan struct{} // closed and renewed with every event
	qr            []string
	connected     bool
	restart       bool
}

func newHost(t *testing.T, s *wasim.Service, phone string, latency time.Duration) *host {
	t.Helper()
	h := &host{sim: s, kv: authstore.NewTestKV(latency), acct: s.NewAccount(phone), texts: make(map[string]int), waiting: make(chan struct{})}
	h.store = authstore.New(h.kv)
	dev, err := h.store.Device(t.Context(), authstore.NewTestFence(1))
	require.NoError(t, err)
	h.client(s, dev)
	require.NoError(t, h.cli.ConnectContext(h.ctx))
	h.wait(t, "QR codes", func() bool { return len(h.qr) > 0 })
	require.NoError(t, h.acct.Phone().Scan(h.qr[0]))
	h.wait(t, "the end of pairing", func() bool { return h.restart })
	h.leave(t)
	h.client(s, dev)
	require.NoError(t, h.cli.ConnectContext(h.ctx))
	h.wait(t, "login", func() bool { return h.connected })
	return h
}

func (h *host) client(s *wasim.Service, dev *store.Device) {
	h.ctx, h.cancel = context.WithCancel(context.Background())
	c := whatsmeow.NewClient(dev, nil)
	c.EnableAutoReconnect = false
	c.DisableLoginAutoReconnect = true
	c.ManualHistorySyncDownload = true
	c.EnableDecryptedEventBuffer = true
	c.SynchronousAck = true
	c.RefreshCAT = func(context.Context) error { return errors.New("no CAT") }
	web := &http.Client{Transport: s.Transport(), Timeout: 15 * time.Second}
	c.SetWebsocketHTTPClient(web)
	c.SetPreLoginHTTPClient(web)
	c.SetMediaHTTPClient(web)
	c.AddEventHandler(h.handle)
	h.cli = c
}

func (h *host) handle(e any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e := e.(type) {
	case *events.QR:
		h.qr = e.Codes
	case *events.ManualLoginReconnect:
		h.restart = true
	case *events.Connected:
		h.connected = true
	case *events.Message:
		if text := e.Message.GetConversation(); text != "" { // else a sender key alone
			h.texts[text]++
		}
	case *events.UndecryptableMessage:
		h.undecryptable++
	}
	close(h.waiting)
	h.waiting = make(chan struct{})
}

// wait waits for cond, which is called with the lock held.
func (h *host) wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.NewTimer(2 * time.Minute)
	defer timeout.Stop()
	for {
		h.mu.Lock()
		ok, ch := cond(), h.waiting
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-timeout.C:
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}

// send sends, again if the store says that the session changed meanwhile.
func (h *host) send(to types.JID, text string) (broken int, err error) {
	for {
		_, err = h.cli.SendMessage(h.ctx, to, &waE2E.Message{Conversation: proto.String(text)})
		if !errors.Is(err, authstore.ErrWindowBroken) {
			return broken, err
		}
		broken++
	}
}

// leave ends the connection from the service's side: whatsmeow itself has a
// data race between its own Disconnect and the loss of the link.
func (h *host) leave(t *testing.T) {
	t.Helper()
	h.sim.Fault(wasim.FIN()).For(h.acct.JID()).Now()
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	h.waitUntil(t, "the end of the connection", func() bool {
		err := h.cli.DangerousInternals().SendNode(dead, waBinary.Node{Tag: "check"})
		return errors.Is(err, whatsmeow.ErrNotConnected)
	})
	h.cli.Disconnect() // the socket is gone: this only settles its state
	h.cancel()
}

// waitUntil is wait for what comes without an event.
func (h *host) waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}

func (h *host) end(t *testing.T) {
	h.leave(t)
	require.NoError(t, h.store.Close(context.Background()))
}

func TestTwoClientsWritingToEachOtherLoseNothing(t *testing.T) {
	t.Parallel()
	messages := stabilitytest.Pick(400, 10_000)
	s := wasim.New(wasim.WithTB(t))
	a := newHost(t, s, "491700000001", 5*time.Millisecond)
	b := newHost(t, s, "491700000002", 5*time.Millisecond)

	// First contact, one after the other: two first messages that cross are a
	// matter of the protocol, not of the store.
	_, err := a.send(b.acct.JID(), "hello")
	require.NoError(t, err)
	b.wait(t, "the first message", func() bool { return b.texts["hello"] == 1 })
	_, err = b.send(a.acct.JID(), "hello")
	require.NoError(t, err)
	a.wait(t, "the answer", func() bool { return a.texts["hello"] == 1 })
	var wg sync.WaitGroup
	write := func(from, to *host) {
		wg.Go(func() {
			for i := range messages / 2 {
				broken, err := from.send(to.acct.JID(), fmt.Sprint("message ", i))
				if err != nil {
					t.Errorf("send %d: %v", i, err)
					return
				}
				if broken > 0 {
					t.Logf("send %d: %d broken windows", i, broken)
				}
			}
		})
	}
	write(a, b)
	write(b, a)
	wg.Wait()
	for _, h := range []*host{a, b} {
		h.wait(t, "all messages", func() bool { return len(h.texts) == messages/2+1 })
		require.Zero(t, h.undecryptable)
		for text, n := range h.texts {
			require.Equal(t, 1, n, text)
		}
	}
	t.Logf("a: %d commits, %d reads for %d messages sent and received", a.kv.Commits(), a.kv.Reads(), messages)
	s.Close()
	a.end(t)
	b.end(t)
}
