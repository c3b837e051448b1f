package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// wrapped is a text as it is sent in a chat whose messages disappear.
func wrapped(s, secret string) *waE2E.Message {
	m := &waE2E.Message{EphemeralMessage: &waE2E.FutureProofMessage{Message: text(s)}}
	if secret != "" {
		m.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: []byte(secret)}
	}
	return m
}

// The phone has a message of a disappearing chat without what its sender adds each time.
func TestWrappedMessageIsHandedOverOnce(t *testing.T) {
	for name, form := range map[string]*waE2E.Message{
		"the phone has the same":            wrapped("lost?", "first"),
		"the phone has it without a secret": wrapped("lost?", ""),
		"the phone has it without wrapper":  text("lost?"),
	} {
		for _, refused := range []bool{false, true} {
			who := ", its sender sends it again behind the phone"
			if refused {
				who = ", its sender sends it again before the phone, and it is refused"
			}
			t.Run(name+who, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.instance(stability.WithAutoHeal(noHeal))
					var refuses atomic.Bool
					refuses.Store(refused)
					a.refuse = func(e *events.Message) bool { return e.Message.GetConversation() != "" && refuses.Load() }
					a.run().pair()
					require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
					w.account.Phone().Late()
					carol := w.writer()
					id, err := carol.SendUnreadable(w.account.JID(), wrapped("lost?", "first"))
					require.NoError(t, err)
					time.Sleep(30 * time.Minute)
					again := func() {
						require.NoError(t, carol.SendAs(id, w.account.JID(), wrapped("lost?", "second")))
						time.Sleep(5 * time.Second)
					}
					if refused {
						again()
					}
					require.NoError(t, carol.SendAs(id, w.sim.NewAccount("491520000008").JID(), form), "so the phone has it")
					w.account.Phone().On()
					time.Sleep(10 * time.Second)
					refuses.Store(false)
					time.Sleep(30 * time.Minute)
					require.Equal(t, []string{"lost?"}, a.written(), "once")
					again()
					require.Equal(t, []string{"lost?"}, a.written(), "once")
					require.Empty(t, a.m.Messages())
					a.balanced()
					a.stop()
				})
			})
		}
	}
}
