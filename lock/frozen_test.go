//go:build unix

package lock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

// frozenEnv makes the test binary the process that is frozen: "store socket".
const frozenEnv = "WASTABILITY_LOCK_FROZEN"

const (
	frozenLease   = 1500 * time.Millisecond
	frozenHolder  = "frozen"
	frozenRefresh = 300 * time.Millisecond
)

// TestFrozenProcessReachesNeitherSocketNorStore stops a real process past its
// lease, lets another take the lock, and wakes it.
func TestFrozenProcessReachesNeitherSocketNorStore(t *testing.T) {
	t.Parallel()
	store := locktest.NewStore()
	storeAddr := serveStore(t, store)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer socket.Close()

	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, exe, "-test.run=^$")
	child.Env = append(os.Environ(), frozenEnv+"="+storeAddr+" "+socket.Addr().String())
	child.Stderr = os.Stderr
	orders, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer child.Process.Kill()
	says := bufio.NewScanner(out)

	conn, err := socket.Accept()
	require.NoError(t, err)
	defer conn.Close()
	wire := bufio.NewReader(conn)
	for range 20 { // it writes as long as it is Held
		line, err := wire.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "epoch 1\n", line)
	}

	fmt.Fprintln(orders, "freeze")
	require.True(t, says.Scan())
	require.Equal(t, "freezing", says.Text())
	frozenNow(t, child.Process.Pid)
	drain(t, conn, wire) // what it wrote before

	other := newLease(t, store, "other", lock.WithLease(frozenLease))
	term := acquire(t, other)
	require.EqualValues(t, 2, term.Epoch())
	require.NoError(t, child.Process.Signal(syscall.SIGCONT))

	require.True(t, says.Scan())
	require.Equal(t, "woke: 0 of 100 writes passed, commit fenced, cause lost", says.Text())
	rest, err := io.ReadAll(wire) // the child has closed it
	require.NoError(t, err)
	require.Empty(t, rest)
	require.True(t, term.Held())
	require.EqualValues(t, 2, store.HeldBy("other"))
	orders.Close()
	require.NoError(t, child.Wait())
}

// frozenNow waits until the process is stopped.
func frozenNow(t *testing.T, pid int) {
	var ws syscall.WaitStatus
	got, err := syscall.Wait4(pid, &ws, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	require.Equal(t, pid, got)
	require.True(t, ws.Stopped(), "not stopped: %v", ws)
}

// drain reads what has arrived. The writer is stopped, so that nothing follows:
// on loopback a write that has returned has arrived.
func drain(t *testing.T, conn net.Conn, wire *bufio.Reader) {
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := io.Copy(io.Discard, wire)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.SetReadDeadline(time.Time{}))
}

// frozenChild is the process that is frozen.
func frozenChild(addrs string) error {
	storeAddr, socketAddr, _ := strings.Cut(addrs, " ")
	client, err := rpc.Dial("tcp", storeAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	conn, err := net.Dial("tcp", socketAddr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lock.New(rpcStore{client}, frozenHolder, lock.WithLease(frozenLease), lock.WithRefresh(frozenRefresh),
		lock.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	term, err := l.Acquire(ctx)
	if err != nil {
		return err
	}
	write := func() bool { // the wire fence
		if !term.Held() {
			return false
		}
		_, err := fmt.Fprintf(conn, "epoch %d\n", term.Epoch())
		return err == nil
	}
	order := make(chan string)
	go func() {
		defer close(order)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			order <- in.Text()
		}
	}()
	for frozen := false; !frozen; {
		select {
		case <-order:
			fmt.Println("freezing")
			frozen = true
		case <-time.After(5 * time.Millisecond):
			write()
		}
	}
	last := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	// The signal need not stop the calling thread at once. What follows happens
	// the moment it goes on: the clock has leapt.
	for gap := time.Duration(0); gap < frozenLease/2; {
		now := time.Now()
		gap, last = now.Sub(last), now
	}
	passed := 0
	for range 50 { // at once
		if write() {
			passed++
		}
	}
	commit := "applied"
	if err := client.Call("Store.Commit", term.Epoch(), &struct{}{}); err != nil && err.Error() == lock.ErrFenced.Error() {
		commit = "fenced"
	}
	<-term.Lost()
	cause := "lost"
	if c := lock.Cause(term); !errors.Is(c, lock.ErrLost) && !errors.Is(c, lock.ErrExpired) {
		cause = fmt.Sprint(c)
	}
	for range 50 {
		if write() {
			passed++
		}
	}
	conn.Close()
	fmt.Printf("woke: %d of 100 writes passed, commit %s, cause %s\n", passed, commit, cause)
	<-order
	return l.Close(ctx)
}

// rpcService serves a Store to another process. Package net/rpc wants the types
// of its arguments exported.
type rpcService struct{ s *locktest.Store }

type RPCAnswer struct {
	Rec           lock.Record
	Granted, Lost bool
}

type RPCAcquire struct {
	Holder, Nonce string
	Lease         time.Duration
}

func serveStore(t *testing.T, s *locktest.Store) string {
	srv := rpc.NewServer()
	require.NoError(t, srv.RegisterName("Store", &rpcService{s}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err == nil {
			srv.ServeConn(conn)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func (r *rpcService) Acquire(a RPCAcquire, out *RPCAnswer) (err error) {
	out.Rec, out.Granted, err = r.s.Acquire(context.Background(), a.Holder, a.Nonce, a.Lease)
	return err
}

func (r *rpcService) Renew(held lock.Record, out *RPCAnswer) (err error) {
	out.Rec, err = r.s.Renew(context.Background(), held)
	if errors.Is(err, lock.ErrLost) {
		out.Lost, err = true, nil
	}
	return err
}

func (r *rpcService) Release(held lock.Record, _ *struct{}) error {
	return r.s.Release(context.Background(), held)
}

func (r *rpcService) Load(_ struct{}, out *RPCAnswer) (err error) {
	out.Rec, err = r.s.Load(context.Background())
	return err
}

// Commit is a fenced write.
func (r *rpcService) Commit(epoch int64, _ *struct{}) error {
	if rec, err := r.s.Load(context.Background()); err != nil || epoch < rec.Epoch {
		return lock.ErrFenced
	}
	return nil
}

type rpcStore struct{ c *rpc.Client }

func (s rpcStore) call(ctx context.Context, method string, in, out any) error {
	call := s.c.Go("Store."+method, in, out, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return call.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s rpcStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	var a RPCAnswer
	err := s.call(ctx, "Acquire", RPCAcquire{holder, nonce, lease}, &a)
	if err != nil {
		return lock.Record{}, false, err
	}
	return a.Rec, a.Granted, nil
}

func (s rpcStore) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	var a RPCAnswer
	if err := s.call(ctx, "Renew", held, &a); err != nil {
		return lock.Record{}, err
	}
	if a.Lost {
		return a.Rec, lock.ErrLost
	}
	return a.Rec, nil
}

func (s rpcStore) Release(ctx context.Context, held lock.Record) error {
	var none struct{}
	return s.call(ctx, "Release", held, &none)
}

func (s rpcStore) Load(ctx context.Context) (lock.Record, error) {
	var a RPCAnswer
	if err := s.call(ctx, "Load", struct{}{}, &a); err != nil {
		return lock.Record{}, err
	}
	return a.Rec, nil
}

// runChild is what the test binary does instead of testing when it is the child.
func runChild() bool {
	addrs := os.Getenv(frozenEnv)
	if addrs == "" {
		return false
	}
	if err := frozenChild(addrs); err != nil {
		fmt.Fprintln(os.Stderr, "frozen child:", err)
		os.Exit(1)
	}
	return true
}
