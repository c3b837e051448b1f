package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// narrator tells a person what happens, one line at a time, with the seconds
// since the start and who acts.
type narrator struct {
	colour bool
	start  time.Time

	mu  sync.Mutex
	out io.Writer
	err error
}

func newNarrator(out io.Writer) *narrator {
	return &narrator{out: out, colour: wantsColour(out), start: time.Now()}
}

// wantsColour is true on a terminal, unless NO_COLOR is set.
func wantsColour(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && isTerminal(f)
}

type ink string

const (
	plain  ink = ""
	dim    ink = "2"
	bold   ink = "1"
	red    ink = "31"
	green  ink = "32"
	yellow ink = "33"
)

func (n *narrator) paint(c ink, s string) string {
	if !n.colour || c == plain {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// tell writes one line, or more: those behind the first are indented.
func (n *narrator) tell(c ink, who, format string, args ...any) {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	var b strings.Builder
	for i, l := range lines {
		head := strings.Repeat(" ", 20)
		if i == 0 {
			head = n.paint(dim, fmt.Sprintf("%7.1f s", time.Since(n.start).Seconds())) + fmt.Sprintf("  %-9s", who)
		}
		b.WriteString(strings.TrimRight(head+n.paint(c, l), " ") + "\n")
	}
	n.print(b.String())
}

func (n *narrator) print(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := io.WriteString(n.out, s); err != nil && n.err == nil {
		n.err = err
	}
}

// code draws a code to scan. Without colours the drawing is only as readable
// as the terminal's own colours make it.
func (n *narrator) code(q stability.QR) {
	drawn, err := q.Terminal()
	if err != nil {
		n.tell(red, "bot", "cannot draw the code: %v", err)
		return
	}
	if !n.colour {
		drawn = strings.NewReplacer("\x1b[97;40m", "", "\x1b[0m", "").Replace(drawn)
	}
	n.print("\n" + drawn + "\n")
}

// seconds is a duration as a person says it.
func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", max(0, d).Seconds())
	}
	return d.Round(time.Second).String()
}

// next says in plain words what the bot waits for.
func next(d reconnect.Decision) string {
	wait := seconds(d.Delay)
	switch d.Action {
	case reconnect.ActionRestart:
		return "It comes back at once."
	case reconnect.ActionRetry:
		if d.Delay < 50*time.Millisecond {
			return "It tries again at once."
		}
		return "It waits " + wait + ", then tries again."
	case reconnect.ActionWait:
		return "It pauses for " + wait + ", then tries once."
	case reconnect.ActionSlowRetry:
		return "It tries rarely from now on; the next time in " + wait + "."
	case reconnect.ActionWaitStore:
		return "It waits for its session file, and looks again in " + wait + "."
	}
	return d.Reason.Text().Does
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
