package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// whatsmeow treats <appdata> like <message>.
func TestAppDataIsAccountedForLikeAMessage(t *testing.T) {
	for name, fail := range map[string]func() bool{
		"taken":    func() bool { return false },
		"refused":  func() bool { return true },
		"panicked": func() bool { panic("not today") },
	} {
		for how, unreadable := range map[string]bool{"": false, ", unreadable at first": true} {
			t.Run(name+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.instance(stability.WithAutoHeal(noHeal))
					var tries atomic.Int32
					a.refuse = func(e *events.Message) bool {
						return e.Message.GetConversation() != "" && tries.Add(1) == 1 && fail()
					}
					a.run().pair()
					require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
					time.Sleep(time.Second)
					before := a.balanced().Total
					carol := w.writer().AsAppData()
					send := carol.SendMessage
					if unreadable {
						send = carol.SendUnreadable
					}
					_, err := send(w.account.JID(), text("data"))
					require.NoError(t, err)
					time.Sleep(time.Hour)
					require.Equal(t, []string{"data"}, a.written(), "once")
					require.Equal(t, name != "taken", tries.Load() > 1)
					require.LessOrEqual(t, before+1, a.balanced().Total)
					require.Empty(t, a.m.Messages())
					require.Empty(t, w.device().Pending())
					require.NotEmpty(t, w.device().AckedMessages())
					a.stop()
				})
			})
		}
	}
}
