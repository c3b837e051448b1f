package adminhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// within is a value inside an answer.
func within(v any, path ...string) any {
	for _, k := range path {
		if list, ok := v.([]any); ok {
			v = nil
			if i, err := strconv.Atoi(k); err == nil && i < len(list) {
				v = list[i]
			}
			continue
		}
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func plain() *waE2E.Message { return &waE2E.Message{Conversation: proto.String("hello")} }

// gets delivers a message to the account.
func (p *place) gets(from *wasim.Contact, to types.JID, m *waE2E.Message) {
	p.t.Helper()
	_, err := from.SendMessage(p.t.Context(), to, m)
	require.NoError(p.t, err)
}

// next is another process for the account, with a network of its own name.
func (p *place) next(name string) *place {
	q := &place{t: p.t, sim: p.sim, account: p.account, memory: p.memory, open: p.open}
	q.make(stability.WithInstanceID(name), stability.WithTransport(q.watched(p.sim.Transport(name))))
	return q
}

// dies of a message: nothing that it does is heard from the moment on in which
// its handler has it.
func (p *place) dies(name string) {
	var block = make(chan struct{})
	p.block.Store(&block)
	p.run().await(func(stability.Status) bool { return !p.at(&p.blocked).IsZero() })
	p.broken.Store(true)
	p.sim.Partition(name)
}

// strange delivers a message of a group that holds content.
func (p *place) strange(id string, content waBinary.Node) {
	p.sim.Fault(wasim.Stanza(waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{
		"id": id, "t": time.Now().Unix(), "type": "text", "from": types.NewJID("1", types.GroupServer), "participant": p.sim.NewAccount("491520000009").JID(),
	}, Content: []waBinary.Node{content}})).For(p.account.JID()).Now()
}

// asks sends a retry receipt for a message of the account.
func asks(from *wasim.Contact, info types.MessageInfo) {
	attrs := waBinary.Attrs{"id": info.ID, "from": info.Sender, "t": info.Timestamp.Unix()}
	from.Client().DangerousInternals().SendRetryReceipt(context.Background(), &waBinary.Node{Tag: "message", Attrs: attrs}, &info, true)
}

// sentBeforeRestart is a message to bob, whose sender was started anew since.
func (p *place) sentBeforeRestart(bob *wasim.Contact) types.MessageInfo {
	_, err := p.m.Client().SendMessage(p.t.Context(), bob.JID(), plain())
	require.NoError(p.t, err)
	p.await(func(stability.Status) bool { return len(bob.Received()) == 1 })
	p.stop()
	p.make()
	p.run().await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
	return bob.Received()[0].Event.Info
}

// sendsRefused is a row of sends to three recipients, all refused with code.
func sendsRefused(code int) func(*place, *wasim.Contact) *place {
	return func(p *place, bob *wasim.Contact) *place {
		carol, err := p.sim.NewContact(p.t.Context(), "491520000003")
		require.NoError(p.t, err)
		dave, err := p.sim.NewContact(p.t.Context(), "491520000004")
		require.NoError(p.t, err)
		p.sim.Fault(wasim.MessageNack(code)).For(p.account.JID()).Always().Now()
		for range 2 {
			for _, to := range []*wasim.Contact{bob, carol, dave} {
				_, err := p.m.Client().SendMessage(p.t.Context(), to.JID(), plain())
				require.Error(p.t, err)
			}
		}
		return p
	}
}

// told is a part of wa in status-now, by its path: a number, a text that is
// somewhere in it, or null.
type told map[string]any

// Each of these has once lost a message, or hours, behind a status that said
// "Connected". A minute later status-now says where the message is, how many
// there are, why, and what a person should do.
func TestStatusNowTellsWithinAMinuteWhatBecameOfAMessage(t *testing.T) {
	const look = "Look in the program's log for why its handlers do not take messages"
	for name, c := range map[string]struct {
		happen func(p *place, bob *wasim.Contact) *place // the place to look at
		told   told
	}{
		"whatsmeow panics behind the decryption": {
			happen: func(p *place, bob *wasim.Contact) *place {
				m := plain()
				m.SenderKeyDistributionMessage = &waE2E.SenderKeyDistributionMessage{GroupID: proto.String("1@g.us"), AxolotlSenderKeyDistributionMessage: []byte{}}
				p.gets(bob, p.sim.NewGroup("team", p.account, bob.Account()).JID(), m)
				return p
			},
			told: told{"messages.received.handled": 1, "messages.received.total": 1, "messages.received.text": nil, "messages.received.whatToDo": nil},
		},
		"whatsmeow panics before the decryption": {
			happen: func(p *place, bob *wasim.Contact) *place {
				p.sim.Fault(wasim.Stanza(waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{
					"id": "3EB0AAAABBBBCCCCDDDD", "t": time.Now().Unix(), "type": "text", "from": p.sim.NewAccount("491520000009").JID(),
				}, Content: []waBinary.Node{{ // its keys are empty
					Tag: "enc", Attrs: waBinary.Attrs{"type": "pkmsg", "v": "2"}, Content: []byte{0x33, 0x12, 0, 0x1a, 0, 0x22, 0},
				}}})).For(p.account.JID()).Now()
				p.gets(bob, p.account.JID(), plain())
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.handled": 1,
				"messages.received.by.undecrypted.why": "whatsmeow panicked at it",
				"messages.received.text":               "One message could not be decrypted",
				"messages.received.whatToDo":           "Open WhatsApp on the phone",
			},
		},
		"a message ends the process at each start": {
			happen: func(p *place, bob *wasim.Contact) *place {
				p.stop()
				p.gets(bob, p.account.JID(), plain())
				p.gets(bob, p.account.JID(), plain())
				for i := range 4 { // the first one is not careful yet
					name := fmt.Sprint("wa-dead-", i)
					p.next(name).dies(name)
				}
				q := p.next("wa-alive")
				q.run().await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
				return q
			},
			told: told{
				"messages.received.by.left_alone.count": 1, "messages.received.handled": 1,
				"messages.received.by.left_alone.why": "the process ended while it was handled, 3 times",
				"messages.received.text":              "One message is left alone at WhatsApp",
				"messages.received.whatToDo":          "Look in the program's log for where the process ended",
				"whatToDo":                            "Look in the program's log",
			},
		},
		"a recipient asks for a message after a restart": {
			happen: func(p *place, bob *wasim.Contact) *place {
				asks(bob, p.sentBeforeRestart(bob))
				return p
			},
			told: told{"messages.resends.answered": 1, "messages.resends.text": "was sent to it again", "messages.resends.whatToDo": nil},
		},
		"a recipient asks for a message that is not kept any more": {
			happen: func(p *place, bob *wasim.Contact) *place {
				info := p.sentBeforeRestart(bob)
				info.ID = "3EB0AAAABBBBCCCCDDDD"
				asks(bob, info)
				return p
			},
			told: told{
				"messages.resends.unknown": 1, "messages.resends.text": "1 was asked for that is not kept any more",
				"messages.resends.whatToDo": "Send again what matters",
			},
		},
		"a handler panics": {
			happen: func(p *place, bob *wasim.Contact) *place {
				why := "no row"
				p.panics.Store(&why)
				p.gets(bob, p.account.JID(), plain())
				return p
			},
			told: told{
				"messages.received.by.kept.count": 1, "messages.received.by.kept.why": "a handler of the program panicked: no row",
				"messages.received.text": "One message waits here to be handed over", "messages.received.whatToDo": look,
				"reasonText": "One message waits here to be handed over", "whatToDo": "Look in the program's log",
			},
		},
		"a message does not decrypt, and its sender is away": {
			happen: func(p *place, _ *wasim.Contact) *place {
				_, err := p.sim.NewAccount("491520000007").Phone().SendUnreadable(p.account.JID(), plain())
				require.NoError(p.t, err)
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.by.undecrypted.why": "it cannot be decrypted: ",
				"messages.received.text": "The phone is asked for the content", "messages.received.whatToDo": "Open WhatsApp on the phone",
			},
		},
		"a message is for the phone alone": {
			happen: func(p *place, _ *wasim.Contact) *place {
				p.strange("3EB0AAAABBBBCCCCDDDD", waBinary.Node{Tag: "unavailable", Attrs: waBinary.Attrs{"type": "view_once"}})
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.by.undecrypted.why": "it is for the phone alone (view_once)",
				"messages.received.missed.undecrypted.count": 0,
				"messages.received.text":                     "One message is for the phone alone", "messages.received.whatToDo": nil, "whatToDo": nil,
			},
		},
		"a message is not to be told of": {
			happen: func(p *place, _ *wasim.Contact) *place {
				p.strange("3EB0AAAABBBBCCCCDDDD", waBinary.Node{
					Tag: "enc", Attrs: waBinary.Attrs{"type": "msg", "v": "2", "decrypt-fail": "hide"}, Content: []byte{0x33, 1},
				})
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.text": "Nobody needs to do anything",
				"messages.received.whatToDo": nil, "whatToDo": nil,
			},
		},
		"WhatsApp sends a message without its content": {
			happen: func(p *place, _ *wasim.Contact) *place {
				p.strange("3EB0AAAABBBBCCCCDDDD", waBinary.Node{Tag: "unavailable"})
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.by.undecrypted.why": "WhatsApp has not sent its content",
				"messages.received.missed.undecrypted.count": 1,
				"messages.received.text":                     "The phone is asked for the content", "messages.received.whatToDo": "Open WhatsApp on the phone",
			},
		},
		"the key of a group message is not known": {
			happen: func(p *place, _ *wasim.Contact) *place {
				unsigned := make([]byte, 64)
				p.strange("3EB0AAAABBBBCCCCDDDD", waBinary.Node{
					Tag: "enc", Attrs: waBinary.Attrs{"type": "skmsg", "v": "2"}, Content: append([]byte{0x33, 8, 1, 16, 0, 26, 1, 0}, unsigned...),
				})
				return p
			},
			told: told{
				"messages.received.by.undecrypted.count": 1, "messages.received.by.undecrypted.why": "it cannot be decrypted: no sender key",
				"messages.received.text": "The phone is asked for the content", "messages.received.whatToDo": "Open WhatsApp on the phone",
			},
		},
		"the program takes no message": {
			happen: func(p *place, bob *wasim.Contact) *place {
				p.refuses.Store(true)
				p.gets(bob, p.account.JID(), plain())
				return p
			},
			told: told{
				"messages.received.by.refused.count": 1, "messages.received.by.refused.why": "a handler of the program returned false",
				"messages.received.text": "refused by the program's handlers", "messages.received.whatToDo": look,
				"reasonText": "refused by the program's handlers", "whatToDo": "Look in the program's log",
			},
		},
		"a handler does not return": {
			happen: func(p *place, bob *wasim.Contact) *place {
				block := make(chan struct{})
				p.block.Store(&block)
				p.gets(bob, p.account.JID(), plain())
				p.await(func(stability.Status) bool { return !p.at(&p.blocked).IsZero() })
				require.Equal(p.t, "Messages wait to be handled.", p.answer(p.get(held), 200)["summary"])
				time.Sleep(time.Second)
				return p
			},
			told: told{
				"messages.received.by.in_hand.count": 1, "messages.received.text": "A handler of the program has not returned from a message for 1m",
				"messages.received.whatToDo": "Look in the program's handlers for a call that waits for ever",
			},
		},
		"new chats are refused":   {sendsRefused(463), refusedWith(463, "does not let this account begin new chats", "Write only to people who wrote to this account first")},
		"messages cannot be used": {sendsRefused(479), refusedWith(479, "cannot use the message as it is addressed or encrypted", "Check the numbers")},
		"every send is malformed": {sendsRefused(400), refusedWith(400, "finds the messages malformed", "Update whatsmeow and restart")},
		"the store grows": {
			happen: func(p *place, bob *wasim.Contact) *place {
				m := plain()
				m.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: bytes.Repeat([]byte{1}, 32)}
				p.gets(bob, p.account.JID(), m)
				return p
			},
			told: told{"messages.received.handled": 1, "authSizes.messageSecrets": 1},
		},
		"what has grown is old": {
			happen: func(p *place, bob *wasim.Contact) *place {
				m := plain()
				m.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: bytes.Repeat([]byte{1}, 32)}
				p.gets(bob, p.account.JID(), m)
				time.Sleep(time.Second)
				p.stop()
				bob.Close()
				time.Sleep(200 * 24 * time.Hour)
				p.make()
				p.run().await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
				carol, err := p.sim.NewContact(p.t.Context(), "491520000003")
				require.NoError(p.t, err)
				for range 2 { // old rows go with commits that happen anyway
					p.gets(carol, p.account.JID(), plain())
					time.Sleep(time.Minute)
				}
				return p
			},
			told: told{"messages.received.handled": 2, "authSizes.messageSecrets": 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPlace(t).run().pair()
				bob, err := p.sim.NewContact(t.Context(), "491520000002")
				require.NoError(t, err)
				time.Sleep(time.Minute)
				p = c.happen(p, bob)
				time.Sleep(59 * time.Second)
				wa := p.answer(p.get("/api/longrun/status-now"), 200)["wa"]
				for path, want := range c.told {
					is := within(wa, strings.Split(path, ".")...)
					switch want := want.(type) {
					case string:
						require.Contains(t, is, want, path)
					case int:
						require.EqualValues(t, want, is, "%s: %v", path, within(wa, "messages"))
					default:
						require.Nil(t, is, path)
					}
				}
				if do := within(wa, "messages", "received", "whatToDo"); do != nil && within(wa, "whatToDo") == nil {
					require.Contains(t, parse(t, p.get("/")).text(""), do, "on the page, where its head has no advice")
				}
				count := func(path ...string) float64 {
					n, ok := within(wa, append([]string{"messages", "received"}, path...)...).(float64)
					require.True(t, ok, path)
					return n
				}
				require.Equal(t, count("total"), count("handled")+count("waiting", "count")+count("setAside", "count"), "nothing is in none of the three places")
				p.stop()
			})
		})
	}
}

func refusedWith(code int, why, do string) told {
	return told{
		"messages.sent.lastRefusedCode": code, "messages.sent.refused.0.code": code, "messages.sent.refused.0.count": 6,
		"messages.sent.refused.0.text": why, "messages.sent.refused.0.whatToDo": do,
		"health": "mute", "reasonText": fmt.Sprintf("The last 6 sends were refused with code %d", code), "whatToDo": do,
	}
}
