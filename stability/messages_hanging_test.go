package stability_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

func TestHandlerThatHangsOnAKeptMessageHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var mu sync.Mutex
		tries := make(map[string]int)
		a.refuse = func(e *events.Message) bool {
			text := e.Message.GetConversation()
			mu.Lock()
			tries[text]++
			n := tries[text]
			mu.Unlock()
			if n == 1 {
				panic("not ready yet")
			}
			if text == "text 0" {
				time.Sleep(time.Hour)
			}
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		carol := w.writer()
		for i := range 10 {
			_, err := carol.Send(w.account.JID(), fmt.Sprint("text ", i))
			require.NoError(t, err)
		}
		w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == 10 })
		time.Sleep(5 * time.Minute)
		require.Len(t, a.texts(), 9)
		r := a.balanced()
		require.Equal(t, 1, r.By[stability.MessageInHand].Count, "%+v", r)
		require.Contains(t, r.Text, "A handler of the program has not returned from a message for")
		time.Sleep(time.Hour)
		require.Len(t, a.texts(), 10)
		r = a.balanced()
		require.Zero(t, r.Waiting.Count, "%+v", r)
		require.Empty(t, r.Text)
		a.stop()
	})
}

// Three messages are to be handed over, and the last one is removed while the first
// one is with its handler.
func TestMessageThatWasRemovedMeanwhileIsNotHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var ready, with atomic.Bool
		a.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() == "" {
				return false
			}
			if !ready.Load() {
				panic("not ready yet")
			}
			with.Store(true)
			time.Sleep(20 * time.Second)
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		was := a.balanced()
		_, err := w.writer().Send(w.account.JID(), "first", "second", "third")
		require.NoError(t, err)
		w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == 3 })
		third := a.m.Messages()[2].Entry
		ready.Store(true)
		for _, m := range a.m.Messages() {
			require.NoError(t, a.m.Redeliver(t.Context(), m.Entry))
		}
		w.await("the first is with its handler", with.Load)
		require.NoError(t, a.m.PurgeMessage(t.Context(), third))
		time.Sleep(5 * time.Minute)
		require.Equal(t, []string{"first", "second"}, a.written())
		r := a.balanced()
		require.EqualValues(t, 2, r.Total-was.Total)
		require.EqualValues(t, 2, r.Handled-was.Handled)
		require.Empty(t, a.m.Messages())
		a.stop()
	})
}

// As many handlers hang as are let hang, one more message is kept, and one is refused.
func TestHandlersThatHangDoNotHoldUpARedelivery(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		over := make(chan struct{})
		var mu sync.Mutex
		tries := make(map[string]int)
		a.refuse = func(e *events.Message) bool {
			text := e.Message.GetConversation()
			mu.Lock()
			tries[text]++
			n := tries[text]
			mu.Unlock()
			switch {
			case text == "":
			case text == "refused":
				return n == 1
			case n == 1:
				panic("not ready yet")
			default:
				<-over
			}
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		carol := w.writer()
		for i := range 9 {
			_, err := carol.Send(w.account.JID(), fmt.Sprint("kept ", i))
			require.NoError(t, err)
		}
		w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == 9 })
		for _, m := range a.m.Messages() {
			require.NoError(t, a.m.Redeliver(t.Context(), m.Entry))
		}
		w.await("eight hang", func() bool { return a.balanced().By[stability.MessageInHand].Count == 8 })
		time.Sleep(2 * time.Minute)
		_, err := carol.Send(w.account.JID(), "refused")
		require.NoError(t, err)
		time.Sleep(20 * time.Minute)
		require.Contains(t, a.texts(), "refused", "the service has delivered it again")
		close(over)
		time.Sleep(20 * time.Minute)
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}

// The backend fails while kept messages are handed over. Without the note of one no other
// is handed over.
func TestKeptMessagesAreNotHandedOverThroughAnOutage(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var ready atomic.Bool
				var outage sync.Once
				var mu sync.Mutex
				took := make(map[string]int)
				var a *tended
				refuse := func(e *events.Message) bool {
					text := e.Message.GetConversation()
					if text == "" {
						return false
					}
					if !ready.Load() {
						panic("not ready yet")
					}
					mu.Lock()
					defer mu.Unlock()
					took[text]++
					outage.Do(func() { a.wire.hang(anyCall) })
					return false
				}
				begin := func(label string) *tended {
					n := w.tended(label, stability.WithAutoHeal(noHeal))
					n.refuse = refuse
					return n
				}
				a = begin("a")
				a.run().pair()
				time.Sleep(time.Minute)
				carol := w.writer()
				const n = 30
				for i := range n {
					_, err := carol.Send(w.account.JID(), fmt.Sprint("kept ", i))
					require.NoError(t, err)
				}
				w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == n })
				ready.Store(true)
				now := a
				if killed {
					w.await("one is handed over", func() bool { mu.Lock(); defer mu.Unlock(); return len(took) > 0 })
					time.Sleep(10 * time.Second)
					a.crash()
					time.AfterFunc(10*time.Minute, a.kill)
					now = begin("b")
					now.run()
				} else {
					time.Sleep(10 * time.Minute)
					a.wire.heal()
				}
				time.Sleep(30 * time.Minute)
				now.ready()
				require.Empty(t, now.m.Messages())
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, took, n)
				twice := 0
				for _, n := range took {
					twice += n - 1
				}
				require.LessOrEqual(t, twice, 2, "%v", took)
				now.stop()
			})
		})
	}
}

func TestSlowHandlerThroughHandOversIsNoDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		over := make(chan struct{})
		var slow atomic.Bool
		slow.Store(true)
		start := func(label string) *tended {
			n := w.tended(label, stability.WithAutoHeal(noHeal))
			n.refuse = func(*events.Message) bool {
				if slow.Load() {
					<-over
				}
				return false
			}
			return n.run()
		}
		a := start("first").pair()
		time.Sleep(time.Minute)
		// An earlier process did die: each message is written down before it is handled.
		a.crash()
		a = start("after a crash")
		a.ready()
		_, err := w.writer().Send(w.account.JID(), "innocent")
		require.NoError(t, err)
		for i := range 5 {
			w.await("it is with the handler", func() bool { return a.balanced().By[stability.MessageInHand].Count == 1 })
			a.cancel()
			require.NoError(t, <-a.result)
			a = start(fmt.Sprint("deploy ", i))
			a.ready()
		}
		require.Zero(t, a.balanced().By[stability.MessageLeftAlone].Count)
		slow.Store(false)
		close(over)
		w.await("it is handled", func() bool { return len(a.texts()) == 1 })
		time.Sleep(time.Minute)
		require.Empty(t, a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}

func TestAtMostEightHandlersHangOnKeptMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		over := make(chan struct{})
		var ready atomic.Bool
		var running, most atomic.Int32
		a.refuse = func(*events.Message) bool {
			if !ready.Load() {
				panic("not ready yet")
			}
			most.Store(max(most.Load(), running.Add(1)))
			<-over
			running.Add(-1)
			return false
		}
		a.run().pair()
		time.Sleep(time.Minute)
		carol := w.writer()
		for i := range 12 {
			_, err := carol.Send(w.account.JID(), fmt.Sprint("text ", i))
			require.NoError(t, err)
		}
		w.await("all are kept", func() bool { return a.balanced().By[stability.MessageKept].Count == 12 })
		ready.Store(true)
		time.Sleep(time.Hour)
		require.EqualValues(t, 8, most.Load())
		require.Contains(t, a.balanced().Text, "Handlers of the program have not returned from 8 messages")
		close(over)
		w.await("all are handled", func() bool { return len(a.texts()) == 12 })
		time.Sleep(time.Second)
		require.Zero(t, a.balanced().Waiting.Count)
		a.stop()
	})
}
