package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// The phone answers with a stub of the message, for it has not got its content yet.
func TestAnswerWithoutContentIsNone(t *testing.T) {
	t.Parallel()
	for name, stub := range map[string]*waE2E.Message{
		"no message":           nil,
		"an empty message":     {},
		"devices and no text":  {MessageContextInfo: &waE2E.MessageContextInfo{MessageSecret: []byte("secret")}},
		"a wrapper without it": {EphemeralMessage: &waE2E.FutureProofMessage{Message: &waE2E.Message{}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var id atomic.Value
				id.Store("")
				var given atomic.Int32
				a.refuse = func(e *events.Message) bool {
					if e.Info.ID == id.Load() {
						given.Add(1)
					}
					return false
				}
				a.run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().Late()
				carol := w.writer()
				lost, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				id.Store(lost)
				other := w.sim.NewAccount("491520000008").JID()
				require.NoError(t, carol.SendAs(lost, other, stub), "so the phone has that")
				time.Sleep(6 * time.Minute)
				w.account.Phone().On()
				time.Sleep(2 * time.Hour)
				require.Zero(t, given.Load())
				require.Equal(t, 1, a.balanced().By[stability.MessageUndecrypted].Count, "%+v", a.m.Messages())
				require.NoError(t, carol.SendAs(lost, other, text("lost?")))
				time.Sleep(2 * time.Hour)
				if stub == nil { // a stub has done all it does by then
					time.Sleep(10 * time.Hour)
				}
				require.Equal(t, []string{"lost?"}, a.written())
				require.EqualValues(t, 1, given.Load())
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}

// The phone was asked, and was off for long. The sender has sent the message meanwhile.
func TestPhoneThatAnswersHoursLaterIsNotHeard(t *testing.T) {
	for name, holders := range map[string]int{"the same holder": 1, "another holder": 2} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().Late()
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				time.Sleep(30 * time.Minute)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
				time.Sleep(10 * time.Second)
				require.Equal(t, []string{"lost?"}, a.written())
				b := a
				var took []string
				if holders > 1 {
					took = a.written()
					a.stop()
					b = w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				}
				time.Sleep(10 * time.Hour)
				before := w.device().Stats().MessagesDelivered
				w.account.Phone().On()
				time.Sleep(10 * time.Minute)
				require.Greater(t, w.device().Stats().MessagesDelivered, before, "the phone has answered")
				require.Equal(t, []string{"lost?"}, append(took, b.written()...), "once")
				require.Empty(t, b.m.Messages())
				b.balanced()
				b.stop()
			})
		})
	}
}

// The program asks the phone for a message that it had: it may have lost it.
func TestProgramThatAsksByItselfIsAnsweredOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		id, err := w.writer().SendMessage(w.account.JID(), text("once more"))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Len(t, a.written(), 1)
		ask := func() {
			c, jid := a.m.Client(), types.NewJID("491520000007", types.DefaultUserServer)
			req := c.BuildUnavailableMessageRequest(jid, jid, id)
			_, err := c.SendMessage(t.Context(), c.Store.GetJID().ToNonAD(), req, whatsmeow.SendRequestExtra{Peer: true})
			require.NoError(t, err)
		}
		w.account.Phone().Late()
		ask()
		ask()
		w.account.Phone().On()
		time.Sleep(time.Minute)
		require.Len(t, a.written(), 2, "the answers come together")
		time.Sleep(2 * time.Hour)
		ask()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"once more", "once more", "once more"}, a.written(), "it has asked again")
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}
