// Package child runs a test's own binary once more, as a process that can be
// frozen and killed. Such a process says what happens to it, a line at a time.
package child

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Process is such a process. It is killed when the test ends.
type Process struct {
	*exec.Cmd
	t     testing.TB
	in    io.WriteCloser
	mu    sync.Mutex
	said  []string
	heard int // lines of said that were waited for, or came before
	more  chan struct{}
	over  chan struct{} // no more output
	once  sync.Once
}

// Start runs the binary with part, as JSON, in an environment variable.
func Start(t testing.TB, variable string, part any) *Process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return StartBinary(t, exe, variable, part)
}

// Play is the other side of Start: if variable names a part, it plays it and
// reports true. A part that fails says so and ends the process with code 1.
func Play[P any](variable string, play func(P) error) bool {
	text := os.Getenv(variable)
	if text == "" {
		return false
	}
	var part P
	err := json.Unmarshal([]byte(text), &part)
	if err == nil {
		err = play(part)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	return true
}

// StartBinary is Start with another binary of the same test.
func StartBinary(t testing.TB, exe, variable string, part any) *Process {
	t.Helper()
	text, err := json.Marshal(part)
	require.NoError(t, err)
	p := &Process{Cmd: exec.Command(exe), t: t, more: make(chan struct{}), over: make(chan struct{})}
	p.Env = append(os.Environ(), variable+"="+string(text))
	p.Stderr = os.Stderr
	p.in, err = p.StdinPipe()
	require.NoError(t, err)
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Cmd.Start())
	go func() {
		defer close(p.over)
		in := bufio.NewScanner(out)
		in.Buffer(nil, 64<<20) // a line may list many thousand messages
		for in.Scan() {
			p.mu.Lock()
			p.said = append(p.said, in.Text())
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
	}()
	t.Cleanup(p.Kill)
	return p
}

// Kill is kill -9; the process is gone when it returns.
func (p *Process) Kill() {
	p.once.Do(func() {
		_ = p.Process.Kill()
		<-p.over
		_ = p.Wait()
	})
}

// Hears waits for a line that begins with one of words, counted from the line
// after the last one that was waited for, and returns the rest of it.
func (p *Process) Hears(words ...string) string {
	p.t.Helper()
	limit := time.After(time.Minute)
	for {
		p.mu.Lock()
		for i, line := range p.said[p.heard:] {
			for _, word := range words {
				if rest, ok := strings.CutPrefix(line, word); ok && (rest == "" || rest[0] == ' ') {
					p.heard += i + 1
					p.mu.Unlock()
					return strings.TrimSpace(rest)
				}
			}
		}
		more, said := p.more, fmt.Sprint(p.said[p.heard:])
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.over:
			require.Fail(p.t, "the process ended", "waiting for %v, heard %s", words, said)
		case <-limit:
			require.Fail(p.t, "never said", "waiting for %v, heard %s", words, said)
		}
	}
}

// SaidSince tells whether the process has said word after the last word that was
// waited for.
func (p *Process) SaidSince(word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return says(p.said[p.heard:], word)
}

// Silent requires that the process has never said any of words.
func (p *Process) Silent(words ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, word := range words {
		require.False(p.t, says(p.said, word), "%s: %v", word, p.said)
	}
}

func says(lines []string, word string) bool {
	for _, line := range lines {
		if strings.HasPrefix(line, word+" ") {
			return true
		}
	}
	return false
}

// Tell writes a line to the process.
func (p *Process) Tell(word string) {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, word)
	require.NoError(p.t, err)
}

// Leave ends the process in good order.
func (p *Process) Leave() {
	p.t.Helper()
	require.NoError(p.t, p.in.Close())
	<-p.over
	require.NoError(p.t, p.Wait(), "%v", p.said)
	p.once.Do(func() {})
}

// Ends waits until the process ends by itself, and returns its exit code.
func (p *Process) Ends() int {
	p.t.Helper()
	select {
	case <-p.over:
	case <-time.After(time.Minute):
		require.Fail(p.t, "the process did not end")
	}
	_ = p.Wait()
	p.once.Do(func() {})
	return p.ProcessState.ExitCode()
}

// Recorded counts the words of a file in which processes have noted what they
// did.
func Recorded(t testing.TB, path string) map[string]int {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	seen := map[string]int{}
	for _, word := range strings.Fields(string(raw)) {
		seen[word]++
	}
	return seen
}
