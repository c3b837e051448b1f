package demo

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// EnvLease shortens the lease of a process of Replicas, so that somebody can wait
// for its end.
const EnvLease = "WASTABILITY_DEMO_LEASE"

// The settings of a process of Replicas.
const (
	envEndpoint = "WASTABILITY_DEMO_ENDPOINT"
	envName     = "WASTABILITY_DEMO_NAME"
)

// IsReplica tells whether this process was started by Replicas.
func IsReplica() bool { return os.Getenv(envEndpoint) != "" }

// ReplicaOptions let the Manager of such a process run against the service of
// the one that started it, which scans the codes that it shows.
func ReplicaOptions() ([]stability.Option, error) {
	var at wasim.Endpoint
	if err := json.Unmarshal([]byte(os.Getenv(envEndpoint)), &at); err != nil {
		return nil, fmt.Errorf("%s: %w", envEndpoint, err)
	}
	name := os.Getenv(envName)
	transport, err := at.Transport(name)
	if err != nil {
		return nil, err
	}
	lease, err := time.ParseDuration(cmp.Or(os.Getenv(EnvLease), "0s")) // 0: the default
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EnvLease, err)
	}
	return []stability.Option{
		stability.WithTransport(transport), stability.WithReconnect(Quick), stability.WithLockOptions(lock.WithLease(lease)),
		stability.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithObserver(func(e stability.Event) { Tell(name, e) }),
		stability.WithQR(func(q stability.QR) { fmt.Println("code", q.Code) }),
	}, nil
}

// Replicas runs this program again, as processes that serve the World's
// account, with Ada writing to it. Its methods are for one goroutine.
type Replicas struct {
	Pace time.Duration // between Ada's messages; NewReplicas sets 500 ms

	world *World
	out   io.Writer // what the processes say
	env   []string  // of every process

	sent    int
	mu      sync.Mutex
	answers map[string]int
}

// NewReplicas lets the World be reached by other processes. env is added to
// the environment of each.
func NewReplicas(w *World, out io.Writer, env ...string) (*Replicas, error) {
	if err := w.Service.Listen(); err != nil {
		return nil, err
	}
	at, err := json.Marshal(w.Service.Endpoint())
	if err != nil {
		return nil, err
	}
	r := &Replicas{Pace: 500 * time.Millisecond, world: w, out: out, answers: map[string]int{}}
	r.env = append(append(os.Environ(), envEndpoint+"="+string(at), EnvStart+"="+strconv.FormatInt(Start.UnixNano(), 10)), env...)
	w.Ada.OnMessage(func(m wasim.Received) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.answers[strings.TrimPrefix(m.Text, "You said: ")]++
	})
	return r, nil
}

// Replica is one process.
type Replica struct {
	Name  string
	cmd   *exec.Cmd
	ended chan struct{} // is closed behind err
	err   error

	standsBy atomic.Bool
}

// Start runs this program once more, with the argument -simulate.
func (r *Replicas) Start(name string, env ...string) (*Replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return r.Launch(name, exec.Command(self, "-simulate"), env...)
}

// Launch starts another program that does the same.
func (r *Replicas) Launch(name string, cmd *exec.Cmd, env ...string) (*Replica, error) {
	cmd.Env = append(append(r.env[:len(r.env):len(r.env)], envName+"="+name), env...)
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Replica{Name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		r.follow(p, lines)
		p.err = cmd.Wait() // after the pipe's end, which Wait would close
	}()
	return p, nil
}

// StandsBy tells whether it has said that it waits for the lock.
func (p *Replica) StandsBy() bool { return p.standsBy.Load() }

// follow prints what a replica says, and scans the codes that it shows.
func (r *Replicas) follow(p *Replica, lines io.Reader) {
	for in := bufio.NewScanner(lines); in.Scan(); {
		code, isCode := strings.CutPrefix(in.Text(), "code ")
		if !isCode {
			fmt.Fprintln(r.out, in.Text())
			if strings.Contains(in.Text(), standsBy) {
				p.standsBy.Store(true)
			}
			continue
		}
		if err := r.world.Account.Phone().Scan(code); err != nil {
			Say("phone", "could not use the code: %v", err)
		}
	}
}

// Terminate sends SIGTERM, as a platform does, and waits for a clean end.
func (p *Replica) Terminate() error { return p.TerminateWithin(30 * time.Second) }

// ErrKilled says that a replica did not end in time, and was killed.
var ErrKilled = errors.New("it did not end within the grace period, and was killed")

// TerminateWithin is Terminate on a platform that kills after grace: the error is
// ErrKilled then.
func (p *Replica) TerminateWithin(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s did not end cleanly: %w", p.Name, p.err)
		}
		return nil
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s, %s after SIGTERM: %w", p.Name, grace, ErrKilled)
	}
}

// Kill ends the process without asking, and waits until it is gone. It may be
// called again.
func (p *Replica) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Until waits until cond holds. It is an error if the replica ends before.
func (p *Replica) Until(ctx context.Context, cond func() bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.ended:
			cancel(fmt.Errorf("%s has ended by itself: %v", p.Name, p.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	return Until(ctx, cond)
}

// Until waits until cond holds.
func Until(ctx context.Context, cond func() bool) error {
	for !cond() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Online tells whether a replica is logged in.
func (r *Replicas) Online() bool {
	devices := r.world.Account.Devices()
	return len(devices) > 0 && devices[len(devices)-1].Online()
}

// Logins counts the logins so far.
func (r *Replicas) Logins() int { return r.device().Stats().Logins }

func (r *Replicas) device() *wasim.Device {
	devices := r.world.Account.Devices()
	return devices[len(devices)-1]
}

// Chat has Ada write n messages, and waits for the Pace after each.
func (r *Replicas) Chat(ctx context.Context, n int) error {
	for range n {
		if _, err := r.world.Ada.Send(ctx, r.world.Account.JID(), fmt.Sprintf("message %d", r.sent+1)); err != nil {
			return err
		}
		r.sent++
		select {
		case <-time.After(r.Pace):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Gap measures how long the account is off the next time, to 5 ms.
func (r *Replicas) Gap(ctx context.Context) <-chan time.Duration {
	gap := make(chan time.Duration, 1)
	go func() {
		var off time.Time
		_ = Until(ctx, func() bool {
			switch online := r.Online(); {
			case !online && off.IsZero():
				off = time.Now()
			case online && !off.IsZero():
				gap <- time.Since(off)
				return true
			}
			return false
		})
		close(gap)
	}()
	return gap
}

// Result is what became of the messages.
type Result struct {
	Sent, Answered, Twice int
	Replaced              int // times that two replicas were logged in at once
	Pairings              int
}

// Quiet waits until every message is answered and acknowledged: a kill at that
// moment makes none of them come twice.
func (r *Replicas) Quiet(ctx context.Context) error {
	return Until(ctx, func() bool { return r.answered() == r.sent && len(r.device().Pending()) == 0 })
}

func (r *Replicas) answered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.answers)
}

// Settle waits up to 30 s until it is quiet, and sums up.
func (r *Replicas) Settle(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_ = r.Quiet(ctx)
	res := Result{Sent: r.sent, Answered: r.answered(), Pairings: len(r.world.Account.Devices()), Replaced: r.device().Stats().Replaced}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, times := range r.answers {
		res.Twice += times - 1
	}
	return res
}

func (r Result) String() string {
	return fmt.Sprintf("%d messages: %d answered, %d twice; %d conflicts; paired %s", r.Sent, r.Answered, r.Twice, r.Replaced,
		map[bool]string{true: "once", false: strconv.Itoa(r.Pairings) + " times"}[r.Pairings == 1])
}

// Err says what went wrong.
func (r Result) Err() error {
	if r.Answered != r.Sent || r.Twice != 0 || r.Replaced != 0 || r.Pairings != 1 {
		return errors.New("not every message was answered once by one replica at a time, with one pairing: " + r.String())
	}
	return nil
}
