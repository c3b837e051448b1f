package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// screen is what a person sees.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// bubble runs f in virtual time, with a watchdog outside: a stopped virtual
// clock cannot be noticed from inside.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	watchdog := time.AfterFunc(2*time.Minute, func() {
		buf := make([]byte, 4<<20)
		fmt.Fprintf(os.Stderr, "%s: the virtual clock stopped\n%s\n", t.Name(), buf[:runtime.Stack(buf, true)])
		os.Exit(2)
	})
	defer watchdog.Stop()
	synctest.Test(t, f)
}

// play runs the simulation until the screen shows a text, and a while longer,
// then ends it as Ctrl-C does.
func play(t *testing.T, dir, until string) string {
	t.Helper()
	var out screen
	s := newSimulation(dir, &out)
	s.options = []wasim.Option{wasim.WithTB(t), wasim.WithFewKeys()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- s.run(ctx) }()
	for start := time.Now(); !strings.Contains(out.String(), until); time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-result:
			require.Fail(t, "it ended by itself", "%v\n%s", err, out.String())
		default:
		}
		require.Less(t, time.Since(start), 5*time.Minute, "%q never came:\n%s", until, out.String())
	}
	time.Sleep(10 * time.Second)
	begin := time.Now()
	cancel()
	require.NoError(t, <-result, out.String())
	require.Less(t, time.Since(begin), 3*time.Second, "it ends promptly:\n%s", out.String())
	t.Log(out.String())
	return out.String()
}

func TestARoundShowsEveryOutageAndComesBackAndALaterStartNeedsNoCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bubble(t, func(t *testing.T) {
		out := play(t, dir, "Summary after")
		require.Contains(t, out, "This is the code to scan:\n\n███")
		require.NotContains(t, out, "\x1b", "plain text where there is no terminal")
		require.Equal(t, 6, strings.Count(out, "is BACK after"), out)
		require.Equal(t, 1, strings.Count(out, "does not get on"), out)
		require.Equal(t, 1, strings.Count(out, "gets on again"), out)
		for _, row := range []string{
			`TCP reset +connection_closed +1 +0\.\d s`,
			`stream error 503 +service_unavailable +1 +[23]\.\d s`,
			`refused connections +connection_closed +4 +\d\.\d s\n +network_unreachable\n`,
			`replaced by another login +connection_replaced +1 +[345]\.\d s`,
			`black hole +connection_lost +1 +\d\.\d s`,
			`removed on the phone +logged_out +\d +\d\.\d s`,
			`\d+ answered, 0 lost, 0 answered twice`,
		} {
			require.Regexp(t, row, out)
		}
		require.Regexp(t, `Summary after (4[4-9]|5[0-9])\.\d s: 6 outages`, out)
		_, after, _ := strings.Cut(out, "Summary after")
		require.Regexp(t, `Ada +#\d+`, after, "the chat goes on")
		require.Contains(t, after, "has handed the lock over")
		require.Contains(t, after, "Its session is kept in wastability-simulation.db")

		for term := 2; term <= 4; term++ {
			again := play(t, dir, "Summary after")
			require.NotContains(t, again, "code to scan")
			require.Contains(t, again, "logged in without a code")
			require.Contains(t, again, fmt.Sprintf("(term %d)", term))
			require.Regexp(t, `5 outages`, again)
			require.Regexp(t, `\d+ answered, 0 lost, 0 answered twice`, again)
		}
	})
	require.FileExists(t, dir+"/"+simulatedSession)
	require.NoFileExists(t, dir+"/wastability.db", "the bot's own session is left alone")
}

func TestASimulationWhoseFilesDoNotFitTogetherPairsAnew(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{simulatedSession, simulatedService} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			bubble(t, func(t *testing.T) {
				play(t, dir, "You said: #1")
				require.NoError(t, os.Remove(dir+"/"+lost))
				out := play(t, dir, "You said: #")
				require.Contains(t, out, "code to scan")
			})
		})
	}
}

func TestASecondSimulationInOneDirectorySaysSoAndLeavesTheFirstAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	holder, err := localbackend.Open(dir + "/" + simulatedSession)
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close()) }()
	_, granted, err := holder.Lock.Acquire(t.Context(), "another", "nonce", time.Minute)
	require.NoError(t, err)
	require.True(t, granted)

	err = newSimulation(dir, &screen{}).run(t.Context())
	require.ErrorIs(t, err, errBusy)
	require.NoFileExists(t, dir+"/"+simulatedService)
}

func TestColourIsForTerminalsThatWantIt(t *testing.T) {
	require.False(t, wantsColour(&screen{}))
	file, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer file.Close()
	require.False(t, wantsColour(file))

	n := newNarrator(&screen{})
	require.Equal(t, "x", n.paint(red, "x"))
	n.colour = true
	require.Equal(t, "\x1b[31mx\x1b[0m", n.paint(red, "x"))
}

var toldLine = regexp.MustCompile(`(?m)^ *[\d.]+ s  Ada +(#\d+ .*?)(?:   \(.*)?$`)
