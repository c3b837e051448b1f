package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// isTerminal tells whether a person looks at f, on something that can move the
// cursor.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// display is where the bot writes. On a terminal its last line says how the bot
// is, and is kept up to date below everything else; elsewhere it only passes on
// what is written.
type display struct {
	live, colour bool
	width        int
	every        time.Duration // how often the status line is made anew

	mu   sync.Mutex
	out  io.Writer
	line string // shown now
}

func newDisplay(out *os.File) *display {
	s := &display{out: out, live: isTerminal(out), width: 80, every: time.Second}
	s.colour = s.live && os.Getenv("NO_COLOR") == ""
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 20 {
		s.width = n
	}
	return s
}

const clearLine = "\r\x1b[K"

// Write writes above the status line.
func (s *display) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.out.Write(p)
	}
	text := clearLine + string(p)
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if _, err := io.WriteString(s.out, text+s.line); err != nil {
		return 0, err
	}
	return len(p), nil
}

// show replaces the status line; an empty one takes it away.
func (s *display) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live && line != s.line {
		s.line = line
		_, _ = io.WriteString(s.out, clearLine+line)
	}
}

// follow keeps the status line up to date until ctx ends.
func (s *display) follow(ctx context.Context, m *stability.Manager) {
	if s == nil || !s.live {
		return
	}
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	defer s.show("")
	for {
		changed := m.Changed()
		s.show(s.status(m.Status()))
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// status is state, since when, what happens next, and the messages.
func (s *display) status(st stability.Status) string {
	state, since, c := "waits for the lock", st.ModeSince, yellow
	switch {
	case st.StoreUnavailable != nil:
		state, since, c = "store out of reach", st.StoreUnavailableSince, red
	case st.Mode != stability.ModeActive && st.LockHolder != "" && st.LockHolder != st.InstanceID && !st.LockMayBeFree:
		state = "stands by, " + st.LockHolder + " is active,"
	case st.Mode != stability.ModeActive:
	case st.WA == reconnect.StatusConnected && st.Probes.Health == keepalive.Mute:
		state, since = "connected, but WhatsApp does not accept what is sent,", st.Probes.Since
	case st.WA == reconnect.StatusConnected && st.Probes.Health == keepalive.Degraded:
		state, since = "connected, but messages are not handled as they should be,", st.Probes.Since
	case st.WA == reconnect.StatusConnected:
		state, since, c = "connected", st.ConnectedAt, green
	case st.WA == reconnect.StatusNeedsPairing:
		state, since = "not paired", st.DisconnectedSince
	case st.LastDisconnectReason == "":
		state, since = "starts", time.Time{}
	default:
		state, since, c = "off: "+string(st.LastDisconnectReason), st.DisconnectedSince, red
	}
	parts := []string{state}
	if !since.IsZero() {
		parts[0] += " for " + st.At.Sub(since).Round(time.Second).String()
	}
	switch {
	case st.QRAvailable:
		parts = append(parts, "next: scan the code")
	case st.Connecting:
		parts = append(parts, "connecting")
	case st.NextRetryAt.Sub(st.At) > 500*time.Millisecond:
		parts = append(parts, "next attempt in "+st.NextRetryAt.Sub(st.At).Round(time.Second).String())
	case st.Parked && st.WA == reconnect.StatusNeedsPairing:
		parts = append(parts, "next: start the bot again for a new code")
	case st.Parked:
		parts = append(parts, "next: nothing by itself, read the log")
	}
	r := st.Messages.Received
	parts = append(parts, fmt.Sprintf("messages: %d handled, %d waiting, %d set aside", r.Handled, r.Waiting.Count, r.SetAside.Count))
	text := []rune(strings.Join(parts, " · "))
	if len(text) >= s.width {
		text = append(text[:s.width-2], '…')
	}
	if !s.colour {
		return string(text)
	}
	return "\x1b[" + string(c) + "m" + string(text) + "\x1b[0m"
}
