package link

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// pumpsRunning counts whatsmeow's read pumps in this process.
func pumpsRunning() int {
	buf := make([]byte, 4<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "(*FrameSocket).readPump(")
}

// The host ends a connection while the pump waits to hand a frame over. The
// consumer of its frames is stopped first, and in every other run it takes no
// more of them.
func TestHostsDisconnectUnderTrafficLeavesNoPump(t *testing.T) {
	for name, connect := range map[string]func(b *bot) (disconnect func()){
		"Disconnect": func(b *bot) func() {
			b.online()
			return b.client.Disconnect
		},
		"its context": func(b *bot) func() {
			ctx, cancel := context.WithCancel(context.Background())
			require.NoError(b.t, b.client.ConnectContext(ctx))
			time.Sleep(time.Second)
			return cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBotOn(t, wasim.New(wasim.WithTB(t), wasim.WithFewKeys()))
				before := pumpsRunning()
				for range stabilitytest.Pick(12, 200) {
					disconnect := connect(b)
					var slow atomic.Bool
					slow.Store(true)
					f := func(xml string) {
						if slow.Swap(false) {
							time.Sleep(time.Second) // the next frame waits meanwhile
						}
					}
					b.onRecv.Store(&f)
					b.s.Flood(b.device().JID(), 5, 0)
					synctest.Wait()
					require.False(t, slow.Load())
					disconnect()
					b.offline()
					time.Sleep(6 * time.Second)
					synctest.Wait()
					require.Equal(t, before, pumpsRunning())
				}
				b.onRecv.Store(nil)
				b.online() // and it can be used again
				b.close()
			})
		})
	}
}

type notASocket struct{ Frames chan int }

func (notASocket) Context() context.Context { return context.Background() }

func TestStrangeWordsOfTheSocketAreNoPump(t *testing.T) {
	var p pumps
	for _, x := range []any{nil, "text", 7, notASocket{}, &notASocket{}, (*notASocket)(nil)} {
		p.starts(x)
		p.ends(x)
		require.Empty(t, p.running)
	}
}
