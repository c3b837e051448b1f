package stability_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
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
