package firestorebackend

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// Each message that an account sends is kept for recipients who ask again. At 5,000 sends
// a day the row that takes sixteen of them is never full within seconds.
func TestKeepingWhatIsSentCostsASixteenthOfADocument(t *testing.T) {
	t.Parallel()
	const (
		sends    = 160
		contacts = 8
	)
	chat := types.NewJID("4917111111", types.DefaultUserServer)
	session := func(i int) map[string][]byte { // as libsignal writes one: a JSON object
		return map[string][]byte{fmt.Sprintf("49170%06d:0", i%contacts): fmt.Appendf(nil, `{"SessionState":"%x"}`, random(600))}
	}
	for name, send := range map[string]func(t *testing.T, d *store.Device, i int){
		"Manager.Send": func(t *testing.T, d *store.Device, i int) {
			x := &authstore.Sending{Chat: chat, ID: fmt.Sprint("ID", i), Plaintext: func() []byte { return random(200) }}
			require.NoError(t, d.Sessions.PutManySessions(authstore.WithSending(t.Context(), x), session(i)))
		},
		"the client's SendMessage": func(t *testing.T, d *store.Device, i int) {
			require.NoError(t, d.Sessions.PutManySessions(t.Context(), session(i)))
			require.NoError(t, d.Sessions.(authstore.SentKeeper).KeepSent(t.Context(), chat, fmt.Sprint("ID", i), random(200)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t)
				c, d := paired(t, opened(t, onSim(t, s)))
				for i := range contacts {
					require.NoError(t, d.Sessions.PutManySessions(t.Context(), session(i)))
				}
				time.Sleep(time.Minute)
				s.ResetStats()
				for i := range sends {
					send(t, d, i)
					time.Sleep(17 * time.Second)
				}
				st := s.Stats()
				t.Logf("%d sends: %v, %+v", sends, st.RPCs, st.Billing)
				require.Equal(t, sends, st.RPCs[firestoresim.Commit], "one request a send")
				require.LessOrEqual(t, st.Writes, 2*sends+sends/16+1, "the fence, the session's document, a sixteenth, and once when old ones were looked for")
				require.LessOrEqual(t, st.Reads, 16, "one look for what is too old, in a term")
				require.NoError(t, c.Close(t.Context()))
			})
		})
	}
}
