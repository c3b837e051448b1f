package stability_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
)

// A kept message is with a handler when the term ends, and is taken behind that. The
// instance is the holder again later, and nobody has had the message meanwhile.
func TestKeptMessageTakenBetweenTermsIsHandledOnce(t *testing.T) {
	t.Parallel()
	for when, heal := range map[string]bool{"while the backend is away": false, "as the next term begins": true} {
		t.Run(when, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.exchanging("a")
				a.run().pair()
				w.getMessage("kept")
				w.await("it is with its handler again", a.with.Load)
				a.wire.fail(anyCall)
				w.await("the term is over", func() bool { return a.status().Mode == stability.ModePassive })
				if heal {
					a.readsAnother(a.wire.heal)
				}
				a.ends <- takes
				time.Sleep(time.Minute)
				a.wire.delay("scan", 0)
				a.wire.heal()
				a.ready()
				time.Sleep(time.Hour)
				require.Equal(t, 1, a.taken("kept"))
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
				b := w.exchanging("b")
				b.run().ready()
				require.Empty(t, b.m.Messages(), "its row is removed")
				b.stop()
			})
		})
	}
}

// The same, but another holder was given the message meanwhile: its row is the truth.
func TestKeptMessageThatAnotherHolderHasHadIsAsThatOneLeftIt(t *testing.T) {
	for name, its := range map[string]func() bool{"it has taken the message": takes, "it has not": panics} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.exchanging("a")
				a.run().pair()
				w.getMessage("kept")
				w.await("it is with its handler again", a.with.Load)
				b := w.exchanging("b")
				b.tries["kept"] = 1
				b.run()
				a.wire.hang(anyCall)
				w.await("another holder has it", b.with.Load)
				a.ends <- takes
				b.ends <- its
				time.Sleep(time.Second)
				b.stop()
				a.wire.heal()
				a.ready()
				time.Sleep(time.Hour)
				require.Empty(t, a.m.Messages())
				if b.taken("kept") > 0 {
					require.Equal(t, 1, a.taken("kept"), "before")
				} else {
					require.Equal(t, 2, a.taken("kept"), "somebody has changed its row, so nobody knows that it is the same")
				}
				a.balanced()
				a.stop()
			})
		})
	}
}

// The backend refuses the book for a while, and takes everything else.
func TestMessageThatCouldNotBeWrittenDownIsWrittenLater(t *testing.T) {
	for name, end := range map[string]func(w *world, a *exchange){
		"a kill some minutes later": func(w *world, a *exchange) {
			time.Sleep(12 * time.Minute)
			require.Empty(t, w.device().Pending(), "they are acknowledged")
			a.crash()
		},
		"a hand-over at once": func(_ *world, a *exchange) { a.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				s := &hurtServer{server: w.memory}
				w.memory = s
				a := w.exchanging("a")
				var down atomic.Bool
				down.Store(true)
				a.refuse = func(*events.Message) bool {
					if down.Load() {
						panic("down")
					}
					return false
				}
				a.run().pair()
				time.Sleep(time.Minute)
				s.refuse("message")
				for range 20 {
					w.getMessage("a message")
				}
				time.Sleep(time.Hour)
				require.Equal(t, 20, a.balanced().By[stability.MessageKept].Count)
				s.heal()
				end(w, a)

				b := w.tended("b", stability.WithAutoHeal(noHeal))
				b.run().ready()
				time.Sleep(time.Hour)
				require.Len(t, b.texts(), 20)
				require.Empty(t, b.m.Messages())
				b.stop()
			})
		})
	}
}

// The handlers refuse a hundred messages, and are back when the backend goes away for
// an hour.
func TestAnOutageCostsNoMessageThatIsTakenDuringIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const n = 100
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		var mu sync.Mutex
		took := make(map[string]int)
		var down atomic.Bool
		down.Store(true)
		a.refuse = func(e *events.Message) bool {
			text := e.Message.GetConversation()
			if text == "" {
				return false
			}
			if down.Load() {
				if text[0] == 'p' {
					panic("down")
				}
				return true
			}
			mu.Lock()
			defer mu.Unlock()
			took[text]++
			return false
		}
		a.run().pair()
		carol := w.writer()
		for i := range n {
			_, err := carol.Send(w.account.JID(), fmt.Sprint([]string{"panic ", "refuse "}[i%2], i))
			require.NoError(t, err)
		}
		time.Sleep(20 * time.Minute)
		require.Equal(t, n, a.balanced().Waiting.Count)
		a.wire.fail(only("commit"))
		down.Store(false)
		time.Sleep(time.Hour)
		a.wire.heal()
		a.ready()
		time.Sleep(2 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, took, n)
		twice := make(map[byte]int)
		for text, n := range took {
			twice[text[0]] += n - 1
		}
		require.Zero(t, twice['p'], "%v", took)
		require.LessOrEqual(t, twice['r'], 1, "at most the one that was with its handler when the backend was found to be gone: %v", took)
		require.Empty(t, a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.balanced()
		a.stop()
	})
}

// A logged-out device is being set aside when the term ends. The one that takes its place
// must not outlive the term.
func TestDeviceThatIsReadAsTheTermEndsIsOverWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		backend, wire := through(w.memory.Backend())
		store := authstore.New(backend.Auth)
		a := w.exchanging("a", stability.WithPairingOnRequest(), stability.WithAuthStore(store))
		a.run()
		_, err := a.m.WaitQR(t.Context())
		require.NoError(t, err)
		a.pair()
		w.getMessage("slow")
		w.await("whatsmeow does not come to delete the device", a.with.Load)
		defer func() { a.ends <- takes }()
		was := wire.count("scan")
		wire.delay("scan", time.Second)
		wire.slow(2 * time.Second)
		w.account.Phone().RemoveDevice(w.device())
		w.await("it is read once more", func() bool { return wire.count("scan") > was })
		commits := wire.count("commit")
		w.await("it is being deleted", func() bool { return wire.count("commit") > commits })
		a.wire.delay("release", 4*time.Second) // so that another one has time to arrive
		a.cancel()
		require.NoError(t, <-a.result)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = store.Info(over)
		require.ErrorIs(t, err, context.Canceled, "no device is in memory")
		require.NoError(t, a.m.Close(t.Context()))
	})
}
