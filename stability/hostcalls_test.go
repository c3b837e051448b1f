package stability_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

var errNoProxy = errors.New("no proxy")

// hostStep is one call: where it is made, and how long after the one before it.
type hostStep struct {
	after time.Duration
	place string // "setup", "handler" or "goroutine"
	call  string
}

type hostProgram []hostStep

func (p hostProgram) String() string {
	var b strings.Builder
	for _, s := range p {
		fmt.Fprintf(&b, "\t{%d, %q, %q}, // after %v\n", int64(s.after), s.place, s.call, s.after)
	}
	return b.String()
}

func randomProgram(r *rand.Rand) (p hostProgram) {
	pauses := []time.Duration{0, 0, 0, time.Millisecond, 50 * time.Millisecond, time.Second, 1100 * time.Millisecond, 5 * time.Second, 70 * time.Second}
	for range 1 + r.IntN(10) {
		s := hostStep{after: pauses[r.IntN(len(pauses))]}
		c := hostCalls[r.IntN(len(hostCalls))]
		if c.alone || c.ends && r.IntN(2) == 0 { // pairing takes the time of the others
			c = hostCalls[0]
		}
		if stabilitytest.Race && c.sets && slices.ContainsFunc(p, func(s hostStep) bool { return s.place == "setup" }) {
			c = hostCalls[0] // the client may be alive by then
		}
		s.call = c.name
		switch s.place = []string{"setup", "handler", "handler", "goroutine", "goroutine", "goroutine"}[r.IntN(6)]; {
		case stabilitytest.Race && c.sets:
			s.place = "setup"
		case c.lists && s.place == "handler":
			s.place = "goroutine"
		}
		p = append(p, s)
	}
	// The Manager puts its handler back after RemoveEventHandlers, and whatsmeow
	// lets it wait while a handler runs: virtual time would stand still.
	if slices.ContainsFunc(p, func(s hostStep) bool { return s.call == "RemoveEventHandlers; AddEventHandler" }) {
		for i := range p {
			if p[i].place == "handler" {
				p[i].place = "goroutine"
			}
		}
	}
	return p
}

// host is a program that does what it should leave to Run.
type host struct {
	*named
	mine   sync.Mutex
	client *whatsmeow.Client // of the newest setup
	armed  []hostStep        // for the next event
	inside int               // calls that are made in a handler
	lists  int               // calls that change the list of handlers
	calls  sync.WaitGroup
}

func (h *host) call(s hostStep) {
	h.mine.Lock()
	c := h.client
	h.mine.Unlock()
	if c == nil {
		return
	}
	call := hostCallNamed(s.call)
	if call.lists {
		h.betweenHandlers()
		defer h.count(&h.lists, -1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	call.do(ctx, h, c)
}

// betweenHandlers waits until none of the program's calls runs in a handler.
// whatsmeow's list of handlers is locked while one runs, and virtual time
// stands still while anybody waits for that lock.
func (h *host) betweenHandlers() {
	for {
		h.mine.Lock()
		if h.inside == 0 {
			h.lists++
			h.mine.Unlock()
			return
		}
		h.mine.Unlock()
		time.Sleep(time.Millisecond)
	}
}

func (h *host) count(n *int, by int) {
	h.mine.Lock()
	defer h.mine.Unlock()
	*n += by
}

// play runs a program and says what is wrong behind it.
func (p hostProgram) play(t *testing.T) (problem string) {
	bubble(t, func(t *testing.T) {
		w := newWorldOn(t, wasim.WithFewKeys()) // it logs in and pairs a thousand times
		h := &host{named: w.named("host")}
		h.run().pair() // and again, as a process that was restarted
		h.cancel()
		require.NoError(t, <-h.result)
		time.Sleep(time.Second)
		others := w.sim.Connections()

		h.heed(func(any) {
			h.mine.Lock()
			if h.lists > 0 { // the next event's
				h.mine.Unlock()
				return
			}
			todo := h.armed
			h.armed = nil
			h.inside++
			h.mine.Unlock()
			defer h.count(&h.inside, -1)
			for _, s := range todo {
				h.call(s)
			}
		})
		first := true
		setup := func(ctx context.Context, c *whatsmeow.Client) error {
			h.mine.Lock()
			h.client = c
			h.mine.Unlock()
			err := h.setup(ctx, c)
			for _, s := range p {
				if first && s.place == "setup" {
					h.call(s)
				}
			}
			first = false
			return err
		}
		ctx, cancel := context.WithCancel(t.Context())
		h.cancel = cancel
		go func() { h.result <- h.m.Run(ctx, setup) }()
		note := func(format string, args ...any) {
			if problem == "" {
				problem = fmt.Sprintf(format, args...) + ": " + h.status().Summary
			}
		}
		time.Sleep(5 * time.Second)
		for _, s := range p {
			time.Sleep(s.after)
			switch s.place {
			case "handler":
				h.mine.Lock()
				h.armed = append(h.armed, s)
				h.mine.Unlock()
				_, _ = w.say("do it")
			case "goroutine":
				h.calls.Go(func() { h.call(s) })
			}
		}
		h.calls.Wait()
		h.mine.Lock()
		h.armed = nil
		h.mine.Unlock()
		h.comesBack(p, note)
		h.hearsAgain(note)
		if got := w.sim.Connections() - others; got != 1 {
			note("%d sockets at the end", got)
		}
		cancel()
		if err := <-h.result; err != nil {
			note("Run: %v", err)
		}
		if err := h.m.Close(context.Background()); err != nil {
			note("Close: %v", err)
		}
		time.Sleep(10 * time.Second)
		if got := w.sim.Connections() - others; got != 0 {
			note("%d sockets behind Close", got)
		}
		// Judged at the client, whose every way to the service is recorded. The
		// service may see a login before it sees the end of a socket that was closed
		// at the very same moment.
		if long := h.lines.together(); long > 0 {
			note("two sockets at once, for %v", long)
		}
		h.cancel = nil
		w.close()
	})
	return problem
}

// comesBack waits until the account is connected, or does what status asks for.
func (h *host) comesBack(p hostProgram, note func(string, ...any)) {
	ended := slices.ContainsFunc(p, func(s hostStep) bool { return hostCallNamed(s.call).ends })
	var last error // of a scan
	for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
		switch st := h.status(); {
		case st.WA == reconnect.StatusConnected:
			time.Sleep(20 * time.Second) // it was no last breath
			if h.status().WA == reconnect.StatusConnected {
				return
			}
		case st.WA == reconnect.StatusNeedsPairing && !ended:
			note("a pairing is asked for, and nobody logged out")
			return
		case st.WA == reconnect.StatusNeedsPairing:
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			q, err := h.m.WaitQR(ctx)
			cancel()
			if err == nil {
				err = h.w.account.Phone().Scan(q.Code)
			}
			last = err // the code's connection may have ended meanwhile: the next one counts
			time.Sleep(10 * time.Second)
		}
	}
	note("it never came back (the last scan: %v)", last)
}

// hearsAgain waits for a message.
func (h *host) hearsAgain(note func(string, ...any)) {
	said := fmt.Sprintf("still there at %v?", time.Now())
	if _, err := h.w.say(said); err != nil {
		note("the contact cannot send: %v", err)
		return
	}
	for end := time.Now().Add(30 * time.Minute); !slices.Contains(h.texts(), said); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			note("it is deaf")
			return
		}
	}
}

// shorter leaves out whatever is not needed for a problem of the same kind.
func (p hostProgram) shorter(t *testing.T, problem string) hostProgram {
	kind, _, _ := strings.Cut(problem, ":")
	for i := 0; i < len(p); {
		if q := slices.Delete(slices.Clone(p), i, i+1); strings.HasPrefix(q.play(t), kind) {
			p = q
		} else {
			i++
		}
	}
	return p
}

func TestNoProgramOfHostCallsKeepsTheAccountAway(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("whatsmeow reads the settings that a host writes without a lock")
	}
	t.Parallel()
	seed := uint64(2026330)
	if stabilitytest.Full() { // others each day
		seed = uint64(time.Now().Year()*1000 + time.Now().YearDay())
	}
	for n := range stabilitytest.Pick(uint64(40), 1000) {
		t.Run(fmt.Sprintf("%d-%d", seed, n), func(t *testing.T) {
			p := randomProgram(rand.New(rand.NewPCG(seed, n)))
			if problem := p.play(t); problem != "" {
				t.Fatalf("%s\nhostProgram{\n%s}\nor shorter:\nhostProgram{\n%s}", problem, p, p.shorter(t, problem))
			}
		})
	}
}

// Programs that once showed a fault, and those that no random program is.
func TestHostProgramsOfBeforeStayHarmless(t *testing.T) {
	if stabilitytest.Race {
		t.Skip("these programs race with whatsmeow")
	}
	for name, p := range map[string]hostProgram{
		"another log in setup and in a handler": {
			{0, "setup", "Log = another"},
			{0, "handler", "Log = another"},
			{time.Second, "goroutine", "EnableAutoReconnect = true"},
		},
		"calls beside each other behind a way past the dialer": {
			{50000000, "goroutine", "SetWebsocketHTTPClient; Disconnect; Connect"},
			{50000000, "setup", "SetSOCKSProxy; Disconnect"},
			{0, "goroutine", "Disconnect; Connect"},
			{0, "goroutine", "ConnectContext that is cancelled behind it"},
		},
		"whatsmeow's own reconnecting, which nothing ends": {
			{0, "goroutine", "SetProxy"},
			{0, "goroutine", "InitialAutoReconnect = true; Disconnect; Connect"},
		},
		"a connection past the dialer that nobody hears of, of a client that is given up": {
			{0, "setup", "RemoveEventHandlers; AddEventHandler"},
			{0, "setup", "SetWebsocketHTTPClient; Disconnect; Connect"},
			{0, "setup", "Logout; Connect"},
		},
		"a connection past the dialer, and another one": {
			{50000000, "goroutine", "SetWebsocketHTTPClient; Disconnect; Connect"},
			{1000000000, "goroutine", "RemoveEventHandlers; AddEventHandler"},
			{0, "goroutine", "Disconnect; Connect"},
			{0, "goroutine", "ConnectContext that is cancelled behind it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, p.play(t))
		})
	}
}
