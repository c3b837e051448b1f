//go:build linux || darwin

package stability_test

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// toll stands on the way to the service and counts what comes from the dialing
// side, also when nobody takes it any more.
type toll struct {
	mu    sync.Mutex
	conns []*tolled
}

type tolled struct {
	began, last time.Time
	bytes       int
	gone        bool // the dialing side closed it
}

func newToll(t *testing.T, target string) (*toll, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x := &toll{}
	var wg sync.WaitGroup
	var all []net.Conn
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", target)
			if err != nil {
				_ = from.Close()
				continue
			}
			c := &tolled{began: time.Now()}
			x.mu.Lock()
			x.conns = append(x.conns, c)
			all = append(all, from, to)
			x.mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(from, to) }) // and leave it open
			wg.Go(func() {
				defer to.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := from.Read(buf)
					x.mu.Lock()
					if n > 0 {
						c.bytes, c.last = c.bytes+n, time.Now()
					}
					c.gone = err != nil
					x.mu.Unlock()
					if err != nil {
						return
					}
					_, _ = to.Write(buf[:n])
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		x.mu.Lock()
		for _, c := range all {
			_ = c.Close()
		}
		x.mu.Unlock()
		wg.Wait()
	})
	return x, l.Addr().String()
}

func (x *toll) all() []tolled {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []tolled
	for _, c := range x.conns {
		out = append(out, *c)
	}
	return out
}

func TestAFrozenProcessThatWakesPastItsLeaseSendsAndWritesNothing(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("its processes send on real sockets that are cut: whatsmeow's own races end them")
	}
	t.Parallel()
	const lease = 1500 * time.Millisecond
	w := listening(t)
	dir := t.TempDir()
	account, addr := serve(t, w.memory.Backend())
	gate, way := newToll(t, w.sim.Addr())
	p := part{Service: w.sim.Endpoint(), Served: addr, Record: filepath.Join(dir, "record"), Lease: lease, Peer: w.peer().JID().String()}
	p.Service.Addr = way
	c := p.start(t)
	require.NoError(t, w.account.Phone().Scan(c.Hears("qr")))
	c.Hears("paired")
	c.Hears("connected")
	stop := w.stream(20*time.Millisecond, 20)

	for n := range stabilitytest.Pick(2, 10) {
		time.Sleep(300 * time.Millisecond)
		rec, err := w.look().Lock.Load(t.Context())
		require.NoError(t, err)
		b := w.named("b", stability.WithLockOptions(lock.WithLease(lease))).run()
		b.reached(1, stability.EventStandby)
		before := len(gate.all())
		late := n%2 == 1 // in the middle of a commit; else anywhere
		if late {
			c.Tell("freeze")
		} else {
			require.NoError(t, c.Process.Signal(syscall.SIGSTOP))
		}
		granted := b.reached(1, stability.EventActivated)
		b.ready()
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, c.Process.Signal(syscall.SIGCONT))
		woken := time.Now()
		c.Hears("standby")
		t.Logf("standing by %v after waking", time.Since(woken))
		time.Sleep(500 * time.Millisecond)

		require.Greater(t, granted.Epoch, rec.Epoch)
		applied, refused := account.since(granted.Time, rec.Epoch)
		require.Zero(t, applied, "a write of the old term arrived")
		if late {
			require.Positive(t, refused, "and one was tried")
		}
		for _, x := range gate.all()[:before] {
			require.False(t, x.last.After(granted.Time), "%d bytes, the last %v after the grant", x.bytes, x.last.Sub(granted.Time))
			require.True(t, x.gone, "and the socket is closed")
		}
		require.Len(t, gate.all(), before, "it does not connect either")
		require.Equal(t, reconnect.StatusConnected, b.status().WA)
		t.Logf("%d late writes refused", refused)
		never(t, reconnect.ReasonConnectionReplaced, b)

		b.stop()
		c.Hears("connected")
	}
	stop()
	awaitReal(t, "everything is acknowledged", func() bool { return len(w.device().Pending()) == 0 })
	require.False(t, c.SaidSince("qr"))
	c.Leave()
	w.close()
}
