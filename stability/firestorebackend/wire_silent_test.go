package firestorebackend

import (
	"context"
	"crypto/rand"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"

	"github.com/wastability/wastability/lock"
)

// tunnel carries TCP connections to a server. Those that are there when it is
// silenced stay open, and nothing passes on them any more; later ones work.
type tunnel struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	made   int
	silent int // connections up to this number
	open   []net.Conn
}

func newTunnel(t *testing.T, target string) *tunnel {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tunnel{listener: l, target: target}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.carry(c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.open {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *tunnel) carry(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.made++
	n := p.made
	p.open = append(p.open, client, server)
	p.mu.Unlock()
	pass := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 32<<10)
		for {
			k, err := src.Read(buf)
			if err != nil {
				return
			}
			p.mu.Lock()
			silent := p.silent >= n
			p.mu.Unlock()
			if silent {
				continue // taken, acknowledged by TCP, and lost
			}
			if _, err := dst.Write(buf[:k]); err != nil {
				return
			}
		}
	}
	p.wg.Go(func() { pass(server, client) })
	p.wg.Go(func() { pass(client, server) })
}

func (p *tunnel) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = p.made
}

func (p *tunnel) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// A renewal, and what waits for the lock, find their way again although nobody
// was told that the connection is gone. gRPC notices after twelve seconds at the
// earliest: these are the longest waits of the package, and parallel tests begin
// with the last file's, so that the others run meanwhile.
func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	silentConnectionIsReplaced(t, func(project, addr string) (*firestore.Client, error) {
		return NewClient(t.Context(), project, WithKeepalive(10*time.Second, time.Second), WithClientOptions(plainTo(addr)...))
	})
}

func TestSilentConnectionOfAHostsOwnClientIsReplaced(t *testing.T) {
	t.Parallel()
	silentConnectionIsReplaced(t, func(project, addr string) (*firestore.Client, error) {
		return firestore.NewClient(t.Context(), project, append(plainTo(addr), option.WithGRPCDialOption(keepaliveOf(10*time.Second, time.Second)))...)
	})
}

func silentConnectionIsReplaced(t *testing.T, client func(project, addr string) (*firestore.Client, error)) {
	p := newTunnel(t, emulator(t).Addr())
	c, err := client("demo-"+strings.ToLower(rand.Text()[:20]), p.listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	b := opened(t, c, WithTimeout(time.Second))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var rec lock.Record
	require.Eventually(t, func() (granted bool) { // a cold emulator takes more than a second
		rec, granted, err = b.Lock.Acquire(ctx, "a", "n", time.Hour)
		return granted
	}, 30*time.Second, 10*time.Millisecond)
	before := p.connections()

	p.silence()
	renew := func() error { // as a lease does that is in a hurry
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		_, err := b.Lock.Renew(ctx, rec)
		return err
	}
	require.NotErrorIs(t, renew(), ErrSilent, "once is a busy server")
	err = renew()
	require.ErrorIs(t, err, ErrSilent)
	require.ErrorContains(t, err, "NewClient")
	require.Eventually(t, func() bool {
		_, err = b.Lock.Renew(ctx, rec)
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	require.Greater(t, p.connections(), before)
}
