package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The tests below run this test binary again as the program that they kill.
const roleVariable = "WASTABILITY_BOT_ROLE"

type role struct {
	Simulate bool
	Dir      string
	Pace     time.Duration
	Off      time.Duration // how long the bot stays off after a reset; 0: as in the demo
	Service  wasim.Endpoint
}

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		var r role
		err := json.Unmarshal([]byte(text), &r)
		if err == nil {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err = r.run(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	_ = flag.Set("test.parallel", "4") // unless the command line says another: they wait most of the time
	goleak.VerifyTestMain(m)
}

func (r role) run(ctx context.Context) error {
	if r.Simulate {
		s := newSimulation(r.Dir, os.Stdout)
		s.pace, s.look = r.Pace, r.Pace
		s.options = []wasim.Option{wasim.WithFewKeys()}
		if r.Off > 0 {
			quick.InitialDelay, quick.MaxDelay = r.Off, r.Off
		}
		return s.run(ctx)
	}
	transport, err := r.Service.Transport("bot")
	if err != nil {
		return err
	}
	return serve(ctx, filepath.Join(r.Dir, "bot.db"), stability.WithTransport(transport),
		stability.WithReconnect(reconnect.Policy{InitialDelay: 50 * time.Millisecond}),
		stability.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithQR(func(q stability.QR) { fmt.Println("code", q.Code) }),
		stability.WithObserver(func(e stability.Event) { fmt.Println("event", e) }))
}

// process is a running child and what it printed.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  screen
	line chan string
}

func (r role) start(t *testing.T) *process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent Ctrl-C there")
	}
	text, err := json.Marshal(r)
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(os.Args[0]), line: make(chan string, 1<<16)}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	p.cmd.Stderr = &p.out
	pipe, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	var read sync.WaitGroup
	read.Go(func() {
		defer close(p.line)
		for in := bufio.NewScanner(io.TeeReader(pipe, &p.out)); in.Scan(); {
			p.line <- in.Text()
		}
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		read.Wait()
		_ = p.cmd.Wait()
	})
	return p
}

// await reads on until a line with one of the texts, and returns it.
func (p *process) await(texts ...string) string {
	p.t.Helper()
	patience := time.After(time.Minute)
	for {
		select {
		case l, ok := <-p.line:
			require.True(p.t, ok, "it ended before %q:\n%s", texts, &p.out)
			for _, text := range texts {
				if strings.Contains(l, text) {
					return l
				}
			}
		case <-patience:
			require.Fail(p.t, "never came", "%q\n%s", texts, &p.out)
		}
	}
}

// reaches waits until count is want, for as long as it grows.
func (p *process) reaches(want int, count func() int) {
	p.t.Helper()
	last, since := count(), time.Now()
	for last < want {
		require.Less(p.t, time.Since(since), time.Minute, "it stays at %d of %d:\n%s", last, want, &p.out)
		time.Sleep(10 * time.Millisecond)
		if now := count(); now > last {
			last, since = now, time.Now()
		}
	}
}

// end sends a signal and returns all that was printed.
func (p *process) end(s syscall.Signal) string {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
	for range p.line { // until the pipe is closed
	}
	err := p.cmd.Wait()
	if s != syscall.SIGKILL {
		require.NoError(p.t, err, p.out.String())
	}
	return p.out.String()
}

// The service and Ada live on while the bot is killed, so every message can be
// accounted for.
func TestKilledAtAnyMomentTheBotNeedsNoNewCodeAndLosesNoMessage(t *testing.T) {
	t.Parallel()
	kills := stabilitytest.Pick(3, 20)
	service := wasim.New(wasim.WithTB(t), wasim.WithFewKeys())
	require.NoError(t, service.Listen())
	account := service.NewAccount(botNumber)
	ada, err := service.NewContact(t.Context(), adaNumber)
	require.NoError(t, err)
	r := role{Dir: t.TempDir(), Service: service.Endpoint()}

	p := r.start(t)
	_, code, _ := strings.Cut(p.await("code "), " ")
	require.NoError(t, account.Phone().Scan(code))
	p.await("event connected")

	ctx, hush := context.WithCancel(t.Context())
	var sent []string
	var talking sync.WaitGroup
	talking.Go(func() {
		for n := 1; pause(ctx, 10*time.Millisecond); n++ {
			text := fmt.Sprintf("message %d", n)
			if _, err := ada.Send(context.WithoutCancel(ctx), account.JID(), text); err != nil {
				t.Errorf("Ada could not write: %v", err)
				return
			}
			sent = append(sent, text)
		}
	})
	answered := func() map[string]int {
		answers := map[string]int{}
		for _, text := range ada.Texts() {
			answers[strings.TrimPrefix(text, "You said: ")]++
		}
		return answers
	}
	for n := range kills {
		// A message that three kills in a row meet is left alone for an hour. So the
		// one that was under way is answered, and another one, before each second kill.
		if n%2 == 1 {
			p.reaches(len(answered())+2, func() int { return len(answered()) })
		}
		time.Sleep(rand.N(400 * time.Millisecond)) // the moment of the kill
		p.end(syscall.SIGKILL)
		p = r.start(t)
		require.NotContains(t, p.await("code ", "event connected"), "code ", "it has a session")
	}
	hush()
	talking.Wait()

	p.reaches(len(sent), func() int { return len(answered()) })
	require.NotContains(t, p.end(syscall.SIGTERM), "code ")

	answers, twice := answered(), 0
	for _, text := range sent {
		require.Positive(t, answers[text], "%q was lost", text)
		twice += answers[text] - 1
	}
	t.Logf("%d messages, %d kills, %d answered twice", len(sent), kills, twice)
	require.LessOrEqual(t, twice, kills, "a kill can repeat the one message that was being answered")
}

// Here everything dies at once: bot, service and Ada. What the service had for
// the bot is answered afterwards; only what was under way at a kill may have
// been answered to an Ada who is no more.
func TestTheWholeSimulationCanBeKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	kills := stabilitytest.Pick(2, 20)
	r := role{Simulate: true, Dir: t.TempDir(), Pace: 200 * time.Millisecond}
	p := r.start(t)
	p.await("is connected")
	var screens []string
	kept, last := 0, 0 // messages that wait at the last kill, and the newest one's number
	for n := range kills {
		if n < kills-1 {
			p.await("You said: ")
			time.Sleep(rand.N(1200 * time.Millisecond)) // the moment of the kill
		} else {
			// The service dies with the bot. An answer that it took and did not show
			// yet would be gone, and the bot does not give it again: what is counted
			// at the end was kept while the bot was off, and it is off until the kill.
			p.await("keeps it until the bot is back")
		}
		screens = append(screens, p.end(syscall.SIGKILL))
		if n == kills-1 {
			bot := r.saved(t)
			kept = len(bot.Pending())
			last = kept + len(bot.AckedMessages())
			require.NotZero(t, kept)
		}
		r.Off = 0
		switch n {
		case kills - 2:
			r.Off = time.Hour
		case kills - 1:
			r.Off = quick.InitialDelay // the longest wait for what the last one had planned
		}
		p = r.start(t)
		require.Contains(t, p.await("code to scan", "is connected"), "logged in without a code")
	}
	answered := map[int]bool{}
	for end := time.Now().Add(time.Minute); len(answered) < kept; time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "%d of %d that waited were answered, up to number %d: %v\n%s\n---\n%s", len(answered), kept, last, answered, strings.Join(screens, "\n---\n"), &p.out)
		// All that was printed: on a busy machine the first are told as answered
		// before the bot is told as connected.
		for _, m := range answeredLine.FindAllStringSubmatch(p.out.String(), -1) {
			n, err := strconv.Atoi(m[1])
			require.NoError(t, err)
			if n <= last {
				answered[n] = true
			}
		}
	}
	screens = append(screens, p.end(syscall.SIGINT))
	require.Contains(t, screens[kills], "has handed the lock over")

	told := map[string]bool{}
	for _, m := range toldLine.FindAllStringSubmatch(strings.Join(screens, "\n"), -1) {
		require.False(t, told[m[1]], "%q was told twice: the saved service was older than what was told", m[1])
		told[m[1]] = true
	}
	require.NotEmpty(t, told)
	t.Logf("%d told, %d kills, %d kept at the last one and answered after it", len(told), kills, kept)
	bot := r.saved(t)
	require.GreaterOrEqual(t, len(bot.AckedMessages())+len(bot.Pending()), len(told), "each was taken by the bot, or still waits for it")

	left, err := filepath.Glob(filepath.Join(r.Dir, simulatedService+".*"))
	require.NoError(t, err)
	require.Empty(t, left, "nothing is left of a save that was killed")
}

var answeredLine = regexp.MustCompile(`(?m)You said: #(\d+) .*\n`)

// saved is the bot's device as the simulated service keeps it on disk.
func (r role) saved(t *testing.T) *wasim.Device {
	service, loaded, err := wasim.Open(filepath.Join(r.Dir, simulatedService))
	require.NoError(t, err)
	require.True(t, loaded)
	t.Cleanup(func() { service.Close() })
	bot := service.AccountOf(botNumber).Devices()
	require.Len(t, bot, 1, "it was paired once")
	return bot[0]
}
