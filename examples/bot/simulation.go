package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The simulation keeps two files in the current directory, never the bot's
// own: the bot's session, and the simulated service's accounts.
const (
	simulatedSession = "wastability-simulation.db"
	simulatedService = "wastability-simulation.json"
)

// quick shortens the delays for a demo, by public options only. The defaults:
// 1 s doubling to 60 s, at least 30 s after a 503, 2 min after the session was
// used elsewhere.
var quick = reconnect.Policy{
	InitialDelay: 700 * time.Millisecond, MaxDelay: 3 * time.Second, StableAfter: 2 * time.Second,
	ServiceFloor: 2500 * time.Millisecond, StoreRetry: time.Second,
	ReplacedPause: 4 * time.Second, SlowRetry: 6 * time.Second, ReplacedWindow: 15 * time.Second,
}

// staged keeps outages that are staged, round after round, from looking like a
// loop that only a fresh process can break. Failures in a row outlive the
// process: of a demo that is killed and started again they add up.
var staged = autoheal.Policy{Window: 30 * time.Second, Attempts: 100, Failures: 100}

// awake shortens how soon a dead link and a stuck handler are noticed. The
// defaults: two unanswered pings or 5 min of silence, and 2 min.
var awake = keepalive.Policy{
	ProbeAfter: 1500 * time.Millisecond, StaleAfter: 4 * time.Second, HandlerAfter: 2 * time.Second,
}

// simulate runs the bot of main.go, unchanged, against a simulated service
// with a phone and with a contact named Ada, until ctx ends.
func simulate(ctx context.Context) error { return newSimulation(".", os.Stdout).run(ctx) }

type simulation struct {
	*narrator
	session, accounts string         // files
	options           []wasim.Option // of the service
	pace, rest        time.Duration  // between Ada's messages: in the round, and after it
	look              time.Duration  // from a code to its scan: a person is to see it

	service *wasim.Service
	account *wasim.Account
	ada     *wasim.Contact
	saving  sync.Mutex
	talking chan struct{} // cap 1: one line of the chat at a time, in order

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced when something below changes
	active    bool          // the bot has held its session file
	busy      bool          // another process holds it
	scanned   bool          // a code was shown in this run
	connected bool
	degraded  bool // a handler of the bot is stuck
	outages   []outage
	talk      talk
}

// outage is one time that the bot was off.
type outage struct {
	fault    string             // what the service did
	reasons  []reconnect.Reason // what the bot made of it; none before it has noticed
	attempts int
	off      time.Duration
	over     bool
}

func newSimulation(dir string, out io.Writer) *simulation {
	return &simulation{
		narrator: newNarrator(out), pace: 1700 * time.Millisecond, rest: 4 * time.Second, look: 3 * time.Second,
		session: filepath.Join(dir, simulatedSession), accounts: filepath.Join(dir, simulatedService),
		talking: make(chan struct{}, 1),
		changed: make(chan struct{}), talk: talk{answers: map[string]int{}},
	}
}

func (s *simulation) run(ctx context.Context) error {
	s.print("The real client against a simulated service: no phone, no network.\n" +
		"A round takes about 50 seconds, then the chat goes on. Ctrl-C ends it at any time.\n\n")
	service, _, err := wasim.Open(s.accounts, s.options...)
	if err != nil {
		return fmt.Errorf("the simulated service's accounts cannot be read; remove %s and %s to begin anew: %w", s.accounts, s.session, err)
	}
	defer service.Close()
	s.service = service
	if s.account = service.AccountOf(botNumber); s.account == nil {
		s.account = service.NewAccount(botNumber)
	}
	// Before the bot, which answers what was kept for it as soon as it is back.
	if s.ada, err = service.NewContact(ctx, adaNumber); err != nil {
		return err
	}
	s.ada.OnMessage(s.heard)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	scene := make(chan error, 1)
	go func() {
		err := s.scene(ctx)
		cancel(err)
		scene <- err
	}()
	err = serve(ctx, s.session,
		stability.WithTransport(service.Transport("bot")),
		stability.WithKeepalive(awake),
		stability.WithReconnect(quick), stability.WithAutoHeal(staged),
		stability.WithLogger(slog.New(slog.NewTextHandler(s.out, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithQR(func(q stability.QR) { s.offer(ctx, q) }),
		stability.WithObserver(s.observe))
	cancel(nil)
	if played := <-scene; err == nil && !errors.Is(played, context.Canceled) {
		err = played
	}
	service.Close()
	if err != nil || !s.active {
		return err
	}
	if err := s.save(); err != nil {
		return err
	}
	s.tell(plain, "bot", "ended. Its session is kept in %s:\nstarted again, it logs in without a code.", filepath.Base(s.session))
	return nil
}

// save keeps what the service knows. It happens before a message is told as
// sent, so that not even kill -9 loses one that was told.
func (s *simulation) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	return s.service.SaveFile(s.accounts)
}

// offer shows a code, and has it scanned a while later.
func (s *simulation) offer(ctx context.Context, q stability.QR) {
	s.change(func() { s.scanned = true })
	s.tell(plain, "bot", "has no session yet. This is the code to scan:")
	s.code(q)
	go func() {
		if !pause(ctx, s.look) {
			return
		}
		s.tell(plain, "phone", "scans the code")
		if err := s.account.Phone().Scan(q.Code); err != nil {
			s.tell(yellow, "phone", "could not use it: %v", err)
		}
	}()
}

// observe tells each transition. Events come one after the other.
func (s *simulation) observe(e stability.Event) {
	s.change(func() {
		switch e.Kind {
		case stability.EventStandby:
			s.busy = true
		case stability.EventActivated:
			s.active = true
			s.tell(plain, "bot", "holds the lock of its session file (term %d)", e.Epoch)
		case stability.EventPaired:
			s.tell(green, "bot", "is paired")
		case stability.EventConnected:
			s.back(e)
		case stability.EventDisconnected:
			s.off(e)
		case stability.EventReasonKnown:
			if o := s.outage(); o != nil && len(o.reasons) > 0 {
				o.reasons[len(o.reasons)-1] = e.Reason
			}
			s.tell(red, "bot", "knows better now. %s\n%s", e.Reason.Text().Means, next(e.Decision))
		case stability.EventHealing:
			s.tell(red, "bot", "gives this process up, so that a fresh one takes over: %s", e.Detail)
		case stability.EventHealth:
			s.health(e)
		case stability.EventStoreDown:
			s.tell(red, "bot", "cannot use its session file: %s", e.Detail)
		case stability.EventStoreUp:
			s.tell(green, "bot", "can use its session file again")
		case stability.EventDeactivated:
			if e.Kept {
				s.tell(plain, "bot", "has ended its term, and keeps the lock for a new one")
			} else {
				s.tell(plain, "bot", "has handed the lock over: another instance could take it now")
			}
		}
	})
}

// outage is the one that is going on, nil if there is none.
func (s *simulation) outage() *outage {
	if n := len(s.outages); n > 0 && !s.outages[n-1].over {
		return &s.outages[n-1]
	}
	return nil
}

// health tells of a bot that is connected and does not get on.
func (s *simulation) health(e stability.Event) {
	was := s.degraded
	s.degraded = e.Health == keepalive.Degraded
	switch {
	case s.degraded:
		s.tell(red, "bot", "does not get on. %s", e.Detail)
	case was && s.connected:
		s.tell(green, "bot", "gets on again. %s", e.Detail)
	}
}

func (s *simulation) back(e stability.Event) {
	s.connected = true
	switch o := s.outage(); {
	case o != nil:
		o.over, o.off, o.attempts = true, e.Offline, e.Attempt
		s.tell(green, "bot", "is BACK after %s, %s", seconds(e.Offline), count(e.Attempt, "attempt", "attempts"))
	case s.scanned:
		s.tell(green, "bot", "is connected")
	default:
		s.tell(green, "bot", "is connected: logged in without a code, with the session it kept")
	}
}

func (s *simulation) off(e stability.Event) {
	why := e.Reason.Text().Means + "\n" + next(e.Decision)
	was, o := s.connected, s.outage()
	s.connected = false
	switch {
	case e.Reason == reconnect.ReasonHandedOver:
		s.tell(plain, "bot", "closes the connection")
		return
	case e.Reason == reconnect.ReasonRestartRequired:
		s.tell(plain, "bot", "connects again, as is usual after pairing")
		return
	case !was:
		s.tell(red, "bot", "cannot connect. %s", why)
	default:
		if o == nil { // nobody meant it to happen
			s.outages = append(s.outages, outage{fault: "(not planned)"})
			o = s.outage()
		}
		s.tell(red, "bot", "is OFF. %s", why)
	}
	if o != nil && !slices.Contains(o.reasons, e.Reason) {
		o.reasons = append(o.reasons, e.Reason)
	}
}

func (s *simulation) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// until waits until cond, which is asked under the lock, says yes.
func (s *simulation) until(ctx context.Context, cond func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := cond(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
