package stability_test

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// A poll's votes are read with the poll's secret. A kill behind the
// acknowledgement must not cost it: the poll does not come again.
func TestKillBehindAcknowledgementKeepsTheSecret(t *testing.T) {
	for _, where := range []string{"direct", "group"} {
		t.Run(where, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a", stability.WithAutoHeal(noHeal))
				var source atomic.Pointer[types.MessageInfo]
				a.refuse = func(e *events.Message) bool {
					source.Store(&e.Info)
					return false
				}
				a.run().pair()
				peer := w.peer()
				to := w.account.JID()
				if where == "group" {
					to = w.sim.NewGroup("team", w.account, peer.Account()).JID()
				}
				send := func(m *waE2E.Message) types.MessageID {
					sent, err := peer.Client().SendMessage(t.Context(), to, m)
					require.NoError(t, err)
					return sent.ID
				}
				send(text("before"))
				time.Sleep(time.Minute)
				require.Zero(t, w.unfinished())
				secret := bytes.Repeat([]byte{7}, 32)
				last := text("last")
				last.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: secret}
				id := send(last)
				w.await("the last is acknowledged", func() bool {
					return slices.Contains(a.texts(), "last") && len(w.device().Pending()) == 0
				})
				a.crash()
				require.Equal(t, 1, w.unfinished(), "the mark is lost")
				info := source.Load()
				require.Equal(t, id, info.ID)

				b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
				found, _, err := b.m.Client().Store.MsgSecrets.GetMessageSecret(t.Context(), info.Chat, info.Sender, id)
				require.NoError(t, err)
				require.Equal(t, secret, found)
				b.stop()
			})
		})
	}
}
