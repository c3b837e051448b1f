package stability_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// bench is a Manager that is connected, a contact who knows it, and a meter
// between the store and its backend.
type bench struct {
	b       *testing.B
	sim     *wasim.Service
	account *wasim.Account
	peer    *wasim.Contact
	client  *whatsmeow.Client
	meter   *authstoretest.FaultyKV
	place   server
	got     atomic.Int64 // messages handed over
	more    chan struct{}
}

func newBench(b *testing.B) *bench {
	b.Helper()
	return benchOn(b, newServer(b))
}

func benchOn(b *testing.B, place server) *bench {
	b.Helper()
	x := &bench{b: b, sim: wasim.New(wasim.WithTB(b)), place: place, more: make(chan struct{}, 1)}
	x.account = x.sim.NewAccount("491520000001")
	var err error
	x.peer, err = x.sim.NewContact(b.Context(), "491520000002")
	require.NoError(b, err)

	backend := place.Backend()
	x.meter = authstoretest.Faulty(backend.Auth)
	backend.Auth = x.meter
	m, err := stability.New(
		stability.WithBackend(backend), stability.WithTransport(x.sim.Transport()),
		stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithReconnect(reconnect.Policy{InitialDelay: time.Millisecond}),
		stability.WithQR(func(q stability.QR) { _ = x.account.Phone().Scan(q.Code) }))
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.ManualHistorySyncDownload = true
			c.AddEventHandler(x.handle)
			return nil
		})
	}()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-ended)
		require.NoError(b, m.Close(context.Background()))
	})
	// The first client is replaced after pairing only if the pairing failed.
	x.client, err = m.WaitReady(b.Context())
	require.NoError(b, err)
	// Until both have answered each other, messages carry the handshake.
	for range 3 {
		x.receive()
		x.send(x.peer.JID())
	}
	return x
}

func (x *bench) handle(evt any) {
	if m, ok := evt.(*events.Message); ok && m.Message.GetConversation() != "" {
		x.got.Add(1)
		select {
		case x.more <- struct{}{}:
		default:
		}
	}
}

// receive has the peer write once and waits until it was handed over.
func (x *bench) receive() {
	want := x.got.Load() + 1
	_, err := x.peer.Send(x.b.Context(), x.account.JID(), "hello")
	require.NoError(x.b, err)
	for x.got.Load() < want {
		<-x.more
	}
}

func (x *bench) send(to types.JID) {
	_, err := x.client.SendMessage(x.b.Context(), to, text("hello"))
	require.NoError(x.b, err)
}

// settle waits until what the last message caused is written.
func (x *bench) settle() {
	for last, same := x.meter.Stats(), 0; same < 5; {
		time.Sleep(20 * time.Millisecond) // nothing tells when a store will be left alone
		now := x.meter.Stats()
		if same++; now != last {
			last, same = now, 0
		}
	}
}

// measure runs f b.N times and reports what reached the backend, per run.
func (x *bench) measure(f func()) {
	x.settle()
	x.meter.Reset()
	billed := func() firestoresim.Stats {
		if f, ok := x.place.(interface{ billed() firestoresim.Stats }); ok {
			return f.billed()
		}
		return firestoresim.Stats{}
	}
	before := billed()
	n := 0
	for x.b.Loop() {
		f()
		n++
	}
	x.settle()
	s := x.meter.Stats()
	per := func(count int, unit string) { x.b.ReportMetric(float64(count)/float64(n), unit+"/op") }
	per(s.Commits, "commits")
	per(s.Gets+s.Scans, "reads")
	per(s.Calls(), "roundtrips")
	per(s.Puts+s.Deletes, "rows")
	if after := billed(); after.RPCs != nil {
		per(after.RPCs[firestoresim.Commit]-before.RPCs[firestoresim.Commit], "rpc-commits")
		per(after.RPCs[firestoresim.BatchGetDocuments]-before.RPCs[firestoresim.BatchGetDocuments], "rpc-gets")
		per(after.Reads-before.Reads, "doc-reads")
		per(after.Writes-before.Writes, "doc-writes")
		per(after.Deletes-before.Deletes, "doc-deletes")
	}
}

func BenchmarkReceive(b *testing.B) {
	x := newBench(b)
	x.measure(x.receive)
}

func BenchmarkSend(b *testing.B) {
	x := newBench(b)
	x.measure(func() { x.send(x.peer.JID()) })
}

// A group of 256 with whose members there are sessions. whatsmeow sends the
// sender key along with every message: 255 sessions step each time.
func BenchmarkSendGroup256(b *testing.B) {
	x := newBench(b)
	group := x.sim.NewGroup("crowd", append(x.sim.Ghosts(254), x.account, x.peer.Account())...)
	x.send(group.JID())
	x.measure(func() { x.send(group.JID()) })
}

// The first message to a group of 254 strangers and a friend.
func BenchmarkFirstSendGroup256(b *testing.B) {
	x := newBench(b)
	x.measure(func() {
		b.StopTimer()
		group := x.sim.NewGroup("crowd", append(x.sim.Ghosts(254), x.account, x.peer.Account())...)
		b.StartTimer()
		x.send(group.JID())
	})
}

func newIdle(tb testing.TB) *stability.Manager {
	m, err := stability.New(stability.WithBackend(memorybackend.New().Backend()))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, m.Close(context.Background())) })
	return m
}

func BenchmarkRecordEvent(b *testing.B) {
	m := newIdle(b)
	var evt any = &events.Message{}
	b.ReportAllocs()
	for b.Loop() {
		m.RecordEvent(evt)
	}
}

func BenchmarkRecordEventParallel(b *testing.B) {
	m := newIdle(b)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		var evt any = &events.Receipt{}
		for p.Next() {
			m.RecordEvent(evt)
		}
	})
}

func TestRecordEventAllocatesNothing(t *testing.T) {
	m := newIdle(t)
	for _, evt := range []any{&events.Message{}, &events.Receipt{}, events.Connected{}, nil} {
		require.Zero(t, testing.AllocsPerRun(1000, func() { m.RecordEvent(evt) }), "%T", evt)
	}
}

// hoursVariable sets how long the day of the next test is.
const hoursVariable = "WASTABILITY_HOURS"

func TestAQuietDayPassesOnOneConnection(t *testing.T) {
	hours := stabilitytest.Pick(6, 72)
	if text := os.Getenv(hoursVariable); text != "" {
		var err error
		hours, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance().run().pair()
		logins := w.logins()
		for n := range hours * 6 {
			time.Sleep(10 * time.Minute)
			_, err := w.peer().Send(t.Context(), w.account.JID(), fmt.Sprint(n))
			require.NoError(t, err)
			w.await("it was handed over", func() bool { return len(a.texts()) == n+1 })
			require.NoError(t, a.send(w.peer().JID(), "and back"))
		}
		require.Equal(t, logins, w.logins(), "a quiet account is left in peace")
		require.Empty(t, a.history(stability.EventIncidentOpened))
		a.stop()
		w.peer().Close()
		w.sim.Close()
		time.Sleep(time.Second)
	})
}

// BenchmarkVirtualHours runs the day above in a process of its own, so that
// nothing else counts, and reports how much virtual time a second of CPU buys
// with one Manager and two clients.
func BenchmarkVirtualHours(b *testing.B) {
	const hours = 48
	var cpu time.Duration
	n := 0
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestAQuietDayPassesOnOneConnection$")
		cmd.Env = append(os.Environ(), hoursVariable+"="+strconv.Itoa(hours))
		out, err := cmd.CombinedOutput()
		require.NoError(b, err, string(out))
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		n++
	}
	b.ReportMetric(float64(hours*n)/cpu.Seconds(), "virtual-h/cpu-s")
}
