package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The settings of the child process. envBroken is for tests: a part that the
// child leaves out.
const (
	envChild   = "WASTABILITY_VERIFY_ENDPOINT"
	envAccount = "WASTABILITY_VERIFY_ACCOUNT"
	envBroken  = "WASTABILITY_VERIFY_BROKEN"
)

// child is a host of its own: it says what happens, line by line, and ends as
// the library wants it to.
func child(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var at wasim.Endpoint
	if err := json.Unmarshal([]byte(os.Getenv(envChild)), &at); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	transport, err := at.Transport("child")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	backend, err := account(os.Getenv(envAccount)).open(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	broken := os.Getenv(envBroken)
	heal := stability.WithExit(func(code int) {
		fmt.Println("exit", code)
		os.Exit(code)
	})
	switch broken {
	case "exit":
		heal = stability.WithAutoHeal(autoheal.Policy{InProcess: true})
	case "incident":
		backend.Incidents = deaf{backend.Incidents}
	}
	m, err := stability.New(stability.WithBackend(backend), stability.WithTransport(transport), stability.WithReconnect(hasty),
		stability.WithGuard(guard.Policy{}), heal, stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithQR(func(q stability.QR) { fmt.Println("code", q.Code) }),
		stability.WithObserver(func(e stability.Event) { fmt.Println(e.Kind, e.Incident) }))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	if err := m.Run(ctx, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	_ = m.Close(context.Background())
	return 0
}

// deaf is a store of incidents that takes none.
type deaf struct{ guard.IncidentStore }

func (deaf) Raise(context.Context, guard.Incident) (guard.Incident, bool, error) {
	return guard.Incident{}, false, fmt.Errorf("broken on purpose")
}

// process is a child and what it said.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

func start(s *stage, at account, p parts) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	endpoint, err := json.Marshal(s.service.Endpoint())
	if err != nil {
		return nil, err
	}
	c := &process{cmd: exec.Command(self), ended: make(chan struct{})}
	c.cmd.Env = append(append(os.Environ(), envChild+"="+string(endpoint), envAccount+"="+string(at)), p.env...)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		for in := bufio.NewScanner(out); in.Scan(); {
			said := strings.TrimSpace(in.Text())
			if code, ok := strings.CutPrefix(said, "code "); ok {
				_ = s.account.Phone().Scan(code)
				continue
			}
			c.mu.Lock()
			c.lines = append(c.lines, said)
			c.mu.Unlock()
		}
		_ = c.cmd.Wait()
	}()
	return c, nil
}

// said is the position of the first line that is exactly this, -1 without one.
func (c *process) said(line string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Index(c.lines, line)
}

// times is how often it has said exactly this.
func (c *process) times(line string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.lines {
		if one == line {
			n++
		}
	}
	return n
}

func (c *process) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// stop ends a process that is still there.
func (c *process) stop() {
	if !c.over() {
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

func loop(ctx context.Context, r *report, p parts) error {
	at, forget, err := newAccount(p.backend)
	if err != nil {
		return err
	}
	defer forget()
	s := &stage{service: newService()}
	defer s.service.Close()
	s.account = s.service.NewAccount("12025550123")
	if err := s.service.Listen(); err != nil {
		return err
	}

	first, err := start(s, at, p)
	if err != nil {
		return err
	}
	defer first.stop()
	if !r.check("a process pairs and connects", await(ctx, patience, func() bool { return first.said("connected") >= 0 }), "") {
		return nil
	}
	refused := s.service.Fault(wasim.Refused()).From("child").Always().OnNextLogin()
	s.service.Fault(wasim.FIN()).For(s.account.JID()).Now()
	goesOn := func() bool { return first.times("activated") > 1 } // in a term of its own
	await(ctx, 40*time.Second, func() bool { return first.over() || goesOn() })
	if !r.check("after ten attempts in ten minutes it ends by itself", first.over(), fmt.Sprintf("%d dials", s.service.DialsFrom("child"))) {
		return nil
	}
	r.checkf("with exit code 1", first.cmd.ProcessState.ExitCode() == 1, "exit code %d", first.cmd.ProcessState.ExitCode())
	incident, released, exit := first.said("incident_opened "+guard.TypeReconnectLoop.ActiveID()), first.said("deactivated"), first.said("exit 1")
	r.checkf("incident, then lock released, then exit", incident >= 0 && incident < released && released < exit, "lines %d, %d, %d", incident, released, exit)

	if err := left(ctx, r, at); err != nil {
		return err
	}
	refused.Stop()
	second, err := start(s, at, parts{})
	if err != nil {
		return err
	}
	defer second.stop()
	r.check("restarted, it is connected without pairing", await(ctx, patience, func() bool { return second.said("connected") >= 0 }) && second.said("qr") < 0, "")
	_ = second.cmd.Process.Signal(syscall.SIGTERM)
	r.check("and ends cleanly when asked to", await(ctx, patience, second.over) && second.cmd.ProcessState.ExitCode() == 0, "")
	return nil
}

// left looks at what the process left behind.
func left(ctx context.Context, r *report, at account) error {
	b, err := at.open(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	rec, granted, err := b.Lock.Acquire(ctx, "verify", "look", time.Minute)
	if err != nil {
		return err
	}
	r.check("the lock is free for the next one", granted, "")
	if !granted {
		return nil
	}
	incidents, err := b.Incidents.List(ctx)
	r.check("the incident is stored", err == nil && slices.ContainsFunc(incidents, func(i guard.Incident) bool {
		return i.ID == guard.TypeReconnectLoop.ActiveID() && i.Active && i.Runbook != ""
	}), "")
	st, err := b.State.Load(ctx)
	r.check("the restart is recorded, and the window is empty", err == nil && len(st.Restarts) == 1 && len(st.Attempts) == 0, "")
	return b.Lock.Release(ctx, rec)
}
