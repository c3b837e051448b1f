package postgresbackend

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// service is a simulated WhatsApp with accounts of ours and a contact who writes
// to them.
type service struct {
	t    *testing.T
	sim  *wasim.Service
	peer *wasim.Contact
}

func newService(t *testing.T) *service {
	s := &service{t: t, sim: wasim.New(wasim.WithTB(t), wasim.WithFewKeys())}
	require.NoError(t, s.sim.Listen())
	var err error
	s.peer, err = s.sim.NewContact(t.Context(), "491520000009")
	require.NoError(t, err)
	return s
}

// say sends a text from the contact, and returns the message's id.
func (s *service) say(to *wasim.Account, text string) string {
	s.t.Helper()
	id, err := s.peer.Send(context.WithoutCancel(s.t.Context()), to.JID(), text)
	require.NoError(s.t, err)
	return id
}

// chatter has the contact write to every account in turn until stop, which
// returns the ids.
func (s *service) chatter(every time.Duration, accounts ...*wasim.Account) (stop func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		ids []string
		wg  sync.WaitGroup
	)
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			id, err := s.peer.Send(context.Background(), accounts[n%len(accounts)].JID(), fmt.Sprint("m", n))
			if err != nil {
				s.t.Errorf("the contact could not send: %v", err)
				return
			}
			ids = append(ids, id)
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	})
	stop = sync.OnceValue(func() []string {
		cancel()
		wg.Wait()
		return ids
	})
	s.t.Cleanup(func() { stop() })
	return stop
}

// device is the account's one linked device.
func device(t *testing.T, a *wasim.Account) *wasim.Device {
	t.Helper()
	require.Len(t, a.Devices(), 1)
	return a.Devices()[0]
}

// await waits in real time.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !cond(); time.Sleep(2 * time.Millisecond) {
		require.True(t, time.Now().Before(limit), "never happened: "+what)
	}
}

// drained waits until the service has nothing left for a device, however slow
// the machine is.
func drained(t *testing.T, dev *wasim.Device) {
	t.Helper()
	for left := len(dev.Pending()); left > 0; {
		was := left
		await(t, fmt.Sprintf("fewer than %d messages wait at the service", was), func() bool {
			left = len(dev.Pending())
			return left < was
		})
	}
}

// host is a Manager with what its program sees.
type host struct {
	*stability.Manager
	t      *testing.T
	cancel context.CancelFunc
	result chan error
	codes  chan string

	mu     sync.Mutex
	events []stability.Event
	got    []string // ids of messages that were handled
}

// settings are what every Manager here has: it logs in again soon.
func settings(b stability.Backend, transport *http.Transport) []stability.Option {
	return []stability.Option{
		stability.WithBackend(b), stability.WithTransport(transport), stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithReconnect(reconnect.Policy{InitialDelay: 20 * time.Millisecond, MaxDelay: 200 * time.Millisecond}), stability.WithExit(func(int) {}),
	}
}

// host runs a Manager until the test ends, or leave is called.
func (s *service) host(b stability.Backend, opts ...stability.Option) *host {
	s.t.Helper()
	return s.program((*host).run, b, opts...)
}

// program is a Manager and what looks after it, until the test ends or leave is
// called.
func (s *service) program(does func(*host, context.Context) error, b stability.Backend, opts ...stability.Option) *host {
	s.t.Helper()
	h := &host{t: s.t, result: make(chan error, 1), codes: make(chan string, 64)}
	base := append(settings(b, s.sim.Transport()),
		stability.WithQR(func(q stability.QR) { h.codes <- q.Code }),
		stability.WithObserver(func(e stability.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		}))
	m, err := stability.New(append(base, opts...)...)
	require.NoError(s.t, err)
	h.Manager = m
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	go func() { h.result <- does(h, ctx) }()
	s.t.Cleanup(func() {
		cancel()
		_ = m.Close(context.Background())
	})
	return h
}

func (h *host) run(ctx context.Context) error {
	return h.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
		c.ManualHistorySyncDownload = true
		c.AddEventHandler(func(evt any) {
			if msg, ok := evt.(*events.Message); ok {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.got = append(h.got, msg.Info.ID)
			}
		})
		return nil
	})
}

// byHand asks the Manager what to do, one term after the other.
func (h *host) byHand(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := h.Activate(ctx); err != nil {
			break
		}
		d, err := h.AuthState(ctx)
		if err != nil {
			continue
		}
		c, err := h.NewClient(d)
		if err != nil {
			continue
		}
		c.ManualHistorySyncDownload = true
		c.AddEventHandler(func(evt any) {
			if d, err := h.HandleDisconnected(ctx, evt); err == nil {
				h.ScheduleReconnect(d, c.ConnectContext)
			}
		})
		if first, err := h.Resume(); err == nil {
			h.ScheduleReconnect(first, c.ConnectContext)
		}
		for changed := h.Changed(); h.Status().Mode == stability.ModeActive && ctx.Err() == nil; changed = h.Changed() {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// pair scans the next code.
func (h *host) pair(a *wasim.Account) *host {
	h.t.Helper()
	select {
	case code := <-h.codes:
		require.NoError(h.t, a.Phone().Scan(code))
	case <-time.After(time.Minute):
		require.Fail(h.t, "no code was offered", h.Status().Summary)
	}
	return h.ready()
}

func (h *host) ready() *host {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := h.WaitReady(ctx)
	require.NoError(h.t, err, "status: %s", h.Status().Summary)
	return h
}

func (h *host) leave() {
	h.t.Helper()
	h.cancel()
	require.NoError(h.t, <-h.result)
	require.NoError(h.t, h.Close(context.Background()))
}

// handled counts how often each message was.
func (h *host) handled() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]int{}
	for _, id := range h.got {
		seen[id]++
	}
	return seen
}

func (h *host) saw(kind stability.EventKind) (out []stability.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// once requires that each message was handled exactly once, by whichever host.
func once(t *testing.T, ids []string, hosts ...*host) {
	t.Helper()
	seen := map[string]int{}
	for _, h := range hosts {
		for id, n := range h.handled() {
			seen[id] += n
		}
	}
	for _, id := range ids {
		require.Equal(t, 1, seen[id], "message %d of %d", slices.Index(ids, id), len(ids))
	}
}

// The tests with real processes run the test binary again: TestMain hands over
// to play when partEnv holds what to play.
const partEnv = "WASTABILITY_POSTGRES_PART"

// part is a program in a process of its own, with a Manager for each account.
type part struct {
	Service  wasim.Endpoint
	DSN      string
	Accounts []string
	Record   string // gets the id of each handled message, synced
	Lease    time.Duration
	Patience time.Duration
}

func playPart() bool { return child.Play(partEnv, part.play) }

// play runs until SIGTERM, or until standard input ends. It says on standard
// output what happens: a word, the account and a text on each line.
func (p part) play() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	transport, err := p.Service.Transport("child")
	if err != nil {
		return err
	}
	db, err := Open(ctx, p.DSN, WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer db.Close()
	record, err := os.OpenFile(p.Record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	go func() {
		defer stop()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		}
	}()
	var mu sync.Mutex
	say := func(word, account string, text any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(word, account, text)
	}
	failed := make(chan error, len(p.Accounts))
	for _, id := range p.Accounts {
		b, err := db.Account(id)
		if err != nil {
			return err
		}
		m, err := stability.New(append(settings(b, transport),
			stability.WithLockOptions(lock.WithLease(p.Lease)),
			stability.WithAuthStoreOptions(authstore.WithOutagePatience(p.Patience)),
			stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
			stability.WithQR(func(q stability.QR) { say("qr", id, q.Code) }),
			stability.WithObserver(func(e stability.Event) {
				if e.Kind != stability.EventQR {
					say(string(e.Kind), id, fmt.Sprint(e.Epoch, " ", e.Reason))
				}
			}))...)
		if err != nil {
			return err
		}
		go func() {
			err := m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
				c.ManualHistorySyncDownload = true
				c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
					msg, ok := evt.(*events.Message)
					if !ok {
						return true
					}
					if _, err := fmt.Fprintln(record, msg.Info.ID); err != nil {
						return false
					}
					return record.Sync() == nil
				})
				return nil
			})
			if err == nil {
				err = m.Close(context.Background())
			}
			failed <- err
		}()
	}
	for range p.Accounts {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

func textOf(s string) *waE2E.Message { return &waE2E.Message{Conversation: proto.String(s)} }
