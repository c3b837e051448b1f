package stability

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// bell wakes the goroutine that receives from it, once for any number of rings.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

// ring never blocks.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// note gives evidence to the core and carries out what does not block. An
// effect that may take long is returned: it is the loop's.
func (t *term) note(e core.Evidence) core.Effect {
	return t.noteWith(func() core.Evidence { return e })
}

// noteWith is note for evidence that is gathered under the Manager's lock; nil
// is none.
func (t *term) noteWith(gather func() core.Evidence) core.Effect {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.take(gather())
}

// take gives evidence to the core, under the Manager's lock, and carries out
// what does not block.
func (t *term) take(e core.Evidence) (long core.Effect) {
	if e == nil {
		return nil
	}
	effects := t.core.Handle(e, time.Now())
	for _, f := range effects {
		if core.Long(f) {
			long = f
		}
		t.carryOut(f)
	}
	switch e.(type) {
	case core.Tick, core.Seen: // the loop's own
		if len(effects) == 0 {
			return long
		}
	default:
		t.wake.ring()
	}
	t.m.broadcastLocked()
	return long
}

// carryOut carries an effect out under the Manager's lock, as far as that can
// be; the rest is left to its unlock.
func (t *term) carryOut(f core.Effect) {
	m, a := t.m, t.client
	switch f := f.(type) {
	case core.Announce:
		m.eventLocked(Event{
			Kind: newsKinds[f.What], Reason: f.Reason, Detail: f.Detail, Decision: f.Decision, Attempt: f.Attempt, Offline: f.Offline,
		})
		switch f.What {
		case core.NewsConnected:
			m.seat.rest = rest{}
			m.received.wake.ring()
		case core.NewsDisconnected:
			m.received.hungUp()
		}
		if f.What == core.NewsConnected && a != nil {
			now := time.Now()
			a.vitals = vitals{queueAt: now.Add(m.queueEvery()), handledAt: now}
		}
		switch f.What {
		case core.NewsConnected:
			m.sends.up(t.own)
		case core.NewsDisconnected:
			m.sends.down()
		case core.NewsPaired:
			m.sends.newDevice(t.own)
		case core.NewsNeedsPairing:
			m.sends.newDevice(noAddress)
		}
	case core.ShowCode:
		m.notify.show(QR{Code: f.Code, ExpiresAt: f.Until}, m.cfg.onQR)
	case core.Log:
		m.logLocked(f.Level, f.Text, f.Attrs...)
	case core.Bind:
		m.sends.down() // if nobody said so
		if a.at.number != f.Conn {
			if a.at.cancel != nil {
				a.at.cancel()
			}
			a.at = attempt{number: f.Conn}
		}
		a.at.link = a.dialing
		a.wire.Store(a.dialing)
		a.served.Store(false)
	case core.UseConnect:
		a.connect = a.scheduled
	case core.Cut:
		if a == nil || a.at.number != f.Conn || a.at.link == nil {
			return
		}
		l := a.at.link
		if l == a.dialing { // nothing is written on it yet, and nothing must be
			m.mu.afterwards(func() { l.Cut(f.Cause) })
			return
		}
		m.mu.afterwards(func() { go l.Cut(f.Cause) }) // it may wait for a write
	case core.CancelCall:
		if a != nil && a.at.number == f.Conn && a.at.cancel != nil {
			a.at.cancel()
		}
	case core.CancelSave:
		if t.stopSave != nil {
			t.stopSave() // the last save has a bound of its own
		}
	case core.ForgetDevice:
		t.device, t.own = nil, noAddress
		if t.core.Device() == core.Gone {
			t.wg.Go(t.setAside)
		}
	case core.RetireClient:
		if a != nil && a.number == f.Client {
			a.refuse.Store(true)
			a.over()
		}
	case core.TermEnds:
		t.endsNow()
		m.sends.down()
		m.seat.take(ended, time.Now())
	case core.LoginWithoutTap:
		text := "the logger given to the client shows received stanzas, but not the login: a login is believed a little later"
		if f.Blind {
			text = "the logger given to the client shows no received stanza: why a connection ended is known later, and less exactly"
		}
		m.noteCompatLocked(relyTap, text)
	case core.TapWorks:
		m.noteCompatLocked(relyTap, "")
	case core.TellHealth:
		m.logLocked(slog.LevelInfo, "health", "is", f.Is.Health, "was", f.Was, "text", f.Is.Text)
		m.eventLocked(Event{Kind: EventHealth, Health: f.Is.Health, Detail: f.Is.Text})
	case core.Ping:
		if l := a.at.link; a.at.number == f.Conn && l != nil {
			t.wg.Go(func() { a.ping(f.Conn, l) })
		}
	case core.Repair:
		if l := a.at.link; a.at.number == f.Conn && l != nil {
			go a.resync(l) // it calls the host: the end of the term must not wait for it
		}
	case core.Connect:
		ctx, cancel := context.WithCancel(context.Background())
		a.at = attempt{number: f.Conn, ctx: ctx, cancel: cancel}
	}
}

// newsKinds are the events that observers are told of what the core announces.
var newsKinds = map[core.News]EventKind{
	core.NewsConnecting:   EventConnecting,
	core.NewsConnected:    EventConnected,
	core.NewsDisconnected: EventDisconnected,
	core.NewsReasonKnown:  EventReasonKnown,
	core.NewsNeedsPairing: EventNeedsPairing,
	core.NewsCode:         EventQR,
	core.NewsPaired:       EventPaired,
	core.NewsHealing:      EventHealing,
}

// loop is the one place that acts: it connects, ends connections, saves the
// state, and tears the term down. Calls in it that may take long are cut short
// by the end of the connection or the term, so a new cause never waits for them.
func (t *term) loop() {
	defer t.leave()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		long, until, down := t.look()
		if long != nil {
			if _, last := long.(core.TearDown); last {
				t.tearDown()
				return
			}
			t.carryOutLong(long)
			continue
		}
		wait := time.Until(until)
		if wait <= 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-down:
		}
	}
}

// look brings what the loop itself sees, and returns what it has to do now, or
// until when to wait for what.
func (t *term) look() (long core.Effect, until time.Time, down <-chan struct{}) {
	m := t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if gone := t.socketGone(); gone != nil {
		t.take(*gone)
	}
	again := t.client.check(now)
	long = t.take(core.Tick{Held: t.hold.Held(), Up: t.up()})
	until = now.Add(time.Hour)
	for _, at := range []time.Time{again, t.core.Next(now)} {
		if !at.IsZero() && at.Before(until) {
			until = at
		}
	}
	if _, _, open := t.core.Conn(); open && t.client != nil && t.client.at.link != nil {
		down = t.client.at.link.Down()
	}
	return long, until, down
}

// carryOutLong carries out what may take long, and brings what came of it.
func (t *term) carryOutLong(f core.Effect) {
	t.m.mu.Lock()
	a := t.client
	t.m.mu.Unlock()
	switch f := f.(type) {
	case core.Connect:
		a.attempt(f)
	case core.CleanUp:
		a.cleanUp(f)
	case core.SaveState:
		t.save(f.State)
	case core.RecordRestart:
		if next := t.note(core.RestartRecorded{Err: t.recordRestart(f.State), At: f.At}); next != nil {
			t.carryOutLong(next)
		}
	case core.TellLoop:
		t.m.incidents.flush(autoheal.StepTimeout)
		t.note(core.LoopTold{})
	}
}

// up reports whether the newest connection's socket is open.
func (t *term) up() bool {
	l := t.socket()
	return l != nil && !isClosed(l.Down())
}

// socket is the newest connection's; nil while the dialer has seen none.
func (t *term) socket() *link.Conn {
	if t.client == nil {
		return nil
	}
	if number, _, _ := t.core.Conn(); number != t.client.at.number {
		return nil
	}
	return t.client.at.link
}

// socketGone is the evidence of a socket that is closed; nil while it is not.
func (t *term) socketGone() *core.SocketGone {
	l := t.socket()
	if l == nil || !isClosed(l.Down()) {
		return nil
	}
	number, _, open := t.core.Conn()
	if !open {
		return nil
	}
	cause, _ := reconnect.Classify(nil)
	cause.Source, cause.Err = reconnect.SourceRaw, l.Err()
	gone := core.SocketGone{Conn: number, Cause: cause}
	switch {
	case errors.Is(cause.Err, errPaused):
		gone.By = core.ByPause
	case errors.Is(cause.Err, link.ErrReset):
		gone.By = core.ByReset
	case errors.Is(cause.Err, link.ErrDisconnected):
		gone.By = core.ByClient
	default:
		if more, ok := reconnect.Classify(cause.Err); ok && more.Reason.Outranks(cause.Reason) {
			more.Source = reconnect.SourceRaw
			gone.Cause = more
		}
	}
	return &gone
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// save writes the state down. Until it worked no attempt begins: one that
// could not be recorded would be forgotten by a restart.
func (t *term) save(st reconnect.State) {
	t.m.mu.Lock()
	st = t.sign(st)
	ctx, cancel := context.WithTimeout(t.patience, ioTimeout)
	t.stopSave = cancel
	if t.core.Ending() {
		cancel()
	}
	t.m.mu.Unlock()

	err := t.m.cfg.backend.State.Save(ctx, t.hold.Epoch(), st)
	cancel()
	if errors.Is(err, reconnect.ErrFenced) {
		t.cut(fmt.Errorf("%w: save the connection's state: %w", ErrTermOver, err))
	}
	t.noteWith(func() core.Evidence {
		switch {
		case err == nil:
			t.m.noteStoreLocked(nil)
		case errors.Is(err, reconnect.ErrFenced), t.core.Ending() && errors.Is(err, context.Canceled): // else it was us
		default:
			t.m.noteStoreLocked(fmt.Errorf("save the connection's state: %w", err))
		}
		return core.SaveDone{Err: err}
	})
}

// sign says in a state who writes it and when.
func (t *term) sign(st reconnect.State) reconnect.State {
	st.InstanceID = t.hold.Record().Holder
	st.UpdatedAt = time.Now()
	return st
}
