package stability_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The key of a group's member was removed for its age, and the member writes
// again without bringing it along.
func TestSweptSenderKeyCostsOneRetryReceiptAndNoMessage(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal),
			stability.WithAuthStoreOptions(authstore.WithRetention(authstore.Retention{SenderKeys: 24 * time.Hour}))).run().pair()
		peer := w.peer()
		group := w.sim.NewGroup("team", w.account, peer.Account())
		say := func(s string) {
			_, err := peer.Client().SendMessage(t.Context(), group.JID(), text(s))
			require.NoError(t, err)
			time.Sleep(time.Minute)
			require.True(t, slices.Contains(a.texts(), s), s)
		}
		receipts := func() int { return w.device().Stats().RetryReceipts }
		say("with the key")
		group.WithoutKeys(1)
		say("it is known")
		require.Zero(t, receipts())
		for range 5 {
			time.Sleep(12 * time.Hour)
			_, err := peer.Client().SendMessage(t.Context(), w.account.JID(), text("to one"))
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		group.WithoutKeys(1)
		say("the key is gone")
		require.Equal(t, 1, receipts())
		r := a.balanced()
		require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}

// What is malformed in a message that a sender encrypted with its sender key.
var malformed = map[string]func(skmsg []byte) []byte{
	"cut short":    func(b []byte) []byte { return b[:40] },
	"one byte":     func(b []byte) []byte { return b[:1] },
	"other format": func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
	"old version":  func(b []byte) []byte { b[0] = 0x11; return b },
	"bad protobuf": func(b []byte) []byte { return append(b[:1], bytes.Repeat([]byte{0xff}, len(b)-1)...) },
	"signature":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
}

// The sender is off when the receiver reads its messages, and so is the phone.
func TestMalformedGroupMessagesAreToldWithinAMinuteAndHoldUpNoOther(t *testing.T) {
	t.Parallel()
	for what, mangle := range malformed {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				carol, err := w.sim.NewContact(t.Context(), "491520000008")
				require.NoError(t, err)
				bob := w.peer()
				group := w.sim.NewGroup("team", w.account, bob.Account(), carol.Account())
				say := func(c *wasim.Contact, s string) {
					_, err := c.SendMessage(t.Context(), group.JID(), text(s))
					require.NoError(t, err)
				}
				say(bob, "bob's key")
				say(carol, "carol's key")
				w.await("the keys are known", func() bool { return len(a.written()) == 2 })
				a.stop()
				const n = 5
				for range n {
					group.Mangle(1, mangle)
					say(bob, "malformed")
					say(carol, "well-formed")
				}
				bob.Close()

				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				time.Sleep(time.Minute)
				require.Equal(t, slices.Repeat([]string{"well-formed"}, n), b.written())
				told := func() {
					r := b.balanced()
					require.Equal(t, n, r.By[stability.MessageUndecrypted].Count, "%+v", b.m.Messages())
					require.Equal(t, n, r.Waiting.Count+r.SetAside.Count)
					require.Contains(t, r.Text, "5 messages could not be decrypted; the oldest was received ")
					for _, msg := range b.m.Messages() {
						require.Equal(t, group.JID(), msg.Chat)
						require.Equal(t, bob.JID().User, msg.Sender.User)
						require.Contains(t, msg.Why, "cannot be decrypted")
						require.False(t, msg.HasContent)
					}
				}
				told()
				h, err := adminhttp.New(b.m, adminhttp.WithToken("an admin token of the test"))
				require.NoError(t, err)
				rec := httptest.NewRecorder()
				get := httptest.NewRequest(http.MethodGet, "/api/longrun/status-now", nil)
				get.Header.Set("X-Admin-Token", "an admin token of the test")
				h.ServeHTTP(rec, get)
				require.Equal(t, http.StatusOK, rec.Code)
				require.Contains(t, rec.Body.String(), "5 messages could not be decrypted")
				require.NoError(t, h.Close())
				require.Empty(t, w.device().Pending(), "each is acknowledged")
				require.Equal(t, n, w.device().Stats().RetryReceipts, "one for each")
				say(carol, "later")
				time.Sleep(stabilitytest.Pick(3*time.Hour, 24*time.Hour))
				require.Contains(t, b.texts(), "later")
				told()
				require.Equal(t, n, w.device().Stats().RetryReceipts, "and no more")
				carol.Close()
				b.stop()
			})
		})
	}
}

// A sender that sends again what it was asked for, malformed each time, is asked a
// few times: whatsmeow counts them.
func TestSenderOfNothingButMalformedMessagesIsAskedAFewTimes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		bob := w.peer()
		group := w.sim.NewGroup("team", w.account, bob.Account())
		_, err := bob.SendMessage(t.Context(), group.JID(), text("bob's key"))
		require.NoError(t, err)
		w.await("the key is known", func() bool { return len(a.written()) == 1 })
		a.stop()
		group.Mangle(20, malformed["signature"])
		for range 20 {
			_, err := bob.Client().SendMessage(t.Context(), group.JID(), text("malformed"), whatsmeow.SendRequestExtra{ID: "3EB0AAAABBBBCCCCDDDD"})
			require.NoError(t, err)
		}
		bob.Close()
		b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
		time.Sleep(time.Hour)
		require.LessOrEqual(t, w.device().Stats().RetryReceipts, 5)
		require.Empty(t, w.device().Pending())
		require.Equal(t, 1, b.balanced().By[stability.MessageUndecrypted].Count, "it is one message: %+v", b.m.Messages())
		b.stop()
	})
}

// The sender is there, and sends again what it is asked for.
func TestMalformedGroupMessagesAreAskedOfTheirSender(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
		bob := w.peer()
		group := w.sim.NewGroup("team", w.account, bob.Account())
		for what, mangle := range malformed {
			group.Mangle(1, mangle)
			_, err := bob.SendMessage(t.Context(), group.JID(), text(what))
			require.NoError(t, err)
			w.await(what, func() bool { return slices.Contains(a.texts(), what) })
		}
		time.Sleep(time.Minute)
		require.Len(t, a.written(), len(malformed), "once")
		require.Equal(t, len(malformed), w.device().Stats().RetryReceipts)
		r := a.balanced()
		require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.stop()
	})
}
