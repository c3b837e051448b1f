package stability_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// renewing is a host by hand that makes a new client for each connection, as
// one does whose clients are cheap.
type renewing struct {
	*byHand
	ends    chan struct{} // a connection ended
	refused int           // clients that Attach did not take
}

func (w *world) renewing() *renewing {
	r := &renewing{byHand: w.byHand(), ends: make(chan struct{}, 1024)}
	r.mute.Store(true)
	r.onChange = func(e stability.Event) {
		if e.Kind == stability.EventDisconnected && e.Decision.ShouldReconnect {
			r.ends <- struct{}{}
		}
	}
	return r
}

// live renews the client until ctx ends.
func (r *renewing) live(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ends:
		}
		for ctx.Err() == nil && !r.renew(ctx) {
			time.Sleep(time.Second)
		}
	}
}

func (r *renewing) renew(ctx context.Context) bool {
	d, err := r.m.AuthState(ctx)
	if err != nil {
		return false
	}
	c, err := r.m.NewClient(d)
	if errors.Is(err, stability.ErrWrongDevice) {
		r.refused++
		return false
	}
	if err != nil {
		return false
	}
	c.ManualHistorySyncDownload = true
	c.AddEventHandlerWithSuccessStatus(r.handle)
	return c.ConnectContext(ctx) == nil
}

// hosts are the ways to use the library. start returns a host that is paired,
// and what ends it.
var hosts = []struct {
	name  string
	start func(w *world) (n *named, stop func())
}{
	{"run", func(w *world) (*named, func()) {
		a := w.named("a").run().pair()
		return a, a.stop
	}},
	{"by hand", func(w *world) (*named, func()) {
		h := w.byHand().activate()
		h.pair()
		return h.named, func() { require.NoError(w.t, h.m.Close(context.Background())) }
	}},
	{"by hand with a new client each time", func(w *world) (*named, func()) {
		h := w.renewing()
		h.mute.Store(false)
		h.activate()
		h.pair()
		h.mute.Store(true)
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan struct{})
		go func() { defer close(over); h.live(ctx) }()
		return h.named, func() {
			cancel()
			<-over
			require.NoError(w.t, h.m.Close(context.Background()))
		}
	}},
}

// settled lets the contact begin a session with the instance, and waits until
// nothing of the pairing is going on any more.
func (w *world) settled(a *named) *wasim.Device {
	w.t.Helper()
	w.write1("first")
	w.await("the session", func() bool { return len(a.texts()) == 1 })
	time.Sleep(2 * time.Minute)
	return w.device()
}

// write sends the account "m0" to "m(n-1)".
func (w *world) write(n int) {
	w.t.Helper()
	for i := range n {
		w.write1(fmt.Sprintf("m%d", i))
	}
}

func (w *world) write1(text string) {
	w.t.Helper()
	_, err := w.say(text)
	require.NoError(w.t, err)
}

// A store that takes its time, a backlog that it works off for a while, and a
// link that goes at any moment, and again, and again.
func TestBacklogOnSlowStoreSurvivesEveryCut(t *testing.T) {
	t.Parallel()
	for _, host := range hosts {
		for run := range stabilitytest.Pick(1, 350) {
			t.Run(fmt.Sprintf("%s,%d", host.name, run), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a, stop := host.start(w)
					device := w.settled(a)
					// Together more than 15 s, after which Run takes a new client.
					a.wire.slow(stabilitytest.Pick(250*time.Millisecond, 50*time.Millisecond))
					messages := stabilitytest.Pick(100, 400)
					w.write(messages)
					cut := func() { w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now() }
					switch run {
					case 0:
						time.Sleep(time.Second)
						cut()
					default:
						for range 1 + rand.N(3) {
							time.Sleep(rand.N(25 * time.Second))
							cut()
						}
					}
					w.await("all of it", func() bool { return len(device.Pending()) == 0 && len(a.texts()) > messages })
					a.wire.slow(0)
					time.Sleep(time.Minute)
					onceEach(t, messages, a.texts())
					require.Zero(t, device.Stats().RetryReceipts)
					require.Equal(t, reconnect.StatusConnected, a.status().WA)
					stop()
					w.close()
				})
			})
		}
	}
}

// What a process finds when it comes back after a while, and a link that breaks
// on the way.
func TestOfflineBacklogOnSlowStoreSurvivesACut(t *testing.T) {
	t.Parallel()
	for run := range stabilitytest.Pick(1, 20) {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.named("a").run().pair().stop()
				device := w.device()
				messages := stabilitytest.Pick(100, 3000)
				w.write(messages)
				a := w.named("b")
				a.wire.slow(stabilitytest.Pick(250*time.Millisecond, 50*time.Millisecond))
				a.run()
				time.Sleep(time.Second + rand.N(10*time.Second))
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
				w.await("all of it", func() bool { return len(device.Pending()) == 0 && len(a.texts()) >= messages })
				onceEach(t, messages, a.texts())
				a.stop()
				w.close()
			})
		})
	}
}

// A handler that outlives its connection, and its client, keeps its message to
// itself: the service delivers it again meanwhile.
func TestNoMessageIsWithItsHandlerTwiceAtOnce(t *testing.T) {
	t.Parallel()
	for _, host := range hosts {
		for _, lasts := range []time.Duration{30 * time.Second, 7 * time.Minute} {
			t.Run(fmt.Sprintf("%s,%s", host.name, lasts), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a, stop := host.start(w)
					device := w.settled(a)
					var mu sync.Mutex
					now, most := map[string]int{}, map[string]int{}
					a.mu.Lock()
					a.onEvent = func(evt any) {
						m, ok := evt.(*events.Message)
						if !ok {
							return
						}
						mu.Lock()
						now[m.Info.ID]++
						most[m.Info.ID] = max(most[m.Info.ID], now[m.Info.ID])
						first := m.Message.GetConversation() == "m0" && now[m.Info.ID] == 1
						mu.Unlock()
						if first {
							time.Sleep(lasts)
						}
						mu.Lock()
						now[m.Info.ID]--
						mu.Unlock()
					}
					a.mu.Unlock()
					w.write(5)
					for range 4 {
						time.Sleep(time.Second)
						w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
						time.Sleep(40 * time.Second)
					}
					time.Sleep(lasts)
					w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
					w.await("all of it", func() bool { return len(device.Pending()) == 0 && len(a.texts()) >= 6 })
					time.Sleep(time.Minute)
					for id, n := range most {
						require.Equal(t, 1, n, id)
					}
					onceEach(t, 5, a.texts())
					stop()
					w.close()
				})
			})
		}
	}
}
