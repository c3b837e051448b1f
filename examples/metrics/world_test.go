package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/metrics"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f in virtual time; a watchdog outside notices when that stops.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(5*time.Minute, func() {
		buf := make([]byte, 4<<20)
		fmt.Fprintf(os.Stderr, "%s: the virtual clock stopped\n%s\n", t.Name(), buf[:runtime.Stack(buf, true)])
		os.Exit(2)
	})
	defer watchdog.Stop()
	synctest.Test(t, f)
}

// world is a simulated service with an account of ours and contacts.
type world struct {
	t       *testing.T
	sim     *wasim.Service
	account *wasim.Account
	memory  *memorybackend.Memory
	shaky   shaky // in front of the backend of all instances
	people  []*wasim.Contact
	away    atomic.Bool // the phone scans no code
}

func newWorld(t *testing.T, people int) *world {
	sim := wasim.New(wasim.WithTB(t))
	w := &world{t: t, sim: sim, account: sim.NewAccount("12025550123"), memory: memorybackend.New()}
	for n := range people {
		c, err := sim.NewContact(context.Background(), fmt.Sprintf("1202555014%d", n))
		require.NoError(t, err)
		t.Cleanup(c.Close) // of a test that failed
		w.people = append(w.people, c)
	}
	return w
}

// close ends what a bubble must not leave behind.
func (w *world) close() {
	for _, c := range w.people {
		c.Close()
	}
	w.sim.Close()
}

// process is one instance, with what Prometheus would read of it.
type process struct {
	w        *world
	name     string
	m        *stability.Manager
	registry *prometheus.Registry
	refuse   atomic.Bool  // its handlers
	refuses  atomic.Value // the text of the one message that they refuse
	hang     atomic.Int64 // nanoseconds for the next message
	cancel   context.CancelFunc
	result   chan error
	finished bool // for who reads its metrics
}

func (w *world) process(name string, opts ...stability.Option) *process {
	w.t.Helper()
	p := &process{w: w, name: name, result: make(chan error, 1)}
	var err error
	p.m, err = stability.New(append([]stability.Option{
		stability.WithBackend(w.shaky.front(w.memory.Backend())), stability.WithTransport(w.sim.Transport(name)),
		stability.WithLogger(slog.New(slog.DiscardHandler)), stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		stability.WithQR(func(q stability.QR) {
			if !w.away.Load() {
				_ = w.account.Phone().Scan(q.Code)
			}
		}),
	}, opts...)...)
	require.NoError(w.t, err)
	registry, provider, err := exporter()
	require.NoError(w.t, err)
	p.registry = registry
	_, err = metrics.Register(p.m, provider, metrics.WithAccount("shop"))
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.result <- p.m.Run(ctx, p.setup) }()
	w.t.Cleanup(func() { // of a test that failed
		cancel()
		_ = p.m.Close(context.Background())
	})
	return p
}

func (p *process) setup(_ context.Context, c *whatsmeow.Client) error {
	c.ManualHistorySyncDownload = true
	c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
		if m, ok := evt.(*events.Message); ok {
			time.Sleep(time.Duration(p.hang.Swap(0)))
			return !p.refuse.Load() && m.Message.GetConversation() != p.refuses.Load()
		}
		return true
	})
	return nil
}

func (p *process) ready() *process {
	p.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	_, err := p.m.WaitReady(ctx)
	require.NoError(p.w.t, err, p.m.Status().Summary)
	return p
}

// stop ends the process as a platform does.
func (p *process) stop() {
	p.w.t.Helper()
	p.cancel()
	require.NoError(p.w.t, <-p.result)
	require.NoError(p.w.t, p.m.Close(context.Background()))
	p.finished = true
}

func (p *process) send(to types.JID) error {
	c := p.m.Client()
	if c == nil {
		return fmt.Errorf("no client: %s", p.m.Status().Summary)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := c.SendMessage(ctx, to, &waE2E.Message{Conversation: proto.String("hello")})
	if errors.Is(err, authstore.ErrWindowBroken) { // a message of theirs came meanwhile: it says to send again
		_, err = c.SendMessage(ctx, to, &waE2E.Message{Conversation: proto.String("hello")})
	}
	return err
}

// write has the first contact write a message.
func (w *world) write(text string) {
	w.t.Helper()
	_, err := w.people[0].Send(context.Background(), w.account.JID(), text)
	require.NoError(w.t, err)
}

// gathered are the values of a process, each under its name and labels as
// Prometheus writes them.
func (p *process) gathered() map[string]float64 {
	p.w.t.Helper()
	families, err := p.registry.Gather()
	require.NoError(p.w.t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func newWorldBackend() stability.Backend { return memorybackend.New().Backend() }
