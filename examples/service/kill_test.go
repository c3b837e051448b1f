package main

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// tunnel carries connections to a store, until it is blocked: then they stay
// open, on both sides, and nothing passes on them any more.
type tunnel struct {
	net.Listener
	blocked chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	open    []net.Conn
}

func newTunnel(t *testing.T, to string) *tunnel {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &tunnel{Listener: l, blocked: make(chan struct{})}
	w.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			store, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, client, store)
			w.mu.Unlock()
			w.wg.Go(func() { w.pass(store, client) })
			w.wg.Go(func() { w.pass(client, store) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		for _, c := range w.open {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

func (w *tunnel) pass(to, from net.Conn) {
	for buf := make([]byte, 32<<10); ; {
		n, err := from.Read(buf)
		select {
		case <-w.blocked:
			return
		default:
		}
		if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
			_ = to.Close()
			return
		}
	}
}

// A replica whose handler hangs, or whose store does not answer it, is killed
// at the end of a grace period that is shorter than its hand-over may take. The
// other one takes over, on the same machine at once, else at the end of the
// lease. Every message is answered, once.
func TestKillAfterGraceCostsTheLeaseAndNoMessage(t *testing.T) {
	t.Parallel()
	const (
		grace = time.Second // a hand-over may take 36 s
		lease = 4 * time.Second
		login = 20 * time.Second // at most, on a slow machine
	)
	for _, c := range []struct {
		store, hangs string
		often        bool // is played at every size of the tests
	}{
		{"local", "handler", true},
		{"postgres", "store", true}, {"postgres", "handler", false},
		{"firestore", "store", false}, {"firestore", "handler", true},
	} {
		if !c.often && !stabilitytest.Full() {
			continue
		}
		t.Run(c.store+", "+c.hangs+" hangs", func(t *testing.T) {
			t.Parallel()
			env := []string{"ADMIN_TOKEN=" + rand.Text(), demo.EnvLease + "=" + lease.String()}
			var blockable string // the setting of who is to be cut off from the store
			var way *tunnel
			within := lease + grace + login
			switch c.store {
			case "local":
				env = append(env, "STORE=local:"+filepath.Join(t.TempDir(), "wa.db"))
				within = grace + login
			case "postgres":
				server := postgrestest.Need(t)
				env = append(env, "STORE=postgres:"+rand.Text(), "DATABASE_URL="+server.DSN())
				way = newTunnel(t, server.Addr())
				blockable = "DATABASE_URL=" + strings.Replace(server.DSN(), server.Addr(), way.Addr().String(), 1)
			case "firestore":
				emulator := firestoresim.NeedEmulator(t)
				env = append(env, "STORE=firestore:kill/"+rand.Text(), "GOOGLE_CLOUD_PROJECT=demo-wastability", firestoresim.HostEnv+"="+emulator.Addr())
				way = newTunnel(t, emulator.Addr())
				blockable = firestoresim.HostEnv + "=" + way.Addr().String()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			world, err := demo.New(ctx)
			require.NoError(t, err)
			defer world.Close()
			replicas, err := demo.NewReplicas(world, io.Discard, env...)
			require.NoError(t, err)
			replicas.Pace = pace
			r := &rollout{platform: platform{name: "kill", ready: "/ready?standby=ok"}, t: t, ctx: ctx, replicas: replicas}
			old := r.start(blockable)
			require.NoError(t, old.Until(ctx, replicas.Online))
			r.await(old)
			next := r.start()
			r.await(next)
			require.NoError(t, replicas.Chat(ctx, 1))
			require.NoError(t, replicas.Quiet(ctx))

			off := r.longestOff()
			logins := replicas.Logins()
			if c.hangs == "handler" { // in a send that nobody answers
				ignored := world.Service.Fault(wasim.MessageIgnored()).For(world.Account.JID())
				ignored.Now()
				require.NoError(t, replicas.Chat(ctx, 1))
				require.NoError(t, demo.Until(ctx, func() bool { return ignored.Fired() == 1 }))
			} else {
				close(way.blocked)
				require.NoError(t, replicas.Chat(ctx, 1))
			}
			require.ErrorIs(t, old.TerminateWithin(grace), demo.ErrKilled)
			require.NoError(t, demo.Until(ctx, func() bool { return replicas.Logins() > logins && replicas.Online() }))
			gap := off()
			require.NoError(t, replicas.Chat(ctx, 1))
			res := replicas.Settle(ctx)
			t.Logf("off for at most %s; %s", gap.Round(time.Millisecond), res)
			require.NoError(t, res.Err())
			require.Equal(t, 3, res.Sent)
			require.Less(t, gap, within)
			require.NoError(t, next.Terminate())
		})
	}
}
