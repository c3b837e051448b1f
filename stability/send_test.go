package stability_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// got waits for a message of the account's at the contact.
func (w *world) got(id types.MessageID) (r wasim.Received) {
	w.t.Helper()
	w.await("the contact has it", func() bool {
		for _, x := range w.peer().Received() {
			if x.ID == id {
				r = x
				return true
			}
		}
		return false
	})
	return r
}

func TestWhatSendSentIsGivenAgainAfterACrash(t *testing.T) {
	seal := authstore.NewAESGCM([32]byte{1})
	for name, opts := range map[string][]stability.Option{
		"plain":                       nil,
		"sealed":                      {stability.WithAEAD(seal)},
		"without the client's list":   {stability.Without(stability.RelySent)},
		"with a callback of the host": nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				opts := append([]stability.Option{stability.WithAutoHeal(noHeal)}, opts...)
				a := w.tended("a", opts...)
				ctx, cancel := context.WithCancel(t.Context())
				a.cancel = cancel
				go func() {
					a.result <- a.m.Run(ctx, func(ctx context.Context, c *whatsmeow.Client) error {
						if name == "with a callback of the host" { // newer versions keep nothing by themselves then
							c.GetMessageForRetry = func(_, _ types.JID, _ types.MessageID) *waE2E.Message { return nil }
						}
						return a.setup(ctx, c)
					})
				}()
				a.pair()
				w.getMessage("hello")
				group := w.sim.NewGroup("team", w.account, w.peer().Account())
				time.Sleep(time.Minute)
				want := &waE2E.Message{ExtendedTextMessage: &waE2E.ExtendedTextMessage{Text: proto.String("kept"), MatchedText: proto.String("exactly")}}
				var ids []types.MessageID
				for _, to := range []types.JID{w.peer().JID(), group.JID()} {
					resp, err := a.m.Send(t.Context(), to, proto.Clone(want).(*waE2E.Message))
					require.NoError(t, err)
					ids = append(ids, resp.ID)
				}
				a.crash() // with nothing written since
				b := w.tended("b", opts...).run().ready()
				for _, id := range ids {
					again := askAgain(t, w.peer(), w.got(id))
					require.Len(t, again, 1)
					require.Equal(t, id, again[0].ID)
					require.True(t, proto.Equal(want.GetExtendedTextMessage(), again[0].Event.Message.GetExtendedTextMessage()))
				}
				a.kill()
				b.stop()
			})
		})
	}
}

func TestSendMakesNoCommitOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a").run().pair()
		w.getMessage("hello")
		var others []*wasim.Account
		for i := range 20 {
			others = append(others, w.sim.NewAccount(fmt.Sprint("4915200001", 10+i)))
		}
		group := w.sim.NewGroup("team", append(others, w.account, w.peer().Account())...)
		time.Sleep(time.Minute)
		commits := func(to types.JID) int {
			_, err := a.m.Send(t.Context(), to, text("first")) // sessions are made
			require.NoError(t, err)
			time.Sleep(time.Minute)
			before := a.wire.count("commit")
			_, err = a.m.Send(t.Context(), to, text("one more"))
			require.NoError(t, err)
			return a.wire.count("commit") - before
		}
		require.Equal(t, 1, commits(w.peer().JID()))
		require.LessOrEqual(t, commits(group.JID()), 2)
		a.stop()
		w.close()
	})
}

func TestSendSaysWhyItCannot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAutoHeal(noHeal))
		send := func(ctx context.Context) error {
			_, err := a.m.Send(ctx, w.peer().JID(), text("hello"))
			return err
		}
		fails := func(err, target error) {
			t.Helper()
			require.ErrorIs(t, err, target)
			require.ErrorContains(t, err, "stability: send a message: ")
		}
		fails(send(t.Context()), stability.ErrNotActive)
		a.run()
		w.await("it has the lock", func() bool { return a.m.Status().Mode == stability.ModeActive })
		fails(send(t.Context()), whatsmeow.ErrNotLoggedIn)
		a.pair()
		w.getMessage("hello")
		time.Sleep(time.Minute)
		require.NoError(t, send(t.Context()))
		_, err := a.m.Send(t.Context(), w.peer().JID(), nil)
		require.ErrorContains(t, err, "pass a *waE2E.Message")
		_, err = a.m.Send(t.Context(), w.peer().JID(), text("x"), whatsmeow.SendRequestExtra{}, whatsmeow.SendRequestExtra{})
		require.ErrorContains(t, err, "only one SendRequestExtra")

		// The answer does not come: this send waits for it, and the next one for this.
		hold := w.sim.Fault(wasim.HoldAcks()).For(w.account.JID()).Now()
		first := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			first <- send(ctx)
		}()
		time.Sleep(time.Second)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		start := time.Now()
		fails(send(short), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		cancel()
		fails(<-first, context.DeadlineExceeded)
		hold.Stop()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		fails(send(ended), context.Canceled)

		// The store does not answer.
		time.Sleep(time.Minute)
		a.wire.hang(only("commit"))
		start = time.Now()
		require.Error(t, send(t.Context()))
		require.Less(t, time.Since(start), 2*time.Minute)
		a.wire.heal()
		a.ready()
		require.NoError(t, send(t.Context()))

		w.sim.Partition("a")
		w.await("it has noticed", func() bool { return a.m.Status().WA != reconnect.StatusConnected })
		fails(send(t.Context()), whatsmeow.ErrNotConnected)
		a.cancel()
		<-a.result
		fails(send(t.Context()), stability.ErrNotActive)
		require.NoError(t, a.m.Close(context.Background()))
		fails(send(t.Context()), stability.ErrClosed)
	})
}

func TestSendMayBeUsedInsideAHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a")
		sent := make(chan types.MessageID, 8)
		var slow atomic.Bool
		a.refuse = func(e *events.Message) bool {
			if slow.Load() {
				time.Sleep(time.Second)
			}
			resp, err := a.m.Send(context.Background(), e.Info.Chat, text("pong"))
			sent <- resp.ID
			return err != nil
		}
		a.run().pair()
		time.Sleep(time.Minute)
		ping := func() {
			_, err := w.peer().Send(t.Context(), w.account.JID(), "ping")
			require.NoError(t, err)
		}
		ping()
		w.got(<-sent)
		time.Sleep(time.Minute)
		slow.Store(true) // it answers while the instance steps down
		ping()
		time.Sleep(500 * time.Millisecond)
		a.stop()
		w.got(<-sent)
		require.Len(t, a.texts(), 2)
		w.close()
	})
}
