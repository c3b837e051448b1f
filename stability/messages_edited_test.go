package stability_test

import (
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waCommon"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
)

// edit is the message that makes another text of one that was sent.
func edit(id, to string) *waE2E.Message {
	return &waE2E.Message{ProtocolMessage: &waE2E.ProtocolMessage{
		Type: waE2E.ProtocolMessage_MESSAGE_EDIT.Enum(), Key: &waCommon.MessageKey{ID: proto.String(id)}, EditedMessage: text(to),
	}}
}

// whatsmeow gives the phone's answer about an edit the id of the edited message.
func TestEditThatThePhoneHasSentIsHandedOverOnce(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*waE2E.Message) *waE2E.Message{
		"in its wrapper": func(m *waE2E.Message) *waE2E.Message {
			return &waE2E.Message{EditedMessage: &waE2E.FutureProofMessage{Message: m}}
		},
		"bare": func(m *waE2E.Message) *waE2E.Message { return m },
	} {
		for which, both := range map[string]bool{"the edit alone is missed": false, "the edited message is missed, too": true} {
			for when, late := range map[string]bool{"the phone answers at once": false, "the phone answers many requests together": true} {
				t.Run(name+", "+which+", "+when, func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						w := newWorld(t)
						a := w.instance(stability.WithAutoHeal(noHeal))
						var mu sync.Mutex
						got := map[string][]string{} // by id
						a.refuse = func(e *events.Message) bool {
							mu.Lock()
							defer mu.Unlock()
							if s := e.Message.GetConversation() + e.Message.GetProtocolMessage().GetEditedMessage().GetConversation(); s != "" {
								got[e.Info.ID] = append(got[e.Info.ID], s)
							}
							return false
						}
						a.run().pair()
						require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
						if late {
							w.account.Phone().Late()
						}
						carol := w.writer()
						send := carol.SendMessage
						if both {
							send = carol.SendUnreadable
						}
						edited, err := send(w.account.JID(), text("wrong"))
						require.NoError(t, err)
						id, err := carol.SendUnreadable(w.account.JID(), form(edit(edited, "right")))
						require.NoError(t, err)
						time.Sleep(time.Second)
						r := a.balanced()
						require.Equal(t, 1, r.By[stability.MessageUndecrypted].Count-r.Missed[stability.MessageUndecrypted].Count, "nobody is told of an edit")
						time.Sleep(30 * time.Minute)
						w.account.Phone().On()
						if both && late { // a day proves the same for the others
							time.Sleep(22 * time.Hour)
						}
						time.Sleep(2 * time.Hour)
						mu.Lock()
						all := maps.Clone(got)
						mu.Unlock()
						require.Equal(t, map[string][]string{edited: {"wrong"}, id: {"right"}}, all)
						require.Empty(t, a.m.Messages())
						require.Zero(t, a.balanced().SetAside.Count)
						a.stop()
					})
				})
			}
		}
	}
}
