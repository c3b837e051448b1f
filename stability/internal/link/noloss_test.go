package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// outage is a store whose decryption waits and then fails as a cancelled one.
type outage struct {
	store.EventBuffer
	on      atomic.Bool
	strikes atomic.Int64
	fail    func(ctx context.Context) error
}

func (o *outage) DoDecryptionTxn(ctx context.Context, fn func(context.Context) error) error {
	if o.on.Load() {
		o.strikes.Add(1)
		return o.fail(ctx)
	}
	return o.EventBuffer.DoDecryptionTxn(ctx, fn)
}

func TestAStoreOutageThatCutsTheConnectionLosesNoMessage(t *testing.T) {
	for _, synchronous := range []bool{false, true} {
		for _, how := range []string{"the store cuts, then fails", "the store waits for its context"} {
			t.Run(fmt.Sprintf("%s, SynchronousAck %v", how, synchronous), func(t *testing.T) {
				withBot(t, func(t *testing.T, b *bot) {
					b.client.SynchronousAck = synchronous
					o := &outage{EventBuffer: b.client.Store.EventBuffer}
					o.fail = func(ctx context.Context) error {
						if how == "the store waits for its context" {
							<-ctx.Done()
							return fmt.Errorf("store: %w", ctx.Err())
						}
						time.Sleep(time.Second)
						b.l.Current().Cut(errTest)
						return fmt.Errorf("store unavailable: %w", context.Canceled)
					}
					b.client.Store.EventBuffer = o
					alice := b.contact()
					var want []string
					for round := range stabilitytest.Pick(5, 50) {
						b.online()
						o.on.Store(true)
						for i := range 4 {
							text := fmt.Sprintf("%d.%d", round, i)
							want = append(want, text)
							_, err := alice.Send(t.Context(), b.acct.JID(), text)
							require.NoError(t, err)
						}
						time.Sleep(2 * time.Second)
						require.Len(t, b.device().Pending(), 4)
						b.offline()
						require.Len(t, b.device().Pending(), 4, "the drain acknowledges nothing")
						o.on.Store(false)
						b.online()
						time.Sleep(time.Second)
						require.Empty(t, b.device().Pending())
						b.offline()
					}
					require.NotZero(t, o.strikes.Load())
					for _, text := range want {
						require.True(t, b.received1(text), text)
					}
					require.Zero(t, b.device().Stats().RetryReceipts)
				})
			})
		}
	}
}

func TestNoMessageIsLostWhereverTheConnectionIsCut(t *testing.T) {
	withBot(t, func(t *testing.T, b *bot) {
		b.client.SynchronousAck = true
		alice := b.contact()
		offline := stabilitytest.Pick(60, 500)
		var want []string
		send := func(n int) {
			for range n {
				text := fmt.Sprint(len(want))
				want = append(want, text)
				_, err := alice.Send(t.Context(), b.acct.JID(), text)
				require.NoError(t, err)
			}
		}
		send(offline)
		for round := range stabilitytest.Pick(15, 200) {
			b.pause.Store(rand.Int64N(int64(2 * time.Millisecond)))
			cutOn("<message", rand.IntN(offline))(b, round)
			_, err := b.l.Connect(t.Context())
			require.NoError(t, err)
			time.Sleep(time.Duration(rand.Int64N(int64(50 * time.Millisecond))))
			b.offline()
			b.onRecv.Store(nil)
			send(3)
		}
		b.pause.Store(0)
		b.online()
		time.Sleep(time.Minute)
		require.Empty(t, b.device().Pending())
		for _, text := range want {
			require.True(t, b.received1(text), text)
		}
		require.Empty(t, b.staleEvents())
	})
}

func TestTheSameOverRealTCP(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("whatsmeow's sends race with its own closing of the socket outside of a bubble's order")
	}
	s := wasim.New(wasim.WithTB(t), wasim.WithFewKeys())
	require.NoError(t, s.Listen())
	b := newBotOn(t, s)
	for range stabilitytest.Pick(5, 50) {
		b.online()
		b.s.Flood(b.device().JID(), 200, 0)
		b.cut()
		b.offline()
		require.Empty(t, b.staleEvents())
	}
	b.close()
}
