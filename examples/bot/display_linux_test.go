package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// terminal is a pseudo-terminal, and everything that was written to it.
type terminal struct {
	*os.File // what a program gets

	mu   sync.Mutex
	seen bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	require.NoError(t, unix.IoctlSetPointerInt(int(host.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(host.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	term := &terminal{File: program}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p := make([]byte, 4096)
		for {
			n, err := host.Read(p)
			term.mu.Lock()
			term.seen.Write(p[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = program.Close(); <-read; _ = host.Close() })
	return term
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.String()
}

// run has the bot pair, and answer one message, with its screen on out.
func run(t *testing.T, out *os.File, shown func() string) {
	service := wasim.New(wasim.WithFewKeys())
	defer service.Close()
	account := service.NewAccount(botNumber)
	ada, err := service.NewContact(t.Context(), adaNumber)
	require.NoError(t, err)
	answered, connected := make(chan struct{}), make(chan struct{}, 16)
	ada.OnMessage(func(wasim.Received) { close(answered) })
	s := newDisplay(out)
	s.every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- serveOn(ctx, s, filepath.Join(t.TempDir(), "wa.db"), stability.WithTransport(service.Transport("bot")), stability.WithReconnect(quick),
			stability.WithLogger(slog.New(slog.NewTextHandler(s, nil))),
			stability.WithObserver(func(e stability.Event) {
				if e.Kind == stability.EventConnected {
					connected <- struct{}{}
				}
			}),
			stability.WithQR(func(q stability.QR) {
				stability.PrintQR(s)(q)
				_ = account.Phone().Scan(q.Code)
			}))
	}()
	<-connected
	_, err = ada.Send(ctx, account.JID(), "hello")
	require.NoError(t, err)
	<-answered
	if s.live {
		require.Eventually(t, func() bool {
			return strings.Contains(shown(), "messages: 1 handled, 0 waiting") && strings.Contains(shown(), "connected for ")
		}, time.Minute, 5*time.Millisecond)
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestTerminalShowsALiveStatusLine(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	t.Setenv("COLUMNS", "100")
	term := newTerminal(t)
	run(t, term.File, term.text)
	require.Eventually(t, func() bool { return strings.HasSuffix(term.text(), clearLine) }, time.Minute, 5*time.Millisecond, "the line is taken away at the end")
	text := term.text()
	require.Contains(t, text, clearLine+"\x1b[32mconnected for ")
	require.Contains(t, text, "next: scan the code")
	require.Contains(t, text, "Scan with the phone")
	for part := range strings.SplitSeq(text, clearLine) {
		require.NotRegexp(t, `(handled|aside)[^\n]*time=`, part, "a line of the log begins on a line of its own")
	}
}

func TestNoColorLeavesThePlainStatusLine(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	term := newTerminal(t)
	run(t, term.File, term.text)
	require.Contains(t, term.text(), clearLine+"connected for ")
	require.NotContains(t, term.text(), "\x1b[32m")
}

func TestElsewhereThereIsNoStatusLine(t *testing.T) {
	check := func(t *testing.T, out *os.File, text func() string) {
		run(t, out, text)
		require.Contains(t, text(), "msg=connected")
		require.NotContains(t, text(), clearLine)
		require.NotContains(t, text(), "messages: ")
	}
	t.Run("a pipe or a file", func(t *testing.T) {
		file, err := os.Create(filepath.Join(t.TempDir(), "out"))
		require.NoError(t, err)
		defer file.Close()
		check(t, file, func() string {
			text, err := os.ReadFile(file.Name())
			require.NoError(t, err)
			return string(text)
		})
	})
	t.Run("a dumb terminal", func(t *testing.T) {
		t.Setenv("TERM", "dumb")
		term := newTerminal(t)
		check(t, term.File, term.text)
	})
}
