package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// What a child process needs to know.
const (
	envEndpoint = "WASTABILITY_DEMO_ENDPOINT"
	envSession  = "WASTABILITY_DEMO_SESSION"
	envName     = "WASTABILITY_DEMO_NAME"
)

// rounds is how many hand-overs are played.
const rounds = 3

// simulate is the service in the parent process, and one replica in a child.
func simulate(ctx context.Context) error {
	if os.Getenv(envEndpoint) != "" {
		return child(ctx)
	}
	_, err := play(ctx, rounds, os.Stdout)
	return err
}

// child is one replica.
func child(ctx context.Context) error {
	var at wasim.Endpoint
	if err := json.Unmarshal([]byte(os.Getenv(envEndpoint)), &at); err != nil {
		return fmt.Errorf("%s: %w", envEndpoint, err)
	}
	name := os.Getenv(envName)
	transport, err := at.Transport(name)
	if err != nil {
		return err
	}
	return serve(ctx, os.Getenv(envSession),
		stability.WithTransport(transport), stability.WithPolicy(demo.Quick),
		stability.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithObserver(func(e stability.Event) { demo.Tell(name, e) }),
		stability.WithQR(func(q stability.QR) { fmt.Println("code", q.Code) }))
}

// result is what a play measured.
type result struct {
	Gaps            []time.Duration // from the end of a replica's connection to the next one's login, ±5 ms
	Sent, Answered  int
	Twice, Replaced int
}

// play runs two replicas at a time through n hand-overs, with Ada writing all
// the while.
func play(ctx context.Context, n int, out *os.File) (result, error) {
	var res result
	dir, err := os.MkdirTemp("", "wastability-standby-")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(dir)
	world, err := demo.New(ctx)
	if err != nil {
		return res, err
	}
	defer world.Close()
	if err := world.Service.Listen(); err != nil {
		return res, err
	}

	p := &players{world: world, dir: dir, out: out, answers: map[string]int{}}
	world.Ada.OnMessage(func(r wasim.Received) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answers[strings.TrimPrefix(r.Text, "You said: ")]++
	})
	active, err := p.start(ctx, "replica 1")
	if err != nil {
		return res, err
	}
	defer func() { active.kill() }()
	if err := p.online(ctx); err != nil {
		return res, err
	}
	for i := 2; i <= n+1; i++ {
		next, err := p.start(ctx, fmt.Sprintf("replica %d", i))
		if err != nil {
			return res, err
		}
		if err := p.chat(ctx, &res, 4); err != nil {
			next.kill()
			return res, err
		}
		logins := p.logins()
		gap := p.watch(ctx)
		demo.Say("platform", "sends SIGTERM to %s", active.name)
		_ = active.cmd.Process.Signal(syscall.SIGTERM)
		err = active.wait()
		active = next
		if err != nil {
			return res, fmt.Errorf("a replica did not end cleanly: %w", err)
		}
		if err := p.chat(ctx, &res, 2); err != nil {
			return res, err
		}
		if err := p.until(ctx, func() bool { return p.logins() > logins }); err != nil {
			return res, err
		}
		res.Gaps = append(res.Gaps, <-gap)
		if p.logins() != logins+1 {
			return res, fmt.Errorf("%d logins where one was due", p.logins()-logins)
		}
	}
	patience, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_ = p.until(patience, func() bool { return p.answered() == res.Sent })
	p.mu.Lock()
	for _, times := range p.answers {
		res.Twice += times - 1
	}
	p.mu.Unlock()
	res.Answered, res.Replaced = p.answered(), p.device().Stats().Replaced
	_ = active.cmd.Process.Signal(syscall.SIGTERM)
	if err := active.wait(); err != nil {
		return res, err
	}
	demo.Say("summary", "%d hand-overs; the account was off for at most %s; %d messages, %d answered, %d twice; %d conflicts",
		len(res.Gaps), maxOf(res.Gaps).Round(10*time.Millisecond), res.Sent, res.Answered, res.Twice, res.Replaced)
	if res.Answered != res.Sent || res.Twice != 0 || res.Replaced != 0 {
		return res, fmt.Errorf("not every message was answered once, or two replicas were connected at once")
	}
	return res, nil
}

// watch measures how long the account is off the next time.
func (p *players) watch(ctx context.Context) <-chan time.Duration {
	gap := make(chan time.Duration, 1)
	go func() {
		var off time.Time
		for ctx.Err() == nil {
			switch online := p.device().Online(); {
			case !online && off.IsZero():
				off = time.Now()
			case online && !off.IsZero():
				gap <- time.Since(off)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		gap <- 0
	}()
	return gap
}

func maxOf(ds []time.Duration) (longest time.Duration) {
	for _, d := range ds {
		longest = max(longest, d)
	}
	return longest
}

type players struct {
	world *demo.World
	dir   string
	out   *os.File

	mu      sync.Mutex
	answers map[string]int
}

func (p *players) device() *wasim.Device {
	d := p.world.Account.Devices()
	return d[len(d)-1]
}

func (p *players) logins() int { return p.device().Stats().Logins }

func (p *players) answered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answers)
}

// online waits until the first replica is paired and logged in.
func (p *players) online(ctx context.Context) error {
	return p.until(ctx, func() bool { return len(p.world.Account.Devices()) > 0 && p.device().Online() })
}

func (p *players) until(ctx context.Context, cond func() bool) error {
	for !cond() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// chat has Ada write n messages, half a second apart.
func (p *players) chat(ctx context.Context, res *result, n int) error {
	for range n {
		text := fmt.Sprintf("message %d", res.Sent+1)
		if _, err := p.world.Ada.Send(ctx, p.world.Account.JID(), text); err != nil {
			return err
		}
		res.Sent++
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// replica is one child process.
type replica struct {
	name  string
	cmd   *exec.Cmd
	ended chan error
}

// start begins a replica and scans the code that the first one shows.
func (p *players) start(ctx context.Context, name string) (*replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	at, err := json.Marshal(p.world.Service.Endpoint())
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-simulate")
	cmd.Env = append(os.Environ(), envEndpoint+"="+string(at), envSession+"="+filepath.Join(p.dir, "session.db"), envName+"="+name,
		demo.EnvStart+"="+strconv.FormatInt(demo.Start.UnixNano(), 10))
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &replica{name: name, cmd: cmd, ended: make(chan error, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.follow(lines)
	}()
	go func() {
		<-read // Wait closes the pipe
		r.ended <- cmd.Wait()
	}()
	return r, nil
}

func (r *replica) wait() error {
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(30 * time.Second):
		r.kill()
		return fmt.Errorf("%s did not end within 30 s", r.name)
	}
}

func (r *replica) kill() { _ = r.cmd.Process.Kill() }
