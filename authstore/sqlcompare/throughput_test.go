package sqlcompare

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// host is a paired client on one of the stores, which can be taken off line.
type host struct {
	b       *testing.B
	sim     *wasim.Service
	account *wasim.Account
	peer    *wasim.Contact
	client  *whatsmeow.Client
	off, on func()

	got      atomic.Int64
	from, to atomic.Int64 // when the first and the last message of a round came, in ns
	want     atomic.Int64
	all      chan struct{}
}

func newHost(b *testing.B, number string) *host {
	h := &host{b: b, sim: wasim.New(wasim.WithTB(b)), all: make(chan struct{}, 1)}
	h.account = h.sim.NewAccount(number)
	var err error
	h.peer, err = h.sim.NewContact(b.Context(), "491520000009")
	require.NoError(b, err)
	return h
}

func (h *host) handle(evt any) bool {
	m, ok := evt.(*events.Message)
	if !ok || m.Message.GetConversation() == "" {
		return true
	}
	now := time.Now().UnixNano()
	n := h.got.Add(1)
	if n == 1 {
		h.from.Store(now)
	}
	if n == h.want.Load() {
		h.to.Store(now)
		h.all <- struct{}{}
	}
	return true
}

// managed is a Manager on localbackend.
func managed(b *testing.B) *host {
	h := newHost(b, "491520000001")
	backend, err := localbackend.Open(filepath.Join(b.TempDir(), "wa.db"))
	require.NoError(b, err)
	m, err := stability.New(
		stability.WithBackend(backend), stability.WithTransport(h.sim.Transport("host")),
		stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithReconnect(reconnect.Policy{InitialDelay: time.Hour, MaxDelay: time.Hour}), // until Reconnect is called
		stability.WithAutoHeal(autoheal.Policy{Disabled: true}),
		stability.WithQR(func(q stability.QR) { _ = h.account.Phone().Scan(q.Code) }))
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.ManualHistorySyncDownload = true
			c.AddEventHandlerWithSuccessStatus(h.handle)
			return nil
		})
	}()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-ended)
		require.NoError(b, m.Close(context.Background()))
	})
	ready := func() {
		h.client, err = m.WaitReady(b.Context())
		require.NoError(b, err)
	}
	ready()
	h.off = func() {
		h.sim.Fault(wasim.FIN()).For(h.account.JID()).Now()
		h.await(func() bool { return m.Status().WA != reconnect.StatusConnected && !m.Status().Connecting })
	}
	h.on = func() {
		m.Reconnect()
		ready()
	}
	return h
}

// plain is a whatsmeow client on sqlstore, with the settings that promise the
// same: an event is handed over again unless it was handled, and a commit is
// durable.
func plain(b *testing.B) *host {
	h := newHost(b, "491520000002")
	file := filepath.Join(b.TempDir(), "wa.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	require.NoError(b, err)
	stores := sqlstore.NewWithDB(db, "sqlite3", nil)
	require.NoError(b, stores.Upgrade(b.Context()))
	device := stores.NewDevice()
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	h.run(device)
	return h
}

// run pairs and connects a client on device.
func (h *host) run(device *store.Device) {
	h.client = whatsmeow.NewClient(device, nil)
	h.client.EnableDecryptedEventBuffer = true
	h.client.ManualHistorySyncDownload = true
	h.client.RefreshCAT = func(context.Context) error { return fmt.Errorf("no CAT here") }
	way := &http.Client{Transport: h.sim.Transport("host")}
	h.client.SetWebsocketHTTPClient(way)
	h.client.SetPreLoginHTTPClient(way)
	h.client.SetMediaHTTPClient(way)
	connected := make(chan struct{}, 10)
	h.client.AddEventHandler(func(evt any) {
		switch e := evt.(type) {
		case *events.QR:
			_ = h.account.Phone().Scan(e.Codes[0])
		case *events.Connected:
			connected <- struct{}{}
		}
	})
	h.client.AddEventHandlerWithSuccessStatus(h.handle)
	require.NoError(h.b, h.client.Connect())
	<-connected
	h.b.Cleanup(h.client.Disconnect)
	h.off = func() {
		h.client.Disconnect()
		h.await(func() bool { return !h.device().Online() })
	}
	h.on = func() {
		require.NoError(h.b, h.client.Connect())
		<-connected
	}
}

func (h *host) device() *wasim.Device { return h.account.Devices()[0] }

func (h *host) await(cond func() bool) {
	for start := time.Now(); !cond(); time.Sleep(time.Millisecond) {
		require.Less(h.b, time.Since(start), time.Minute, "the host is stuck")
	}
}

func text(s string) *waE2E.Message { return &waE2E.Message{Conversation: proto.String(s)} }

// receive has n messages wait at the service, and returns how many of them a
// second are taken once the host is back: the sender does not slow it down.
func (h *host) receive(n int) float64 {
	h.off()
	h.got.Store(0)
	h.want.Store(int64(n))
	for i := range n {
		_, err := h.peer.Send(h.b.Context(), h.account.JID(), fmt.Sprint(i))
		require.NoError(h.b, err)
	}
	h.on()
	<-h.all
	h.await(func() bool { return len(h.device().Pending()) == 0 })
	return float64(n-1) / time.Duration(h.to.Load()-h.from.Load()).Seconds()
}

// send returns how many messages a second are sent, one after the other.
func (h *host) send(n int) float64 {
	start := time.Now()
	for i := range n {
		_, err := h.client.SendMessage(h.b.Context(), h.peer.JID(), text(fmt.Sprint(i)))
		require.NoError(h.b, err)
	}
	return float64(n) / time.Since(start).Seconds()
}

// BenchmarkThroughput compares a Manager on localbackend with a plain client
// on sqlstore and SQLite (WAL, synchronous=FULL), in turns, in one process.
// Each iteration is three rounds of both; the ratios are per round.
func BenchmarkThroughput(b *testing.B) {
	const messages = 200
	ours, theirs := managed(b), plain(b)
	for _, h := range []*host{ours, theirs} { // both have answered each other
		h.send(3)
		h.receive(3)
		h.send(3)
	}
	rates := map[string][]float64{}
	note := func(what string, rate float64) { rates[what] = append(rates[what], rate) }
	for round := 0; round%3 != 0 || b.Loop(); round++ { // three to an iteration
		for turn := range 2 {
			h, name := ours, "local"
			if (round+turn)%2 == 1 {
				h, name = theirs, "sqlite"
			}
			note("received-"+name, h.receive(messages))
			note("sent-"+name, h.send(messages))
		}
		for _, what := range []string{"received", "sent"} {
			note(what+"-ratio", rates[what+"-local"][round]/rates[what+"-sqlite"][round])
		}
	}
	for what, all := range rates {
		slices.Sort(all)
		unit := "/s"
		if what == "received-ratio" || what == "sent-ratio" {
			unit = ""
			b.ReportMetric(all[0], what+"-min")
			b.ReportMetric(all[len(all)-1], what+"-max")
		}
		b.ReportMetric(all[len(all)/2], what+unit)
	}
	b.ReportMetric(0, "ns/op")
}
