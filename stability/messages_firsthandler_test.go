package stability_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waCommon"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/proto/waHistorySync"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// The host's handler was added before the client was attached, so it hears of a message
// before the Manager does.
func TestMessageThatAHandlerBeforeAttachDoesNotTakeComesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		no    func() bool
		state stability.MessageState
		why   string
	}{
		"refused":  {func() bool { return true }, stability.MessageRefused, "a handler of the program returned false"},
		"panicked": {func() bool { panic("not ready") }, stability.MessageKept, "a handler of the program panicked: not ready"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				h := w.byHand(stability.WithAutoHeal(noHeal))
				ok, err := h.m.TryActivate(t.Context())
				require.NoError(t, err)
				require.True(t, ok)
				d, err := h.m.AuthState(t.Context())
				require.NoError(t, err)
				var down atomic.Bool
				down.Store(true)
				h.refuse = func(e *events.Message) bool {
					return down.Load() && e.Message.GetConversation() != "" && c.no()
				}
				h.client = whatsmeow.NewClient(d, h.m.Logger(nil))
				h.client.ManualHistorySyncDownload = true
				h.client.AddEventHandlerWithSuccessStatus(h.handle)
				require.NoError(t, h.m.Attach(h.client))
				h.client.AddEventHandler(h.watch)
				require.NoError(t, h.connect(t.Context()))
				h.pair()
				w.getMessage("take me")
				time.Sleep(10 * time.Second)
				state := func() {
					list := h.m.Messages()
					require.Len(t, list, 1)
					require.Equal(t, c.state, list[0].State)
					require.Equal(t, c.why, list[0].Why)
				}
				state()
				time.Sleep(10 * time.Minute) // it is tried again
				state()
				down.Store(false)
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"take me"}, h.written())
				require.Empty(t, h.m.Messages())
				require.Empty(t, w.device().Pending())
				h.balanced()
				h.finish()
			})
		})
	}
}

// first is an option: a handler stands before the Manager's, and refuses what no says.
func first(no func(*events.Message) bool) stability.Option {
	return stability.WithNewClient(func(d *store.Device, l waLog.Logger) *whatsmeow.Client {
		c := whatsmeow.NewClient(d, l)
		c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
			e, ok := evt.(*events.Message)
			return !ok || !no(e)
		})
		return c
	})
}

func TestPoisonousMessageThatAHandlerBeforeAttachRefusesIsSetAside(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	for name, no := range map[string]func() bool{
		"refused":  func() bool { return true },
		"panicked": func() bool { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var poison atomic.Bool
				var tries atomic.Int32
				poison.Store(true)
				a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
					if e.Message.GetConversation() != "poison" || !poison.Load() {
						return false
					}
					tries.Add(1)
					return no()
				}))
				a.run().pair()
				w.getMessage("poison")
				for range 26 {
					time.Sleep(time.Hour)
					w.getMessage("good")
				}
				time.Sleep(time.Minute)
				r := a.balanced()
				require.Equal(t, 1, r.SetAside.Count, "%+v %+v %d", r, a.m.Messages(), tries.Load())
				require.Zero(t, r.Waiting.Count)
				require.GreaterOrEqual(t, tries.Load(), int32(20))
				require.Empty(t, w.device().Pending(), "it is acknowledged")
				a.m.Reconnect()
				time.Sleep(time.Minute)
				before, logins := tries.Load(), w.logins()
				time.Sleep(3 * time.Hour)
				require.Equal(t, before, tries.Load(), "it is left alone")
				require.Equal(t, logins, w.logins())

				list := a.m.Messages()
				require.Len(t, list, 1)
				require.True(t, list[0].HasContent)
				poison.Store(false)
				require.NoError(t, a.m.Redeliver(t.Context(), list[0].Entry))
				time.Sleep(time.Minute)
				require.Equal(t, "poison", a.texts()[len(a.texts())-1])
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}

// The outcome of a handler before the Manager's is told as that of a later one.
func TestHandlerBeforeAttachLosesNoMessage(t *testing.T) {
	revoke := &waE2E.Message{ProtocolMessage: &waE2E.ProtocolMessage{Type: waE2E.ProtocolMessage_REVOKE.Enum(), Key: &waCommon.MessageKey{ID: proto.String("ABC")}}}
	panics := func() bool { panic("not ready") }
	refuses := func() bool { return true }
	ofContact := func(m *waE2E.Message) func(*world) error {
		return func(w *world) error { return w.writer().SendAs("M1", w.account.JID(), m) }
	}
	history := func(w *world) error {
		return w.account.Phone().SendHistory(&waHistorySync.HistorySync{SyncType: waHistorySync.HistorySync_RECENT.Enum()})
	}
	for name, c := range map[string]struct {
		send    func(*world) error
		is      func(*waE2E.Message) bool
		no      func() bool
		state   stability.MessageState
		content bool
	}{
		"a text is refused":          {ofContact(text("take me")), func(m *waE2E.Message) bool { return m.GetConversation() != "" }, refuses, stability.MessageRefused, false},
		"panics at a deletion":       {ofContact(revoke), func(m *waE2E.Message) bool { return m.GetProtocolMessage().GetKey() != nil }, panics, stability.MessageKept, true},
		"panics at the phone's own":  {history, func(m *waE2E.Message) bool { return m.GetProtocolMessage().GetHistorySyncNotification() != nil }, panics, stability.MessageKept, true},
		"the phone's own is refused": {history, func(m *waE2E.Message) bool { return m.GetProtocolMessage().GetHistorySyncNotification() != nil }, refuses, stability.MessageKept, true},
		"a deletion is refused":      {ofContact(revoke), func(m *waE2E.Message) bool { return m.GetProtocolMessage().GetKey() != nil }, refuses, stability.MessageRefused, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var down atomic.Bool
				a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
					return c.is(e.RawMessage) && down.Load() && c.no()
				}))
				var taken atomic.Int32
				a.onEvent = func(evt any) {
					if e, ok := evt.(*events.Message); ok && c.is(e.RawMessage) {
						require.NotEmpty(t, e.Info.Sender.User)
						taken.Add(1)
					}
				}
				a.run().pair()
				time.Sleep(time.Minute)
				taken.Store(0)
				down.Store(true)
				require.NoError(t, c.send(w))
				time.Sleep(10 * time.Second)
				list := a.m.Messages()
				require.Len(t, list, 1, "%+v", a.balanced())
				require.Equal(t, c.state, list[0].State)
				require.Equal(t, c.content, list[0].HasContent)
				require.Zero(t, taken.Load())
				down.Store(false)
				time.Sleep(20 * time.Minute)
				require.EqualValues(t, 1, taken.Load())
				require.Empty(t, a.m.Messages())
				require.Empty(t, w.device().Pending())
				a.balanced()
				a.stop()
			})
		})
	}
}

// Another program has acknowledged the message, so WhatsApp does not deliver it any more.
func TestMessageRefusedBeforeAttachAndGoneIsSetAsideWithItsContent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var down atomic.Bool
		down.Store(true)
		a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
			return down.Load() && e.Message.GetConversation() != ""
		}))
		a.run().pair()
		w.getMessage("take me")
		time.Sleep(5 * time.Minute)
		w.device().Drop()
		time.Sleep(2 * time.Hour)
		list := a.m.Messages()
		require.Len(t, list, 1)
		require.Equal(t, stability.MessageSetAside, list[0].State)
		require.True(t, list[0].HasContent)
		down.Store(false)
		require.NoError(t, a.m.Redeliver(t.Context(), list[0].Entry))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"take me"}, a.written())
		a.balanced()
		a.stop()
	})
}

// Two messages came under one id. The one is set aside, and the other is refused.
func TestMessageRefusedBeforeAttachLeavesTheOtherUnderItsID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var down atomic.Bool
		down.Store(true)
		a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
			return down.Load() && e.Message.GetConversation() != ""
		}))
		a.run().pair()
		carol := w.writer()
		require.NoError(t, carol.SendAs("M1", w.account.JID(), text("one")))
		time.Sleep(5 * time.Minute)
		w.device().Drop()
		time.Sleep(2 * time.Hour)
		require.NoError(t, carol.SendAs("M1", w.account.JID(), text("another")))
		time.Sleep(10 * time.Second)
		r := a.balanced()
		require.Equal(t, 1, r.SetAside.Count, "%+v", a.m.Messages())
		require.Equal(t, 1, r.By[stability.MessageRefused].Count)
		down.Store(false)
		time.Sleep(20 * time.Minute)
		require.Equal(t, []string{"another"}, a.written())
		require.NoError(t, a.m.Redeliver(t.Context(), a.m.Messages()[0].Entry))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"another", "one"}, a.written())
		a.balanced()
		a.stop()
	})
}

// The store refuses to set it aside, and then a handler panics at it.
func TestPoisonousMessageThatCannotBeSetAsideIsKeptOnce(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		s := &hurtServer{server: w.memory}
		w.memory = s
		var last, done atomic.Bool
		a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
			switch {
			case e.Message.GetConversation() != "poison" || done.Load():
				return false
			case last.Load():
				s.heal()
				panic("boom")
			}
			return true
		}))
		a.run().pair()
		w.getMessage("poison")
		for range 24 {
			time.Sleep(59 * time.Minute)
			w.getMessage("good")
		}
		time.Sleep(23 * time.Minute)
		last.Store(true)
		s.refuse("message")
		time.Sleep(2 * time.Hour)
		list := a.m.Messages()
		require.Len(t, list, 1)
		require.Equal(t, stability.MessageSetAside, list[0].State)
		done.Store(true)
		require.NoError(t, a.m.Redeliver(t.Context(), list[0].Entry))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"poison"}, a.texts()[24:])
		a.balanced()
		a.stop()
	})
}

// A handler that stands before the Manager's writes another thing into the message each time.
func TestMessageThatAHandlerBeforeAttachWritesIntoIsTheSameMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var down atomic.Bool
		var times atomic.Int32
		down.Store(true)
		a := w.instance(stability.WithAutoHeal(noHeal), first(func(e *events.Message) bool {
			if e.RawMessage.Conversation != nil {
				*e.RawMessage.Conversation += fmt.Sprint(" ", times.Add(1))
			}
			return false
		}))
		a.refuse = func(*events.Message) bool { return down.Load() }
		a.run().pair()
		_, err := w.say("take me")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Len(t, a.m.Messages(), 1)
		require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count, "%+v", a.m.Messages())
		down.Store(false)
		time.Sleep(20 * time.Minute)
		require.Len(t, a.written(), 1)
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}
