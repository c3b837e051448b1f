package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Numbers that are reserved for fiction.
const (
	botNumber = "12025550123"
	adaNumber = "12025550147"
)

// misdeeds are what the service does to the bot, by turns.
var misdeeds = []struct {
	name, told string
	strike     func(s *wasim.Service, bot types.JID)
}{
	{"TCP reset", "resets the TCP connection", func(s *wasim.Service, bot types.JID) {
		s.Fault(wasim.Reset()).For(bot).Now()
	}},
	{"stream error 503", "says \"stream error 503\" and hangs up", func(s *wasim.Service, bot types.JID) {
		s.Fault(wasim.StreamError("503")).For(bot).Now()
	}},
	{"refused connections", "hangs up, and refuses the next three connections", func(s *wasim.Service, bot types.JID) {
		s.Fault(wasim.Refused()).From("bot").Times(3).OnNextLogin()
		s.Fault(wasim.FIN()).For(bot).Now()
	}},
	{"replaced by another login", "says that this session was opened somewhere else", func(s *wasim.Service, bot types.JID) {
		s.Fault(wasim.Replaced()).For(bot).Now()
	}},
	{"black hole", "falls silent: the connection stays open, and no byte passes", func(s *wasim.Service, bot types.JID) {
		s.Fault(wasim.BlackHole()).For(bot).Now()
	}},
}

// talk is what became of Ada's messages.
type talk struct {
	number  int            // of her last message, over all runs
	sent    int            // in this run
	kept    int            // sent while the bot was off
	waiting int            // left over from the last run
	answers map[string]int // by text
}

func (t *talk) unanswered() int { return t.sent - t.answered() }

// answered counts the messages of this run that were.
func (t *talk) answered() (n int) {
	for i := t.number - t.sent + 1; i <= t.number; i++ {
		if t.answers[adaSays(i)] > 0 {
			n++
		}
	}
	return n
}

func (t *talk) twice() (n int) {
	for _, times := range t.answers {
		n += times - 1
	}
	return n
}

func adaSays(n int) string {
	lines := [...]string{
		"Good morning!", "Did you sleep well?", "Tea or coffee?", "It looks like rain.", "Any news?",
		"Do you like music?", "What are you reading?", "How is the weather there?", "Shall we go for a walk?", "Are you still there?",
	}
	return fmt.Sprintf("#%d %s", n, lines[(n-1)%len(lines)])
}

// errBusy is the other process's turn.
var errBusy = errors.New("another simulation runs in this directory: end it first, or change to another directory")

// scene plays one round, then lets the chat go on until ctx ends.
func (s *simulation) scene(ctx context.Context) error {
	if err := s.until(ctx, func() bool { return s.active || s.busy }); err != nil {
		return err
	}
	if s.busy && !s.active {
		return errBusy
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	chat := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := s.chat(ctx)
		cancel(err)
		chat <- err
	}()
	err := s.round(ctx)
	if err == nil {
		<-ctx.Done()
	}
	cancel(err)
	if talked := <-chat; err == nil || errors.Is(err, context.Canceled) {
		err = talked
	}
	return err
}

// enter counts what the last run left, and waits until the bot is online.
func (s *simulation) enter(ctx context.Context) error {
	left, _ := filepath.Glob(s.accounts + ".*") // of a save in the last run that was killed
	for _, f := range left {
		_ = os.Remove(f)
	}
	for _, d := range s.account.Devices() {
		s.talk.number += len(d.AckedMessages()) + len(d.Pending())
		s.talk.waiting += len(d.Pending())
	}
	if n := s.talk.waiting; n > 0 {
		s.tell(plain, "service", "kept %s of Ada's from the last run for the bot", count(n, "message", "messages"))
	}
	if err := s.until(ctx, func() bool { return s.connected }); err != nil {
		return err
	}
	devices := s.account.Devices()
	for _, old := range devices[:len(devices)-1] { // of a session file that is gone
		s.account.Phone().RemoveDevice(old)
	}
	return s.save()
}

// chat has Ada write until ctx ends.
func (s *simulation) chat(ctx context.Context) error {
	for {
		if err := s.say(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		wait := s.pace
		s.mu.Unlock()
		if !pause(ctx, wait) {
			return context.Cause(ctx)
		}
	}
}

// say sends Ada's next message. It is told when it can no longer be lost.
func (s *simulation) say(ctx context.Context) error {
	s.talking <- struct{}{}
	defer func() { <-s.talking }()
	s.mu.Lock()
	text := adaSays(s.talk.number + 1)
	s.mu.Unlock()
	if _, err := s.ada.Send(ctx, s.account.JID(), text); err != nil {
		return fmt.Errorf("write as Ada: %w", err)
	}
	if err := s.save(); err != nil {
		return err
	}
	hint := ""
	s.change(func() {
		s.talk.number++
		s.talk.sent++
		if !s.connected {
			s.talk.kept++
			hint = s.paint(dim, "   (the service keeps it until the bot is back)")
		}
	})
	s.tell(plain, "Ada", "%s%s", text, hint)
	return nil
}

// heard takes the bot's answer to Ada.
func (s *simulation) heard(r wasim.Received) {
	s.talking <- struct{}{}
	defer func() { <-s.talking }()
	s.tell(plain, "bot", "%s", r.Text)
	s.change(func() { s.talk.answers[strings.TrimPrefix(r.Text, "You said: ")]++ })
	if err := s.save(); err != nil {
		s.tell(red, "service", "could not save: %v", err)
	}
}

// round lets the service misbehave in every way once and sums it up.
func (s *simulation) round(ctx context.Context) error {
	for i, m := range misdeeds {
		if !pause(ctx, s.pace*3/2) {
			return context.Cause(ctx)
		}
		s.change(func() { s.outages = append(s.outages, outage{fault: m.name}) })
		s.tell(yellow, "service", "%s%s", m.told, s.paint(dim, fmt.Sprintf("   (%d of %d)", i+1, len(misdeeds))))
		m.strike(s.service, s.account.JID())
		if err := s.until(ctx, func() bool { return s.outage() == nil }); err != nil {
			return err
		}
	}
	if err := s.stuck(ctx); err != nil {
		return err
	}
	if err := s.logout(ctx); err != nil {
		return err
	}
	if !pause(ctx, s.pace) {
		return context.Cause(ctx)
	}
	patience, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = s.until(patience, func() bool { return s.talk.unanswered() == 0 })
	s.sum()
	return context.Cause(ctx)
}

// stuck has the service keep back the acknowledgement of an answer, so that the
// bot's handler waits for it, and with it all that comes after.
func (s *simulation) stuck(ctx context.Context) error {
	if !pause(ctx, s.pace) {
		return context.Cause(ctx)
	}
	s.tell(yellow, "service", "does not confirm the bot's answers for a while")
	held := s.service.Fault(wasim.HoldAcks()).For(s.account.JID()).Now()
	defer held.Stop()
	if err := s.until(ctx, func() bool { return s.degraded }); err != nil {
		return err
	}
	if !pause(ctx, s.pace) {
		return context.Cause(ctx)
	}
	held.Stop()
	return s.until(ctx, func() bool { return !s.degraded })
}

// logout has the owner remove the bot on the phone, and link it again. It is
// played once, in the run in which the bot was paired: a later start shows that
// no code is needed. Ada waits meanwhile, for there is nobody to write to.
func (s *simulation) logout(ctx context.Context) error {
	s.mu.Lock()
	fresh := s.scanned
	s.mu.Unlock()
	if !fresh {
		return nil
	}
	if !pause(ctx, s.pace) {
		return context.Cause(ctx)
	}
	s.talking <- struct{}{}
	defer func() { <-s.talking }()
	s.change(func() { s.outages = append(s.outages, outage{fault: "removed on the phone"}) })
	s.tell(yellow, "phone", "removes the bot from its linked devices")
	for _, d := range s.account.Devices() {
		s.account.Phone().RemoveDevice(d)
	}
	if err := s.until(ctx, func() bool { return s.outage() == nil }); err != nil {
		return err
	}
	return s.save()
}

// sum prints the summary of the round.
func (s *simulation) sum() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace = s.rest
	var b strings.Builder
	line := func(c ink, format string, args ...any) {
		b.WriteString("  " + s.paint(c, strings.TrimRight(fmt.Sprintf(format, args...), " ")) + "\n")
	}
	b.WriteString("\n")
	line(bold, "Summary after %s: %s, and back each time", seconds(time.Since(s.start)), count(len(s.outages), "outage", "outages"))
	b.WriteString("\n")
	line(dim, "%-27s%-24s%10s%10s", "the service", "the bot's reason", "attempts", "off for")
	for _, o := range s.outages {
		for i, reason := range o.reasons {
			if i == 0 {
				line(plain, "%-27s%-24s%10d%10s", o.fault, reason, o.attempts, seconds(o.off))
			} else {
				line(plain, "%-27s%s", "", reason)
			}
		}
	}
	b.WriteString("\n")
	line(plain, "Ada sent %s, %d of them while the bot was off: %d answered, %d lost, %d answered twice.",
		count(s.talk.sent, "message", "messages"), s.talk.kept, s.talk.answered(), s.talk.unanswered(), s.talk.twice())
	b.WriteString("\n")
	line(plain, "The chat goes on. Ctrl-C ends it; started again, the bot needs no code.")
	s.print(b.String() + "\n")
}
