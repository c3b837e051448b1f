package stability_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// whatsmeow says Connected seconds after the link died, when its first queries
// have timed out.
func TestAConnectedThatComesAfterTheLinkDiedDoesNotCount(t *testing.T) {
	for _, next := range []wasim.Fault{wasim.Refused(), wasim.HelloDelay(time.Hour), wasim.UpgradeHang()} {
		for _, who := range []string{"run", "by hand", "by hand without the tap"} {
			t.Run(next.String()+", "+who, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					var a *named
					if who == "run" {
						a = w.named("a").run()
					} else {
						h := w.byHand()
						h.plain = who != "by hand"
						a = h.activate().named
					}
					a.pair()
					time.Sleep(2 * time.Minute)
					a.forget0()
					w.sim.Fault(wasim.DropAfterSuccess()).Times(1).OnNextLogin()
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
					a.reached(2, stability.EventDisconnected)
					always := w.sim.Fault(next).Always().OnNextLogin()
					for range 600 {
						time.Sleep(50 * time.Millisecond)
						require.NotEqual(t, reconnect.StatusConnected, a.status().WA)
					}
					require.Empty(t, a.history(stability.EventConnected))
					always.Stop()
					a.ready()
					_, err := w.say("it works")
					require.NoError(t, err)
					w.await("the message", func() bool { return len(a.texts()) == 1 })
					require.NoError(t, a.m.Close(t.Context()))
					w.close()
				})
			})
		}
	}
}

// A stanza that ends a connection waits in the client's queue behind a slow
// handler, and must not be handled on the next connection: neither as its end,
// nor so that its own end is silent.
func TestAStanzaLeftOverFromOneConnectionDoesNotEndTheNext(t *testing.T) {
	for _, f := range []wasim.Fault{wasim.Replaced(), wasim.StreamError("503"), wasim.DeviceRemoved()} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,plain=%v", f, plain), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := &world{t: t, sim: wasim.New(wasim.WithTB(t), wasim.WithFewKeys(), wasim.WithCloseDelay(0)), memory: newWorld(t).memory}
					w.account = w.sim.NewAccount("491520000001")
					h := w.byHand()
					h.plain = plain
					var slow atomic.Bool
					h.onEvent = func(evt any) {
						if _, ok := evt.(*events.Receipt); ok && slow.Load() {
							time.Sleep(300 * time.Millisecond)
						}
					}
					h.activate()
					h.pair()
					for range 5 {
						time.Sleep(2 * time.Minute)
						h.forget0()
						logins := w.logins()
						slow.Store(true)
						w.flood(20, time.Millisecond)
						time.Sleep(50 * time.Millisecond)
						if f.String() == wasim.DeviceRemoved().String() {
							break
						}
						w.sim.Fault(f).For(w.account.JID()).Now()
						e := h.reached(1, stability.EventDisconnected)
						slow.Store(false)
						if e.Decision.Delay > 10*time.Second { // not yet quiet, if anything is left over
							time.Sleep(time.Second)
							h.m.Reconnect()
						}
						h.reached(1, stability.EventConnected)
						time.Sleep(time.Minute)
						require.Len(t, h.history(stability.EventDisconnected), 1, "the new connection is healthy")
						require.Equal(t, logins+1, w.logins())
						w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
						e = h.reached(2, stability.EventDisconnected)
						require.Equal(t, reconnect.ReasonConnectionClosed, e.Reason, "its end is heard")
						h.ready()
					}
					slow.Store(false)
					h.finish()
				})
			})
		}
	}
}

func TestTheReasonIsKnownEvenIfTheLinkDropsAtOnceBehindIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := &world{t: t, sim: wasim.New(wasim.WithTB(t), wasim.WithFewKeys(), wasim.WithCloseDelay(0)), memory: newWorld(t).memory}
		w.account = w.sim.NewAccount("491520000001")
		a := w.named("a").run().pair()
		for range stabilitytest.Pick(20, 60) {
			time.Sleep(2 * time.Hour) // no second replacement within the window
			a.forget0()
			logins := w.logins()
			w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
			require.Equal(t, reconnect.ReasonConnectionReplaced, a.reached(1, stability.EventDisconnected).Reason)
			a.reached(1, stability.EventConnected)
			require.Equal(t, logins+1, w.logins())
			a.forget0()
			w.sim.Fault(wasim.StreamError("503")).For(w.account.JID()).Now()
			require.Equal(t, reconnect.ReasonServiceUnavailable, a.reached(1, stability.EventDisconnected).Reason)
			a.reached(1, stability.EventConnected)
		}
		a.stop()
		w.close()
	})
}

func TestAServerThatIsSilentAfterTheLoginIsGivenUpInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(2 * time.Minute)
		a.forget0()
		silent := w.sim.Fault(wasim.Silence()).Always().OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		begin := a.reached(1, stability.EventDisconnected)
		e := a.reached(2, stability.EventDisconnected)
		require.Equal(t, reconnect.ReasonTimedOut, e.Reason)
		require.Less(t, e.Time.Sub(begin.Time), 35*time.Second)
		require.Empty(t, a.history(stability.EventConnected))
		silent.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestRestartRequiredForEverIsThrottled(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("a send while the link drops is whatsmeow's own race: it is what this test makes happen")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		time.Sleep(2 * time.Minute)
		logins := w.logins()
		always := w.sim.Fault(wasim.StreamError("515")).For(w.account.JID()).Always()
		always.OnNextLogin()
		w.sim.Fault(wasim.StreamError("515")).For(w.account.JID()).Now()
		time.Sleep(10 * time.Minute)
		require.Less(t, w.logins()-logins, 25)
		require.Greater(t, w.logins()-logins, 5)
		always.Stop()
		a.ready()
		a.stop()
		w.close()
	})
}

func TestWhenTheCodesRunOutAtTheServiceNewOnesAreOffered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run()
		first := <-a.codes
		w.sim.Fault(wasim.RefsExhausted()).Now()
		var second stability.QR
		w.await("a new code", func() bool {
			for len(a.codes) > 0 {
				second = <-a.codes
			}
			return second.Code != ""
		})
		require.NotEqual(t, first.Code, second.Code)
		require.ErrorIs(t, w.account.Phone().Scan(first.Code), wasim.ErrNoSuchCode)
		require.NoError(t, w.account.Phone().Scan(second.Code))
		a.ready()
		a.stop()
		w.close()
	})
}

func TestStanzasStreamingWhileItIsCutLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithReconnect(reconnect.Policy{InitialDelay: 20 * time.Millisecond, MaxDelay: 100 * time.Millisecond}),
			stability.WithAutoHeal(autoheal.Policy{Disabled: true})).run().pair()
		device := w.device()
		stop := w.chatter(20 * time.Millisecond)
		for n := range stabilitytest.Pick(40, 200) {
			a.ready()
			w.flood(200, time.Duration(rand.N(500))*time.Microsecond)
			time.Sleep(rand.N(60 * time.Millisecond))
			switch n % 4 {
			case 0:
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
			case 1:
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
			case 2:
				w.sim.Fault(wasim.StreamError("515")).For(w.account.JID()).Now()
			default:
				a.m.Reconnect()
			}
			time.Sleep(time.Millisecond)
		}
		a.ready()
		sent := stop()
		time.Sleep(time.Minute)
		onceEach(t, sent, a.texts())
		require.Zero(t, device.Stats().Replaced)
		require.Zero(t, device.Stats().RetryReceipts)
		a.stop() // the bubble ends only when every goroutine has
		w.close()
	})
}

func TestAHandlerThatIsStuckDoesNotHoldUpRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a")
		release := make(chan struct{})
		var stuck, late atomic.Bool
		a.onEvent = func(evt any) {
			if _, ok := evt.(*events.Message); !ok || stuck.Swap(true) {
				return
			}
			c := a.m.Client()
			<-release
			// It wakes up when its connection is long gone, and answers.
			if _, err := c.SendMessage(context.Background(), w.peer().JID(), text("too late")); err == nil {
				late.Store(true)
			}
		}
		a.run().pair()
		time.Sleep(2 * time.Minute)
		a.forget0()
		_, err := w.say("m0")
		require.NoError(t, err)
		time.Sleep(time.Second)
		logins := w.logins()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		start := time.Now()
		a.reached(1, stability.EventConnected)
		require.Less(t, time.Since(start), 20*time.Second, "with a new client")
		require.Equal(t, logins+1, w.logins())
		a.mu.Lock()
		require.Equal(t, 2, a.setups)
		a.mu.Unlock()
		_, err = w.say("m1")
		require.NoError(t, err)
		w.await("the next message came to the new client", func() bool { return len(a.texts()) == 1 })
		require.NoError(t, a.send(w.peer().JID(), "in time"))

		time.Sleep(6 * time.Minute)
		old := a.lines.times()
		old = old[:len(old)-1]
		close(release)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"m1", "m0"}, a.texts(), "nothing was handed over a second time")
		require.False(t, late.Load(), "nothing of the stuck one is sent")
		require.Equal(t, []string{"in time"}, w.peer().Texts())
		require.Equal(t, old, a.lines.times()[:len(old)], "the old connections stay silent")
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		require.Equal(t, logins+1, w.logins())
		a.stop()
		w.close()
	})
}
