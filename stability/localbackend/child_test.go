package localbackend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
)

// The tests with several processes run the test binary again: TestMain hands
// over to child when childEnv names a part to play.
const (
	childEnv = "WASTABILITY_LOCALBACKEND_CHILD"
	pathEnv  = "WASTABILITY_LOCALBACKEND_PATH"
)

func hold(t testing.TB, b stability.Backend) lock.Record {
	t.Helper()
	rec, granted, err := b.Lock.Acquire(t.Context(), "one", lock.NewHolderID("nonce"), time.Hour)
	require.NoError(t, err)
	require.True(t, granted, "held by %q", rec.Holder)
	return rec
}

// parts are what a child can play. What they return goes to standard error.
var parts = map[string]func(b stability.Backend, out io.Writer) error{
	"hold":   partHold,
	"commit": partCommit,
}

func child() bool {
	part := os.Getenv(childEnv)
	if part == "" {
		return false
	}
	b, err := Open(os.Getenv(pathEnv))
	if err == nil {
		err = parts[part](b, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func take(b stability.Backend) (lock.Record, error) {
	rec, granted, err := b.Lock.Acquire(context.Background(), "child", lock.NewHolderID("nonce"), time.Hour)
	if err == nil && !granted {
		err = fmt.Errorf("held by %q", rec.Holder)
	}
	return rec, err
}

// partHold holds the lock until standard input ends, then exits without a word.
func partHold(b stability.Backend, out io.Writer) error {
	rec, err := take(b)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, rec.Epoch)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// commitKeys is what batch n of partCommit writes: n everywhere, the entry n,
// and without the entry n-10.
func commitBatch(n int) authstore.Batch {
	var b authstore.Batch
	for _, k := range []authstore.Key{{Kind: "a", ID: "x"}, {Kind: "b", ID: "x"}, {Kind: "z", ID: "x"}, {Kind: "n", ID: fmt.Sprint(n)}} {
		b.Put = append(b.Put, authstore.Entry{Key: k, Value: fmt.Append(make([]byte, n%7*700), n)})
	}
	b.Delete = []authstore.Key{{Kind: "n", ID: fmt.Sprint(n - 10)}}
	return b
}

// partCommit commits one batch after the other and says so after each.
func partCommit(b stability.Backend, out io.Writer) error {
	rec, err := take(b)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := b.Auth.Commit(context.Background(), rec.Epoch, commitBatch(n)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, n); err != nil {
			return err
		}
	}
}

type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err *strings.Builder
}

// start starts a child; it is killed at the end of the test at the latest.
func start(t *testing.T, part, path string) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	p := &process{Cmd: exec.Command(exe), err: &strings.Builder{}}
	p.Env = append(os.Environ(), childEnv+"="+part, pathEnv+"="+path)
	p.Stderr = p.err
	p.in, err = p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}

// line reads one line of a child; "" at its end.
func (p *process) line() string {
	s, err := p.out.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(s)
}
