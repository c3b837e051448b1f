package wasim_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// host is a client as a host with an owner of reconnection of its own sets it
// up: whatsmeow reconnects nothing.
type host struct {
	s       *wasim.Service
	cli     *whatsmeow.Client
	dev     *store.Device
	cancel  context.CancelFunc
	ctx     context.Context
	deleted *atomic.Int32

	mu     sync.Mutex
	events []any
	at     []time.Time
}

// deletes counts how often whatsmeow deletes the device.
type deletes struct {
	store.DeviceContainer
	n *atomic.Int32
}

func (d deletes) DeleteDevice(ctx context.Context, dev *store.Device) error {
	d.n.Add(1)
	return d.DeviceContainer.DeleteDevice(ctx, dev)
}

func newHost(s *wasim.Service, dev *store.Device, label ...string) *host {
	return newHostWith(s, dev, nil, label...)
}

// newHostWith is newHost with a logger for the client; nil for none.
func newHostWith(s *wasim.Service, dev *store.Device, log waLog.Logger, label ...string) *host {
	h := &host{s: s, dev: dev, deleted: &atomic.Int32{}}
	if d, ok := dev.Container.(deletes); ok {
		dev.Container = d.DeviceContainer
	}
	dev.Container = deletes{dev.Container, h.deleted}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.cli = whatsmeow.NewClient(dev, log)
	h.cli.EnableAutoReconnect = false
	h.cli.DisableLoginAutoReconnect = true
	h.cli.ManualHistorySyncDownload = true
	h.cli.EnableDecryptedEventBuffer = true
	h.cli.SynchronousAck = true
	h.cli.RefreshCAT = func(context.Context) error { return errors.New("no CAT") }
	client := &http.Client{Transport: s.Transport(label...), Timeout: 15 * time.Second}
	h.cli.SetWebsocketHTTPClient(client)
	h.cli.SetPreLoginHTTPClient(client)
	h.cli.SetMediaHTTPClient(client)
	h.cli.AddEventHandler(func(e any) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = append(h.events, e)
		h.at = append(h.at, time.Now())
	})
	return h
}

func (h *host) connect() error { return h.cli.ConnectContext(h.ctx) }

// up reports whether whatsmeow has a socket. Client.IsConnected would say the
// same, in a data race with the end of the connection.
func (h *host) up() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := h.cli.DangerousInternals().SendNode(ctx, waBinary.Node{Tag: "presence"})
	return !errors.Is(err, whatsmeow.ErrNotConnected)
}

// all are the events so far, those that tell of no end excepted.
func (h *host) all() []any {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []any
	for _, e := range h.events {
		switch e.(type) {
		case *events.OfflineSyncCompleted, *events.OfflineSyncPreview, *events.QR, *events.PairSuccess,
			*events.Connected, *events.Message, *events.Receipt, *events.PushName:
		default:
			out = append(out, e)
		}
	}
	return out
}

func got[E any](h *host) (list []E) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if x, ok := e.(E); ok {
			list = append(list, x)
		}
	}
	return list
}

// end closes the service's side first, then lets whatsmeow settle.
func (h *host) end() {
	h.s.Close()
	time.Sleep(50 * time.Millisecond)
	h.cli.Disconnect()
	h.cancel()
}

// restarts waits until the service has asked for a new connection behind a pairing, or
// has closed this one: a client whose process gets no processor for a while finds both at
// once, and whatsmeow looks at the end alone then.
func (h *host) restarts(t *testing.T) {
	t.Helper()
	eventually(t, "restart asked for, or closed", func() bool {
		return len(got[*events.ManualLoginReconnect](h)) == 1 || len(got[*events.PairSuccess](h)) == 1 && !h.up()
	})
}

// pair pairs a new device with the account by QR code and returns it, offline.
func pair(t *testing.T, s *wasim.Service, acct *wasim.Account) *store.Device {
	t.Helper()
	dev := wasim.NewMemoryDevice()
	h := newHost(s, dev)
	require.NoError(t, h.connect())
	eventually(t, "QR codes", func() bool { return len(got[*events.QR](h)) == 1 })
	codes := got[*events.QR](h)[0].Codes
	require.Len(t, codes, 6)
	require.NoError(t, acct.Phone().Scan(codes[0]))
	h.restarts(t)
	require.NoError(t, acct.PairingError())
	eventually(t, "the service closed", func() bool { return !h.up() })
	h.cli.Disconnect()
	h.cancel()
	return dev
}

// online pairs a device and logs it in.
func online(t *testing.T, s *wasim.Service, acct *wasim.Account) *host {
	t.Helper()
	h := newHost(s, pair(t, s, acct))
	h.login(t)
	return h
}

func (h *host) login(t *testing.T) {
	t.Helper()
	require.NoError(t, h.connect())
	eventually(t, "connected", func() bool { return len(got[*events.Connected](h)) > 0 })
}

func (h *host) jid() types.JID { return *h.dev.ID }
