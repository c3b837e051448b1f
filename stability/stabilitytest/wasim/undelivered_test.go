package wasim_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// tap keeps the stanzas that a client received: its events do not tell which
// of them are marked offline.
type tap struct {
	waLog.Logger
	mu   sync.Mutex
	seen []string
}

func newTap() *tap { return &tap{Logger: waLog.Noop} }

func (p *tap) Sub(module string) waLog.Logger {
	if module == "Recv" {
		return p
	}
	return waLog.Noop
}

func (p *tap) Debugf(msg string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, fmt.Sprintf(msg, args...))
}

// stanzas are the received ones with this tag and id.
func (p *tap) stanzas(tag, id string) (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seen {
		if head, _, _ := strings.Cut(s, ">"); strings.HasPrefix(head, "<"+tag+" ") && strings.Contains(head, `id="`+id+`"`) {
			out = append(out, head)
		}
	}
	return out
}

// drop ends the connection of h from the service's side.
func drop(t *testing.T, h *host) {
	t.Helper()
	h.s.Fault(wasim.Reset()).For(h.jid()).Now()
	eventually(t, "down", func() bool { return !h.up() })
	time.Sleep(50 * time.Millisecond)
	h.cli.Disconnect()
	h.cancel()
}

// A message that could not be sent, for any cause, waits for the next login, and
// is not counted as sent before.
func TestWhatCouldNotBeSentComesWithTheNextLoginMarkedOffline(t *testing.T) {
	for _, c := range []struct {
		name string
		// before makes the device unreachable, after makes it so that the next
		// login is due.
		before func(t *testing.T, s *wasim.Service, h *host) (after func())
	}{
		{"no connection", func(t *testing.T, _ *wasim.Service, h *host) func() {
			drop(t, h)
			return func() {}
		}},
		{"a silent connection", func(t *testing.T, s *wasim.Service, h *host) func() {
			require.Equal(t, 1, s.Fault(wasim.Silence()).For(h.jid()).Now().Fired())
			return func() { drop(t, h) }
		}},
		{"a connection that is ending", func(t *testing.T, s *wasim.Service, h *host) func() {
			require.Equal(t, 1, s.Fault(wasim.Conflict("other")).For(h.jid()).Now().Fired()) // the FIN follows in a second
			return func() {
				eventually(t, "down", func() bool { return !h.up() })
				h.cli.Disconnect()
				h.cancel()
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *wasim.Service) {
				acct := s.NewAccount("491700000001")
				bob := newContact(t, s, "491700000002")
				h := online(t, s, acct)
				d := s.Device(h.jid())
				time.Sleep(time.Second)
				before := d.Stats()
				after := c.before(t, s, h)

				var ids []string
				for i := range 2 {
					id, err := bob.Send(within(t, time.Minute), acct.JID(), fmt.Sprint("kept ", i))
					require.NoError(t, err)
					ids = append(ids, id)
				}
				require.Equal(t, ids, d.Pending())
				require.Equal(t, before.MessagesDelivered, d.Stats().MessagesDelivered, "it is nowhere yet")
				require.Equal(t, before.StanzasOut["message"], d.Stats().StanzasOut["message"])
				after()
				require.Equal(t, ids, d.Pending())
				require.Empty(t, texts(h))

				again, seen := recorded(s, h)
				again.login(t)
				eventually(t, "both", func() bool { return len(d.Pending()) == 0 })
				require.Equal(t, []string{"kept 0", "kept 1"}, texts(again))
				for i, id := range ids {
					list := seen.stanzas("message", id)
					require.Len(t, list, 1)
					require.Contains(t, list[0], fmt.Sprintf(`offline="%d"`, i))
				}
				for _, a := range d.Acks() {
					if a.Tag == "message" {
						require.Equal(t, 1, a.Sends, "it was sent once")
					}
				}
				require.Equal(t, before.MessagesDelivered+2, d.Stats().MessagesDelivered)
				require.Zero(t, d.Stats().Redelivered)
				again.end()
			}, wasim.WithCloseDelay(time.Second))
		})
	}
}

// A login takes a while. What comes meanwhile comes with it.
func TestWhatIsSentDuringALoginComesWithIt(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		bob := newContact(t, s, "491700000002")
		dev := pair(t, s, acct)
		seen := newTap()
		h := newHostWith(s, dev, seen, "ours")
		d := s.Device(*dev.ID)
		s.Fault(wasim.HelloDelay(10 * time.Second)).From("ours").Now()
		attempt := make(chan error, 1)
		go func() { attempt <- h.connect() }()
		time.Sleep(5 * time.Second)
		id, err := bob.Send(within(t, time.Minute), acct.JID(), "early")
		require.NoError(t, err)
		require.Equal(t, []string{id}, d.Pending())
		require.Zero(t, d.Stats().MessagesDelivered)
		require.Zero(t, d.Stats().Logins)

		require.NoError(t, <-attempt)
		eventually(t, "it came", func() bool { return len(d.Pending()) == 0 })
		require.Equal(t, []string{"early"}, texts(h))
		require.Contains(t, seen.stanzas("message", id)[0], `offline="0"`)
		require.Equal(t, 1, d.Stats().MessagesDelivered)
		h.end()
	})
}

// recorded is a new client on the device of h, and what it receives.
func recorded(s *wasim.Service, h *host) (*host, *tap) {
	seen := newTap()
	return newHostWith(s, h.dev, seen), seen
}

// A connection that falls silent or ends right behind its login has not got
// what waited for it either.
func TestALoginThatIsCutShortTakesNothing(t *testing.T) {
	for name, fault := range map[string]wasim.Fault{"silent": wasim.Silence(), "ending": wasim.DropAfterSuccess()} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *wasim.Service) {
				acct := s.NewAccount("491700000001")
				bob := newContact(t, s, "491700000002")
				h := newHost(s, pair(t, s, acct))
				d := s.Device(h.jid())
				id, err := bob.Send(within(t, time.Minute), acct.JID(), "waiting")
				require.NoError(t, err)

				s.Fault(fault).For(h.jid()).OnNextLogin()
				require.NoError(t, h.connect())
				time.Sleep(time.Second)
				require.Equal(t, 1, d.Stats().Logins)
				require.Empty(t, texts(h))
				require.Equal(t, []string{id}, d.Pending())
				require.Zero(t, d.Stats().MessagesDelivered)
				drop(t, h)

				again, seen := recorded(s, h)
				again.login(t)
				eventually(t, "it came", func() bool { return len(d.Pending()) == 0 })
				require.Equal(t, []string{"waiting"}, texts(again))
				require.Contains(t, seen.stanzas("message", id)[0], `offline="0"`)
				require.Equal(t, 1, d.Stats().MessagesDelivered)
				require.Zero(t, d.Stats().Redelivered)
				again.end()
			})
		})
	}
}

// Receipts wait as messages do. What is sent to a live connection is not
// marked.
func TestAReceiptThatWaitedIsMarkedOfflineAndALiveOneIsNot(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		bob := newContact(t, s, "491700000002")
		h, seen := recorded(s, newHost(s, pair(t, s, acct)))
		h.login(t)
		greeting, err := bob.Send(within(t, time.Minute), acct.JID(), "live")
		require.NoError(t, err)
		eventually(t, "it came", func() bool { return len(texts(h)) == 1 })
		list := seen.stanzas("message", greeting)
		require.Len(t, list, 1)
		require.NotContains(t, list[0], "offline=")
		drop(t, h)

		_, err = bob.Send(within(t, time.Minute), acct.JID(), "first")
		require.NoError(t, err)
		read := []types.MessageID{"ANYTHING"}
		require.NoError(t, bob.Client().MarkRead(t.Context(), read, time.Now(), acct.JID(), types.EmptyJID))
		time.Sleep(time.Second)
		again, seen := recorded(s, h)
		again.login(t)
		eventually(t, "it came", func() bool { return len(seen.stanzas("receipt", "ANYTHING")) == 1 })
		require.Regexp(t, `offline="[12]"`, seen.stanzas("receipt", "ANYTHING")[0], "behind the message that waited before it")
		again.end()
	})
}

// An acknowledgement into a silent connection is not heard: the message comes
// again.
func TestAnAcknowledgementIntoSilenceIsNotHeard(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		bob := newContact(t, s, "491700000002")
		h := newHost(s, pair(t, s, acct))
		busy, free := make(chan struct{}), make(chan struct{})
		h.cli.AddEventHandler(func(e any) {
			if _, ok := e.(*events.Message); ok {
				close(busy)
				<-free
			}
		})
		h.login(t)
		d := s.Device(h.jid())
		id, err := bob.Send(within(t, time.Minute), acct.JID(), "hello")
		require.NoError(t, err)
		<-busy
		s.Fault(wasim.Silence()).For(h.jid()).Now()
		heard := d.Stats().StanzasIn["receipt"]
		close(free)
		eventually(t, "the receipt is on its way", func() bool { return d.Stats().StanzasIn["receipt"] > heard })
		require.Equal(t, []string{id}, d.Pending())
		require.Empty(t, bob.Receipts())
		drop(t, h)

		again, seen := recorded(s, h)
		again.login(t)
		eventually(t, "acknowledged", func() bool { return len(d.Pending()) == 0 })
		require.Contains(t, seen.stanzas("message", id)[0], `offline="0"`)
		require.Equal(t, 1, d.Stats().Redelivered)
		again.end()
	})
}

// The copies of a message to a group are marked one by one: that one device
// gets it late says nothing about the others.
func TestACopyThatIsMarkedOfflineLeavesTheOthersAsTheyAre(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		one, two := s.NewAccount("491700000001"), s.NewAccount("491700000003")
		bob := newContact(t, s, "491700000002")
		g := s.NewGroup("team", bob.Account(), one, two)
		slow, live := recorded(s, newHost(s, pair(t, s, one)))
		slow.login(t)
		late, waited := recorded(s, newHost(s, pair(t, s, two)))
		time.Sleep(time.Second)

		// The writer to the first is in the middle of a stanza when the message
		// comes and the other logs in.
		s.Fault(wasim.Slow(0, time.Minute)).For(slow.jid()).Now()
		s.Flood(slow.jid(), 1, 0)
		time.Sleep(time.Second)
		id, err := bob.Send(within(t, time.Minute), g.JID(), "to all")
		require.NoError(t, err)
		late.login(t)
		eventually(t, "it came late", func() bool { return len(waited.stanzas("message", id)) == 1 })
		require.Contains(t, waited.stanzas("message", id)[0], "offline=")
		require.Empty(t, live.stanzas("message", id))
		s.Heal()
		time.Sleep(5 * time.Minute)
		require.Len(t, live.stanzas("message", id), 1)
		require.NotContains(t, live.stanzas("message", id)[0], "offline=")
		s.Close()
		for _, h := range []*host{slow, late} {
			time.Sleep(50 * time.Millisecond)
			h.cli.Disconnect()
			h.cancel()
		}
	})
}

// Silence swallows a flood too, and what is swallowed was not sent.
func TestAFloodIntoSilenceDoesNotArrive(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		time.Sleep(time.Second)
		d := s.Device(h.jid())
		sent := d.Stats().StanzasOut["receipt"]
		silence := s.Fault(wasim.Silence()).For(h.jid()).Now()
		s.Flood(h.jid(), 3, time.Millisecond)
		time.Sleep(time.Second)
		require.Empty(t, got[*events.Receipt](h))
		require.Equal(t, sent, d.Stats().StanzasOut["receipt"])
		silence.Stop()
		s.Flood(h.jid(), 2, time.Millisecond)
		eventually(t, "those that come later", func() bool { return len(got[*events.Receipt](h)) == 2 })
		require.Equal(t, sent+2, d.Stats().StanzasOut["receipt"])
		h.end()
	})
}

// Nor does a last word reach who is silent.
func TestASilentConnectionDoesNotHearThatItIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		s.Fault(wasim.Silence()).For(h.jid()).Now()
		other := newHost(s, h.dev)
		other.login(t)
		eventually(t, "the first one is ended", func() bool { return !h.up() })
		time.Sleep(time.Second)
		require.Equal(t, 1, s.Device(h.jid()).Stats().Replaced)
		require.Empty(t, got[*events.StreamReplaced](h))
		require.Len(t, got[*events.Disconnected](h), 1)
		h.cli.Disconnect()
		h.cancel()
		other.end()
	})
}
