package link

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A situation brings a bot to a point and cuts it, or lets it be cut. It runs
// while Connect may still be running.
type situation struct {
	name string
	// before arranges for things to happen during the next Connect.
	before func(b *bot, round int)
	// live happens after a successful Connect.
	live func(b *bot, round int)
}

func cutAfter(d time.Duration) func(b *bot, round int) {
	return func(b *bot, _ int) { time.AfterFunc(d, b.cut) }
}

func during(f func() wasim.Fault, d time.Duration) func(b *bot, round int) {
	return func(b *bot, round int) {
		b.fault(f()).OnNextLogin()
		cutAfter(d)(b, round)
	}
}

// cutOn cuts in the read goroutine when a stanza with this prefix comes.
func cutOn(prefix string, after int) func(b *bot, round int) {
	return func(b *bot, _ int) {
		left := after
		f := func(xml string) {
			if strings.HasPrefix(xml, prefix) {
				if left--; left < 0 {
					b.cut()
				}
			}
		}
		b.onRecv.Store(&f)
	}
}

func stream(n int, interval, pause, at time.Duration) func(b *bot, round int) {
	return func(b *bot, _ int) {
		_ = b.seen(within(b.t, time.Minute), &events.Connected{}, b.count(&events.Connected{})+1)
		b.pause.Store(int64(pause))
		b.s.Flood(b.device().JID(), n, interval)
		time.Sleep(at)
		b.cut()
	}
}

func struck(f func() wasim.Fault, wait time.Duration) func(b *bot, round int) {
	return func(b *bot, _ int) {
		_ = b.seen(within(b.t, time.Minute), &events.Connected{}, b.count(&events.Connected{})+1)
		b.fault(f()).Now()
		time.Sleep(wait)
	}
}

func situations() []situation {
	hello := func() wasim.Fault { return wasim.HelloDelay(10 * time.Second) }
	return []situation{
		{"during dial", during(wasim.DialHang, time.Second), nil},
		{"during TLS", during(wasim.TLSHang, time.Second), nil},
		{"during upgrade", during(wasim.UpgradeHang, time.Second), nil},
		{"while waiting for the hello", during(hello, time.Second), nil},
		{"as the hello comes", during(hello, 10*time.Second), nil},
		{"handshake dropped", func(b *bot, _ int) { b.fault(wasim.HandshakeDrop()).OnNextLogin() }, nil},
		{"wrong certificate", func(b *bot, _ int) { b.fault(wasim.WrongCertificate()).OnNextLogin() }, nil},
		{"before success", nil, func(b *bot, _ int) { b.cut() }},
		{"on success", cutOn("<success", 0), nil},
		{"in the queries behind success", cutOn("<iq", 0), nil},
		{"after login", nil, func(b *bot, _ int) { time.Sleep(time.Second); b.cut() }},
		{"pings going", nil, func(b *bot, round int) { time.Sleep(time.Duration(20+round%12) * time.Second); b.cut() }},
		{"inside a write", func(b *bot, round int) {
			k := 1 + 5*round%24
			b.wire.set(func() {
				b.wire.hook = func(n int) {
					if n == k {
						go b.cut()
						time.Sleep(time.Millisecond)
					}
				}
			})
		}, func(b *bot, _ int) { time.Sleep(time.Minute); b.cut() }},
		{"at a random instant", func(b *bot, _ int) {
			b.fault(wasim.Slow(100_000, time.Millisecond)).OnNextLogin()
			cutAfter(time.Duration(rand.Int64N(int64(50*time.Millisecond))))(b, 0)
		}, func(b *bot, _ int) { time.Sleep(time.Second); b.cut() }},
		{"streaming, fast handler", nil, stream(1500, 0, 0, 0)},
		{"streaming, paced", nil, stream(2000, 100*time.Microsecond, 0, 50*time.Millisecond)},
		{"streaming, paced handler", nil, stream(500, time.Millisecond, time.Millisecond, 100*time.Millisecond)},
		{"streaming, slow consumer", nil, func(b *bot, round int) {
			f := func(string) { time.Sleep(time.Millisecond) } // the pump waits to hand its frame over
			b.onRecv.Store(&f)
			stream(500, 0, 0, 20*time.Millisecond)(b, round)
		}},
		{"streaming, slow handler", nil, stream(50, time.Millisecond, 7*time.Second, 30*time.Millisecond)},
		{"queue full and goroutines waiting", nil, stream(2500, 0, 10*time.Millisecond, time.Second)},
		{"cut in an event handler", func(b *bot, _ int) {
			f := func(evt any) {
				if _, ok := evt.(*events.Receipt); ok {
					b.cut()
				}
			}
			b.onEvt.Store(&f)
		}, stream(100, 0, 0, time.Second)},
		{"cut from everywhere", func(b *bot, _ int) {
			for range 8 {
				time.AfterFunc(time.Duration(rand.Int64N(int64(time.Millisecond))), b.cut)
			}
		}, func(b *bot, _ int) {
			for range 8 {
				go b.cut()
			}
		}},
		{"replaced left in the queue", nil, func(b *bot, _ int) {
			_ = b.seen(within(b.t, time.Minute), &events.Connected{}, b.count(&events.Connected{})+1)
			b.pause.Store(int64(time.Second))
			b.s.Flood(b.device().JID(), 5, 0)
			time.Sleep(time.Millisecond)
			b.fault(wasim.Replaced()).Now()
			time.Sleep(time.Millisecond)
			b.cut()
		}},
		{"reset", nil, struck(wasim.Reset, time.Second)},
		{"FIN", nil, struck(wasim.FIN, time.Second)},
		{"FIN and cut at once", nil, func(b *bot, round int) { struck(wasim.FIN, 0)(b, round); b.cut() }},
		{"websocket close", nil, struck(func() wasim.Fault { return wasim.WebsocketClose(1001) }, time.Second)},
		{"stream error 503", nil, struck(func() wasim.Fault { return wasim.StreamError("503") }, time.Second)},
		{"stream error and cut at once", nil, func(b *bot, round int) {
			struck(func() wasim.Fault { return wasim.StreamError("500") }, 0)(b, round)
			b.cut()
		}},
		{"replaced", nil, struck(wasim.Replaced, time.Second)},
		{"silence", nil, struck(wasim.Silence, 2*time.Minute)},
		{"black hole", nil, struck(wasim.BlackHole, 2*time.Minute)},
		{"dropped behind success", func(b *bot, _ int) { b.fault(wasim.DropAfterSuccess()).OnNextLogin() }, func(*bot, int) { time.Sleep(10 * time.Second) }},
		{"refused login", func(b *bot, _ int) { b.fault(wasim.Failure(503)).OnNextLogin() }, func(*bot, int) { time.Sleep(time.Second) }},
		{"client.Disconnect", nil, func(b *bot, _ int) { time.Sleep(time.Second); b.client.Disconnect() }},
	}
}

func TestEndLeavesNothingBehindWhereverItFindsTheConnection(t *testing.T) {
	for _, byHost := range []bool{false, true} {
		for _, st := range situations() {
			name := st.name
			if byHost {
				name += ", host connects"
			}
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) { endInSituation(t, st, byHost) })
			})
		}
	}
}

func endInSituation(t *testing.T, st situation, byHost bool) {
	rounds := stabilitytest.Pick(5, 100)
	if byHost {
		rounds = stabilitytest.Pick(2, 100)
	}
	endRounds(newBot(t), st, byHost, rounds)
}

func endRounds(b *bot, st situation, byHost bool, rounds int) {
	t := b.t
	for round := range rounds {
		if st.before != nil {
			st.before(b, round)
		}
		var err error
		if byHost {
			err = b.client.ConnectContext(t.Context())
		} else {
			_, err = b.l.Connect(t.Context())
		}
		if err == nil && st.live != nil {
			st.live(b, round)
		}
		conn := b.l.Current()
		began := time.Now()
		require.NoError(t, conn.End(within(t, time.Hour)))
		if b.pause.Load() == 0 {
			require.Less(t, time.Since(began), 100*time.Millisecond)
		}
		require.Zero(t, b.running.Load(), "handlers")
		late := 0
		b.wire.set(func() { late, b.wire.hook, b.wire.limbo = b.wire.late, nil, false })
		require.Zero(t, late, "writes after the cut")
		bytes := b.device().Stats().BytesIn
		synctest.Wait()
		require.Equal(t, bytes, b.device().Stats().BytesIn)
		b.onRecv.Store(nil)
		b.onEvt.Store(nil)
		b.pause.Store(0)
		b.s.Heal()

		// The same client, at once.
		next := b.online()
		time.Sleep(time.Second)
		require.True(t, next.Up(), "nothing of the old connection ends the new one: %v", next.Err())
		require.Empty(t, b.staleEvents())
		b.offline()
	}
	b.close()
}

// Only a client that offers compression gets it: newer versions of whatsmeow do.
func TestCompressedConnectionsEndAsAllOthersDo(t *testing.T) {
	for _, st := range situations() {
		t.Run(st.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := wasim.New(wasim.WithTB(t), wasim.WithFewKeys(), wasim.WithCompression())
				b := newBotOn(t, s)
				if offered, negotiated := s.Compression(); offered == 0 {
					b.close()
					t.Skip("this whatsmeow does not offer compression")
				} else {
					require.Equal(t, offered, negotiated)
				}
				endRounds(b, st, false, stabilitytest.Pick(3, 200))
			})
		})
	}
}
