package stability

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// vitals is what is seen of how alive a connection is, beside what the core
// itself knows. Guarded by Manager.mu.
type vitals struct {
	queueSince  time.Time     // a marker waits in the queue since then; zero while none does
	queueAt     time.Time     // when to look at the queue again
	handled     uint64        // what had been handled when it was last looked at
	handledAt   time.Time     // and when that was
	perSecond   float64       // handled since the time before
	backlog     bool          // the log knows of a backlog
	undecrypted []undecrypted // newest last, bounded
}

// undecrypted is a message that could not be decrypted.
type undecrypted struct {
	from types.JID
	id   types.MessageID
	at   time.Time
}

// maxUndecrypted bounds the list of decryption failures that is kept.
const maxUndecrypted = 256

// queueEvery is how often it is checked that the handlers get on: often enough
// to find a stuck one in time, and at most every 30 s.
func (m *Manager) queueEvery() time.Duration {
	return min(30*time.Second, m.cfg.keepalive.Defaults().HandlerAfter/4)
}

// onVital takes what events tell about the health of the link; false means
// that the event is about something else.
func (a *attachment) onVital(evt any) bool {
	switch e := evt.(type) {
	case *events.KeepAliveTimeout:
		a.t.note(core.PingsFailed{Client: a.number, InARow: e.ErrorCount, Answered: e.LastSuccess})
	case *events.KeepAliveRestored:
		a.t.note(core.PingsFailed{Client: a.number})
	case *events.UndecryptableMessage:
		if !e.IsUnavailable { // else it is a message that is not for this device
			a.notDecrypted(e)
		}
	default:
		return false
	}
	return true
}

// notDecrypted counts a message that could not be decrypted.
func (a *attachment) notDecrypted(e *events.UndecryptableMessage) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	// Its sender first sends it again with the same session, and it fails again.
	if slices.ContainsFunc(a.vitals.undecrypted, func(u undecrypted) bool { return u.id == e.Info.ID && u.from == e.Info.Sender }) {
		return
	}
	list := append(a.vitals.undecrypted, undecrypted{e.Info.Sender, e.Info.ID, time.Now()})
	a.vitals.undecrypted = list[max(0, len(list)-maxUndecrypted):]
	a.t.wake.ring()
}

// check lets the core judge the connection, under the Manager's lock, and
// returns when to look again.
func (a *attachment) check(now time.Time) (again time.Time) {
	if a == nil || !a.t.core.Steady() {
		return time.Time{}
	}
	answersBy, turned := a.m.sends.expire(now, a.lastRead())
	if turned {
		a.m.broadcastLocked() // whoever keeps the incidents looks again
	}
	a.t.take(core.Seen{Up: a.t.up(), Of: a.observe(now)})
	if !a.ready() {
		return time.Time{}
	}
	if v, l := &a.vitals, a.at.link; v.queueSince.IsZero() && !now.Before(v.queueAt) && !a.measure(l, now) {
		v.queueSince = now
		a.t.wg.Go(func() { a.watchQueue(l, now) })
	}
	verdict := a.t.core.Verdict()
	times := []time.Time{verdict.CheckAt, answersBy}
	if a.vitals.queueSince.IsZero() {
		times = append(times, a.vitals.queueAt)
	}
	if verdict.Health == keepalive.Degraded {
		times = append(times, now.Add(time.Second)) // nobody tells when a handler has returned
	}
	for _, at := range times {
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return again
}

// lastRead is when anything came from the server last.
func (a *attachment) lastRead() time.Time {
	if a.at.link == nil {
		return time.Time{}
	}
	return a.at.link.LastRead()
}

// ready reports whether the client is logged in on a live connection.
func (a *attachment) ready() bool { return a.t.client == a && a.t.core.Ready(a.t.up()) }

// observe gathers what the core cannot know of how alive the connection is.
func (a *attachment) observe(now time.Time) (o keepalive.Observation) {
	l := a.at.link
	if l == nil {
		return o
	}
	o.LastReadAt = l.LastRead()
	o.LastEventAt = a.m.clocks.lastEventAt()
	o.LastMessageAt = a.m.clocks.lastMessageAt()
	switch w := l.Work(); {
	case w.Seen:
		o.HandlerSince = w.Running
		o.Waiting, o.WaitingSince, o.PerSecond = w.Waiting, w.Oldest, a.vitals.perSecond
	case !a.vitals.queueSince.IsZero():
		// Nobody sees the handlers. Something waits behind them, and they get on
		// as long as they are given events.
		o.WaitingSince, o.HandlerSince = a.vitals.queueSince, a.vitals.queueSince
		if o.LastEventAt.After(o.HandlerSince) {
			o.HandlerSince = o.LastEventAt
		}
	}
	o.MuteSince, o.MuteText = a.m.sends.mute(now)
	from := now.Add(-a.m.cfg.keepalive.Defaults().DecryptWindow)
	for _, u := range a.vitals.undecrypted {
		if u.at.After(from) {
			if o.DecryptFailures == 0 {
				o.DecryptSince = u.at
			}
			o.DecryptFailures++
		}
	}
	return o
}

// ping sends a ping of our own: silence makes an answer worth having.
func (a *attachment) ping(conn int, l *link.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(a.t.patience, cancel)
	defer stop()
	go func() {
		select {
		case <-l.Down():
			cancel()
		case <-ctx.Done():
		}
	}()
	var ok, goOn bool
	in, can := any(a.client.DangerousInternals()).(interface {
		SendKeepAlive(context.Context) (isSuccess, shouldContinue bool)
	})
	if can = can && !a.m.cfg.lacks(relyProbe); can {
		ok, goOn = in.SendKeepAlive(ctx)
	}
	a.t.noteWith(func() core.Evidence {
		if !can { // whatsmeow's own pings go on
			a.m.noteCompatLocked(relyProbe, "whatsmeow's SendKeepAlive is missing: a dead connection is noticed by whatsmeow's own pings alone, some minutes later")
		}
		return core.Pinged{Conn: conn, Answered: ok && goOn, Failed: can && !ok && goOn}
	})
}

// measure measures how fast received stanzas are handled, and tells the
// log of a backlog. False where handlers are not seen.
func (a *attachment) measure(l *link.Conn, now time.Time) bool {
	w, v := l.Work(), &a.vitals
	if !w.Seen {
		return false
	}
	if d := now.Sub(v.handledAt); d > 0 && !v.handledAt.IsZero() {
		v.perSecond = float64(w.Handled-v.handled) / d.Seconds()
	}
	v.handled, v.handledAt, v.queueAt = w.Handled, now, now.Add(a.m.queueEvery())
	switch old := w.Waiting > 0 && now.Sub(w.Oldest) >= a.m.queueEvery(); {
	case old && !v.backlog:
		v.backlog = true
		a.m.logLocked(slog.LevelInfo, "received messages, receipts and notices wait to be handled",
			"waiting", w.Waiting, "oldest", now.Sub(w.Oldest), "perSecond", v.perSecond)
	case w.Waiting == 0 && v.backlog:
		v.backlog = false
		a.m.logLocked(slog.LevelInfo, "nothing waits to be handled any more")
	}
	return true
}

// watchQueue puts a marker behind what waits to be handled, where handlers are
// not seen. As long as it does not come out, something has been waiting since.
func (a *attachment) watchQueue(l *link.Conn, since time.Time) {
	ctx, cancel := context.WithCancel(a.t.patience)
	defer cancel()
	_ = l.Quiesce(ctx)
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.vitals.queueSince.Equal(since) {
		a.vitals.queueSince = time.Time{}
		a.vitals.queueAt = time.Now().Add(a.m.queueEvery())
		a.t.wake.ring()
	}
}
