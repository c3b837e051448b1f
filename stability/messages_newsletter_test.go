package stability_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// post is a message of a newsletter.
func (w *world) post(id, s string) {
	w.t.Helper()
	raw, err := proto.Marshal(text(s))
	require.NoError(w.t, err)
	w.device().Deliver(waBinary.Node{
		Tag:     "message",
		Attrs:   waBinary.Attrs{"id": id, "from": types.NewJID("120363000000000001", types.NewsletterServer), "t": time.Now().Unix(), "type": "text"},
		Content: []waBinary.Node{{Tag: "plaintext", Content: raw}},
	})
}

// acknowledging is an option: the client has SynchronousAck so.
func acknowledging(sync bool) stability.Option {
	return stability.WithNewClient(func(d *store.Device, l waLog.Logger) *whatsmeow.Client {
		c := whatsmeow.NewClient(d, l)
		c.SynchronousAck = sync
		return c
	})
}

func TestNewsletterThatIsNotTakenComesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		sync    bool
		no      func() bool
		state   stability.MessageState
		pending int
	}{
		"refused, with SynchronousAck":     {true, func() bool { return true }, stability.MessageRefused, 1},
		"panicked at, with SynchronousAck": {true, func() bool { panic("boom") }, stability.MessageKept, 0},
		"panicked at, without":             {false, func() bool { panic("boom") }, stability.MessageKept, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal), acknowledging(c.sync))
				var down atomic.Bool
				down.Store(true)
				a.refuse = func(*events.Message) bool { return down.Load() && c.no() }
				a.run().pair()
				time.Sleep(time.Minute)
				w.post("N1", "news")
				time.Sleep(10 * time.Second)
				r := a.balanced()
				require.Equal(t, 1, r.By[c.state].Count, "%+v", r)
				require.Len(t, w.device().Pending(), c.pending)
				down.Store(false)
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"news"}, a.texts())
				require.Empty(t, a.m.Messages())
				require.Empty(t, w.device().Pending())
				w.post("N2", "more news")
				time.Sleep(time.Minute)
				require.Equal(t, []string{"news", "more news"}, a.texts())
				require.EqualValues(t, 2, a.balanced().Handled)
				require.Zero(t, a.balanced().Waiting.Count)
				a.stop()
			})
		})
	}
}

func TestNewsletterBeforeAHandlerIsThereIsKept(t *testing.T) {
	for _, sync := range []bool{true, false} {
		t.Run(fmt.Sprintf("SynchronousAck=%v", sync), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal), acknowledging(sync))
				a.run().pair()
				time.Sleep(time.Minute)
				c := a.m.Client()
				c.RemoveEventHandlers()
				w.post("N1", "news")
				time.Sleep(10 * time.Second)
				require.Equal(t, 1, a.balanced().Waiting.Count)
				c.AddEventHandlerWithSuccessStatus(a.handle)
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"news"}, a.texts())
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}

// whatsmeow has acknowledged it before any handler hears of it, so nobody delivers it again.
func TestNewsletterThatNoHandlerWasGivenAtAnEndIsKept(t *testing.T) {
	for _, end := range []string{"the link drops", "the account is handed over"} {
		t.Run(end, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				slow := first(func(*events.Message) bool { time.Sleep(5 * time.Second); return false })
				a := w.tended("a", stability.WithAutoHeal(noHeal), acknowledging(false), slow)
				a.run().pair()
				time.Sleep(time.Minute)
				w.post("N1", "news")
				time.Sleep(time.Second)
				b := a
				if end == "the link drops" {
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				} else {
					a.stop()
					require.Empty(t, a.texts())
					b = w.tended("b", stability.WithAutoHeal(noHeal), acknowledging(false), slow)
					b.run()
				}
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"news"}, b.texts())
				require.Empty(t, b.m.Messages())
				b.balanced()
				b.stop()
			})
		})
	}
}

func TestPoisonousNewsletterIsSetAsideAndAcknowledged(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal), acknowledging(true))
		var poison atomic.Bool
		poison.Store(true)
		a.refuse = func(e *events.Message) bool { return poison.Load() && e.Message.GetConversation() == "poison" }
		a.run().pair()
		w.post("N1", "poison")
		for i := range 26 {
			time.Sleep(time.Hour)
			w.post(fmt.Sprint("G", i), "good")
		}
		time.Sleep(time.Minute)
		r := a.balanced()
		require.Equal(t, 1, r.SetAside.Count, "%+v", r)
		require.Empty(t, w.device().Pending(), "it is acknowledged")
		poison.Store(false)
		require.NoError(t, a.m.Redeliver(t.Context(), a.m.Messages()[0].Entry))
		time.Sleep(time.Minute)
		require.Equal(t, "poison", a.texts()[26])
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}

// The connection ends while a handler has it. The handler takes it, and WhatsApp does not hear of that.
func TestNewsletterTakenBehindItsConnectionIsNotToldAsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal), acknowledging(true))
		a.run().pair()
		time.Sleep(time.Minute)
		a.turns(func(*events.Message) bool {
			if len(a.texts()) == 0 {
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
				time.Sleep(100 * time.Millisecond)
			}
			return false
		})
		w.post("N1", "news")
		w.await("it was taken", func() bool { return len(a.texts()) == 1 })
		synctest.Wait()
		require.Empty(t, a.m.Messages())
		require.Equal(t, 1, a.balanced().By[stability.MessageAtService].Count)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"news", "news"}, a.texts(), "WhatsApp delivers it again")
		require.Zero(t, a.balanced().Waiting.Count)
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}

// acknowledgingFirst is acknowledging and first.
func acknowledgingFirst(sync bool, no func(*events.Message) bool) stability.Option {
	return stability.WithNewClient(func(d *store.Device, l waLog.Logger) *whatsmeow.Client {
		c := whatsmeow.NewClient(d, l)
		c.SynchronousAck = sync
		c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
			e, ok := evt.(*events.Message)
			return !ok || !no(e)
		})
		return c
	})
}

func TestNewsletterThatAHandlerBeforeAttachDoesNotTakeComesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		sync    bool
		no      func() bool
		state   stability.MessageState
		pending int
	}{
		"refused, with SynchronousAck":     {true, func() bool { return true }, stability.MessageRefused, 1},
		"refused, without":                 {false, func() bool { return true }, stability.MessageKept, 0},
		"panicked at, with SynchronousAck": {true, func() bool { panic("boom") }, stability.MessageKept, 0},
		"panicked at, without":             {false, func() bool { panic("boom") }, stability.MessageKept, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var down atomic.Bool
				down.Store(true)
				a := w.instance(stability.WithAutoHeal(noHeal), acknowledgingFirst(c.sync, func(*events.Message) bool { return down.Load() && c.no() }))
				a.run().pair()
				time.Sleep(time.Minute)
				w.post("N1", "news")
				time.Sleep(10 * time.Second)
				r := a.balanced()
				require.Equal(t, 1, r.By[c.state].Count, "%+v", a.m.Messages())
				require.Len(t, w.device().Pending(), c.pending)
				down.Store(false)
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"news"}, a.texts())
				require.Empty(t, a.m.Messages())
				require.Empty(t, w.device().Pending())
				a.balanced()
				a.stop()
			})
		})
	}
}

func TestPoisonousNewsletterThatAHandlerBeforeAttachRefusesIsSetAside(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var poison atomic.Bool
		poison.Store(true)
		a := w.instance(stability.WithAutoHeal(noHeal), acknowledgingFirst(true, func(e *events.Message) bool {
			return poison.Load() && e.RawMessage.GetConversation() == "poison"
		}))
		a.run().pair()
		w.post("N1", "poison")
		for i := range 26 {
			time.Sleep(time.Hour)
			w.post(fmt.Sprint("G", i), "good")
		}
		time.Sleep(time.Minute)
		r := a.balanced()
		require.Equal(t, 1, r.SetAside.Count, "%+v", a.m.Messages())
		require.Zero(t, r.Waiting.Count)
		require.Empty(t, w.device().Pending(), "it is acknowledged")
		logins := w.logins()
		time.Sleep(time.Hour)
		require.Equal(t, logins, w.logins())
		poison.Store(false)
		require.NoError(t, a.m.Redeliver(t.Context(), a.m.Messages()[0].Entry))
		time.Sleep(time.Minute)
		require.Equal(t, "poison", a.texts()[26])
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}
