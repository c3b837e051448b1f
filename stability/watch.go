package stability

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
	core "github.com/wastability/wastability/stability/internal/term"
)

// vitals is what is known of how alive a connection is. Guarded by Manager.mu.
type vitals struct {
	verdict     keepalive.Verdict
	failed      int           // unanswered pings in a row
	lastProbe   time.Time     // a ping of ours was answered
	probeSent   time.Time     // a ping of ours was sent
	probing     bool          //
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
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	switch e := evt.(type) {
	case *events.KeepAliveTimeout:
		if _, started, _ := a.t.core.Conn(); a.t.client == a && !e.LastSuccess.Before(started) {
			a.vitals.failed = max(a.vitals.failed, e.ErrorCount)
		}
	case *events.KeepAliveRestored:
		a.vitals.failed = 0
	case *events.UndecryptableMessage:
		if e.IsUnavailable {
			return true // a message that is not for this device
		}
		// Its sender first sends it again with the same session, and it fails again.
		if slices.ContainsFunc(a.vitals.undecrypted, func(u undecrypted) bool { return u.id == e.Info.ID && u.from == e.Info.Sender }) {
			return true
		}
		list := append(a.vitals.undecrypted, undecrypted{e.Info.Sender, e.Info.ID, time.Now()})
		a.vitals.undecrypted = list[max(0, len(list)-maxUndecrypted):]
	default:
		return false
	}
	a.t.wake.ring()
	return true
}

// check judges the connection, under the Manager's lock, and returns what
// there is to say about it, and when to look again.
func (a *attachment) check(now time.Time) (again time.Time, dead *core.Dead) {
	if a == nil || !a.t.core.Steady() {
		return time.Time{}, nil
	}
	answersBy, turned := a.m.sends.expire(now, a.lastRead())
	if turned {
		a.m.broadcastLocked() // whoever keeps the incidents looks again
	}
	v := a.judge(now)
	if !a.ready() {
		return time.Time{}, nil
	}
	l := a.at.link
	switch {
	case v.Reconnect:
		return time.Time{}, &core.Dead{Conn: a.at.number, Detail: v.Text}
	case v.Probe && !a.vitals.probing:
		a.vitals.probing, a.vitals.probeSent = true, now
		a.t.wg.Go(func() { a.probe(l) })
	case a.vitals.queueSince.IsZero() && !now.Before(a.vitals.queueAt):
		if a.measure(l, now) {
			break
		}
		a.vitals.queueSince = now
		a.t.wg.Go(func() { a.watchQueue(l, now) })
	}
	again = v.CheckAt
	if a.vitals.queueSince.IsZero() && (again.IsZero() || a.vitals.queueAt.Before(again)) {
		again = a.vitals.queueAt
	}
	if !answersBy.IsZero() && (again.IsZero() || answersBy.Before(again)) {
		again = answersBy
	}
	if soon := now.Add(time.Second); v.Health == keepalive.Degraded && soon.Before(again) {
		again = soon // nobody tells when a handler has returned
	}
	return again, nil
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

// judge asks the monitor, and tells who watches when the value changed.
func (a *attachment) judge(now time.Time) keepalive.Verdict {
	o := a.observe(now, a.t.core.State(), a.t.up())
	before := a.vitals.verdict
	v := a.t.monitor.Check(o, now)
	a.vitals.verdict = v
	if v.Health != before.Health && before.Health != "" {
		a.m.logLocked(slog.LevelInfo, "health", "is", v.Health, "was", before.Health, "text", v.Text)
		a.m.eventLocked(Event{Kind: EventHealth, Health: v.Health, Detail: v.Text})
	}
	return v
}

// observe gathers what the monitor judges by. up is whether the socket is.
func (a *attachment) observe(now time.Time, st reconnect.State, up bool) keepalive.Observation {
	o := keepalive.Observation{DisconnectedAt: st.DisconnectedSince, DownBecause: string(st.LastDisconnectReason)}
	if a.t.client != a || !a.t.core.Ready(up) {
		return o
	}
	l := a.at.link
	o.Connected, o.ConnectedAt, o.DownBecause = true, st.ConnectedAt, ""
	o.LastReadAt = l.LastRead()
	o.LastEventAt = a.m.clocks.lastEventAt()
	o.LastMessageAt = a.m.clocks.lastMessageAt()
	o.LastProbeAt, o.ProbeSentAt, o.ProbesFailed = a.vitals.lastProbe, a.vitals.probeSent, a.vitals.failed
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

// probe sends a ping of our own when silence makes an answer worth having.
func (a *attachment) probe(l *link.Conn) {
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
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.vitals.probing = false
	switch {
	case !can: // whatsmeow's own pings go on
		a.m.noteCompatLocked(relyProbe, "whatsmeow's SendKeepAlive is missing: a dead connection is noticed by whatsmeow's own pings alone, some minutes later")
	case a.at.link != l || !goOn:
	case ok:
		a.vitals.lastProbe, a.vitals.failed = time.Now(), 0
	default:
		a.vitals.failed++
	}
	a.t.wake.ring()
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
