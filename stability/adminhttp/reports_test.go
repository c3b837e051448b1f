package adminhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// within is a value inside an answer.
func within(v any, path ...string) any {
	for _, k := range path {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

// Each of these has once lost a message, or hours, behind a status that said
// "Connected".
func TestStatusNowTellsWithinAMinuteWhatBecameOfAMessage(t *testing.T) {
	hello := &waE2E.Message{Conversation: proto.String("hello")}
	get := func(t *testing.T, p *place, from *wasim.Contact, m *waE2E.Message) {
		_, err := from.SendMessage(t.Context(), p.account.JID(), m)
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		happen func(t *testing.T, p *place, bob *wasim.Contact)
		kind   []string // below wa
		n      float64
		told   []string // the sentence, below wa
		says   string
	}{
		"a handler panics": {
			happen: func(t *testing.T, p *place, bob *wasim.Contact) {
				why := "no row"
				p.panics.Store(&why)
				get(t, p, bob, hello)
			},
			kind: []string{"messages", "received", "by", "kept", "count"}, n: 1,
			told: []string{"messages", "received", "text"}, says: "One message ",
		},
		"the program takes no message": {
			happen: func(t *testing.T, p *place, bob *wasim.Contact) {
				p.m.Client().AddEventHandlerWithSuccessStatus(func(evt any) bool {
					_, ok := evt.(*events.Message)
					return !ok
				})
				get(t, p, bob, hello)
			},
			kind: []string{"messages", "received", "by", "refused", "count"}, n: 1,
			told: []string{"messages", "received", "text"}, says: "refused by the program's handlers",
		},
		"a message cannot be decrypted": {
			happen: func(t *testing.T, p *place, _ *wasim.Contact) {
				_, err := p.sim.NewAccount("491520000007").Phone().SendUnreadable(p.account.JID(), hello)
				require.NoError(t, err)
			},
			kind: []string{"messages", "received", "by", "undecrypted", "count"}, n: 1,
			told: []string{"messages", "received", "text"}, says: "The phone is asked for the content",
		},
		"every send is refused": {
			happen: func(t *testing.T, p *place, bob *wasim.Contact) {
				p.sim.Fault(wasim.MessageNack(479)).For(p.account.JID()).Always().Now()
				for range 5 {
					_, err := p.m.Client().SendMessage(t.Context(), bob.JID(), hello)
					require.Error(t, err)
				}
			},
			kind: []string{"messages", "sent", "lastRefusedCode"}, n: 479,
			told: []string{"messages", "sent", "text"}, says: "refused 5",
		},
		"a recipient asks for a message after a restart": {
			happen: func(t *testing.T, p *place, bob *wasim.Contact) {
				_, err := p.m.Client().SendMessage(t.Context(), bob.JID(), hello)
				require.NoError(t, err)
				p.await(func(stability.Status) bool { return len(bob.Received()) == 1 })
				p.stop()
				p.make()
				p.run().await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
				info := bob.Received()[0].Event.Info
				attrs := waBinary.Attrs{"id": info.ID, "from": info.Sender, "t": info.Timestamp.Unix()}
				bob.Client().DangerousInternals().SendRetryReceipt(context.Background(), &waBinary.Node{Tag: "message", Attrs: attrs}, &info, true)
			},
			kind: []string{"messages", "resends", "answered"}, n: 1,
			told: []string{"messages", "resends", "text"}, says: "was sent to it again",
		},
		"the store grows": {
			happen: func(t *testing.T, p *place, bob *wasim.Contact) {
				m := proto.Clone(hello).(*waE2E.Message)
				m.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: bytes.Repeat([]byte{1}, 32)}
				get(t, p, bob, m)
			},
			kind: []string{"authSizes", "messageSecrets"}, n: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPlace(t).run().pair()
				bob, err := p.sim.NewContact(t.Context(), "491520000002")
				require.NoError(t, err)
				time.Sleep(time.Minute)
				c.happen(t, p, bob)
				time.Sleep(30 * time.Second)
				wa := p.answer(p.get("/api/longrun/status-now"), 200)["wa"]
				require.Equal(t, c.n, within(wa, c.kind...), "%v", wa)
				if c.told != nil {
					require.Contains(t, fmt.Sprint(within(wa, c.told...)), c.says)
				}
				p.stop()
			})
		})
	}
}
