package stability_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// exchange is an instance whose handler is with a message until it is told how to end.
type exchange struct {
	*tended
	mu    sync.Mutex
	tries map[string]int
	took  map[string]int
	with  atomic.Bool      // the handler is with the slow message
	ends  chan func() bool // how it returns
}

// exchanging makes one. Its handler panics at a message named kept at first, and is slow
// at the second try of it. At a message named slow it is slow at first.
func (w *world) exchanging(label string, opts ...stability.Option) *exchange {
	x := &exchange{tended: w.tended(label, append(opts, stability.WithAutoHeal(noHeal))...),
		tries: make(map[string]int), took: make(map[string]int), ends: make(chan func() bool)}
	x.refuse = func(e *events.Message) bool {
		text := e.Message.GetConversation()
		x.mu.Lock()
		x.tries[text]++
		n := x.tries[text]
		x.mu.Unlock()
		refused := false
		switch {
		case text == "kept" && n == 1:
			panic("not ready yet")
		case text == "kept" && n == 2, text == "slow" && n == 1:
			x.with.Store(true)
			refused = (<-x.ends)()
		}
		if !refused {
			x.mu.Lock()
			x.took[text]++
			x.mu.Unlock()
		}
		return refused
	}
	return x
}

func (x *exchange) taken(text string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.took[text]
}

func takes() bool   { return false }
func refuses() bool { return true }
func panics() bool  { panic("down") }

// readsAnother waits until another device is being read: the one before it is over.
func (x *exchange) readsAnother(end func()) {
	was := x.wire.count("scan")
	x.wire.delay("scan", 3*time.Second)
	end()
	x.w.await("another device is being read", func() bool { return x.wire.count("scan") > was })
	time.Sleep(time.Second)
}

// A handler takes a kept message while one device is exchanged for the next: its row
// cannot be removed at that moment.
func TestKeptMessageTakenWhileTheDeviceIsExchangedIsHandledOnce(t *testing.T) {
	for _, why := range []string{"a logout", "a client that is given up"} {
		t.Run(why, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var opts []stability.Option
				if why == "a logout" {
					opts = append(opts, stability.WithPairingOnRequest())
				}
				a := w.exchanging("a", opts...)
				a.run()
				if why == "a logout" {
					_, err := a.m.WaitQR(t.Context())
					require.NoError(t, err)
				}
				a.pair()
				stuck := make(chan struct{})
				defer close(stuck)
				was := a.refuse
				a.turns(func(e *events.Message) bool {
					if e.Message.GetConversation() == "stuck" {
						<-stuck
					}
					return was(e)
				})
				w.getMessage("kept")
				w.await("it is with its handler again", a.with.Load)
				if why == "a logout" {
					a.readsAnother(func() { w.account.Phone().RemoveDevice(w.device()) })
				} else {
					w.getMessage("stuck")
					time.Sleep(10 * time.Second)
					a.readsAnother(func() { w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now() })
				}
				a.ends <- takes
				time.Sleep(time.Minute)
				a.wire.delay("scan", 0)
				for _, m := range a.m.Messages() {
					require.NotEqual(t, stability.MessageKept, m.State, "%+v", m)
				}
				if why == "a logout" {
					_, err := a.m.WaitQR(t.Context())
					require.NoError(t, err)
					a.pair()
				}
				time.Sleep(time.Hour)
				require.Equal(t, 1, a.taken("kept"))
				a.crash()
				b := w.exchanging("b", opts...)
				b.run().ready()
				time.Sleep(time.Hour)
				require.Zero(t, b.taken("kept"), "its row is removed")
				b.stop()
			})
		})
	}
}

// The service has logged the account out, so it does not deliver again what a handler
// panicked at. It is kept, though nothing could be written at that moment.
func TestMessageThatIsKeptWhileTheDeviceIsExchangedSurvivesAKill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		opts := []stability.Option{stability.WithPairingOnRequest()}
		a := w.exchanging("a", opts...)
		a.run()
		_, err := a.m.WaitQR(t.Context())
		require.NoError(t, err)
		a.pair()
		w.getMessage("slow")
		w.await("it is with its handler", a.with.Load)
		a.readsAnother(func() { w.account.Phone().RemoveDevice(w.device()) })
		a.ends <- panics
		time.Sleep(time.Minute)
		require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
		require.Len(t, a.m.Messages(), 1)
		a.crash()

		b := w.exchanging("b", opts...)
		b.tries["slow"] = 1
		b.run()
		w.await("the book is read", func() bool { return b.status().Messages.Received.Read })
		require.Len(t, b.m.Messages(), 1)
		_, err = b.m.WaitQR(t.Context())
		require.NoError(t, err)
		b.pair()
		time.Sleep(time.Hour)
		require.Equal(t, 1, b.taken("slow"))
		b.stop()
	})
}

// The service delivers again what was not acknowledged, so what a handler did not take
// while the device was exchanged is not handed over from here as well.
func TestMessageRefusedWhileTheDeviceIsExchangedIsHandledOnce(t *testing.T) {
	for name, end := range map[string]func() bool{"refused": refuses, "panicked": panics} {
		for away, link := range map[string]time.Duration{"the link is back at once": 0, "the link stays away": 5 * time.Minute} {
			t.Run(name+", "+away, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.exchanging("a")
					a.run().pair()
					w.getMessage("slow")
					w.await("it is with its handler", a.with.Load)
					a.readsAnother(func() {
						w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
						if link > 0 {
							w.sim.Fault(wasim.DialHang()).From("a").Always().Now()
						}
					})
					a.ends <- end
					time.Sleep(time.Second)
					a.wire.delay("scan", 0)
					if link > 0 {
						time.Sleep(time.Minute) // before it gives the lock up
						require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count, "WhatsApp has it")
						time.Sleep(link - time.Minute)
					}
					w.sim.Heal()
					time.Sleep(time.Hour)
					require.Equal(t, 1, a.taken("slow"))
					require.Empty(t, a.m.Messages())
					require.Empty(t, w.device().Pending())
					a.balanced()
					a.stop()
				})
			})
		}
	}
}
