package stability

import (
	"context"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
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
func (sl *slot) onVital(evt any) bool {
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	switch e := evt.(type) {
	case *events.KeepAliveTimeout:
		if c := sl.conn; c != nil && !e.LastSuccess.Before(c.started) {
			sl.vitals.failed = max(sl.vitals.failed, e.ErrorCount)
		}
	case *events.KeepAliveRestored:
		sl.vitals.failed = 0
	case *events.UndecryptableMessage:
		if e.IsUnavailable {
			return true // a message that is not for this device
		}
		// Its sender first sends it again with the same session, and it fails again.
		if slices.ContainsFunc(sl.vitals.undecrypted, func(u undecrypted) bool { return u.id == e.Info.ID && u.from == e.Info.Sender }) {
			return true
		}
		list := append(sl.vitals.undecrypted, undecrypted{e.Info.Sender, e.Info.ID, time.Now()})
		sl.vitals.undecrypted = list[max(0, len(list)-maxUndecrypted):]
	default:
		return false
	}
	sl.s.poke()
	return true
}

// checkLocked judges the connection and returns what to do about it, and when
// to look again.
func (sl *slot) checkLocked(now time.Time) (act func(), again time.Time) {
	c := sl.conn
	if !c.up() || !c.connected {
		sl.judgeLocked(now)
		return nil, time.Time{}
	}
	v := sl.judgeLocked(now)
	switch {
	case v.Reconnect:
		return func() {
			sl.m.mu.Lock()
			defer sl.m.mu.Unlock()
			sl.endLocked(c, reconnect.Cause{Reason: reconnect.ReasonConnectionLost, Source: reconnect.SourceRaw, Detail: v.Text})
		}, time.Time{}
	case v.Probe && !sl.vitals.probing:
		sl.vitals.probing, sl.vitals.probeSent = true, now
		sl.s.wg.Go(func() { sl.probe(c) })
	case sl.vitals.queueSince.IsZero() && !now.Before(sl.vitals.queueAt):
		if sl.measureLocked(c, now) {
			break
		}
		sl.vitals.queueSince = now
		sl.s.wg.Go(func() { sl.watchQueue(c, now) })
	}
	again = v.CheckAt
	if sl.vitals.queueSince.IsZero() && (again.IsZero() || sl.vitals.queueAt.Before(again)) {
		again = sl.vitals.queueAt
	}
	if soon := now.Add(time.Second); v.Health == keepalive.Degraded && soon.Before(again) {
		again = soon // nobody tells when a handler has returned
	}
	return nil, again
}

// judgeLocked asks the monitor, and tells who watches when the value changed.
func (sl *slot) judgeLocked(now time.Time) keepalive.Verdict {
	o := sl.observeLocked(now)
	before := sl.vitals.verdict
	v := sl.s.monitor.Check(o, now)
	sl.vitals.verdict = v
	if v.Health != before.Health && before.Health != "" {
		sl.m.cfg.logger.Info("health", "is", v.Health, "was", before.Health, "text", v.Text)
		sl.m.eventLocked(Event{Kind: EventHealth, Health: v.Health, Detail: v.Text})
	}
	return v
}

func (sl *slot) observeLocked(now time.Time) keepalive.Observation {
	st := sl.s.machine.State()
	o := keepalive.Observation{DisconnectedAt: st.DisconnectedSince, DownBecause: string(st.LastDisconnectReason)}
	c := sl.conn
	if !c.up() || !c.connected {
		return o
	}
	o.Connected, o.ConnectedAt, o.DownBecause = true, st.ConnectedAt, ""
	o.LastReadAt = c.link.LastRead()
	o.LastEventAt = sl.m.clocks.at(&sl.m.clocks.lastEvent)
	o.LastMessageAt = sl.m.clocks.at(&sl.m.clocks.lastMessage)
	o.LastProbeAt, o.ProbeSentAt, o.ProbesFailed = sl.vitals.lastProbe, sl.vitals.probeSent, sl.vitals.failed
	switch w := c.link.Work(); {
	case w.Seen:
		o.HandlerSince = w.Running
		o.Waiting, o.WaitingSince, o.PerSecond = w.Waiting, w.Oldest, sl.vitals.perSecond
	case !sl.vitals.queueSince.IsZero():
		// Nobody sees the handlers. Something waits behind them, and they get on
		// as long as they are given events.
		o.WaitingSince, o.HandlerSince = sl.vitals.queueSince, sl.vitals.queueSince
		if o.LastEventAt.After(o.HandlerSince) {
			o.HandlerSince = o.LastEventAt
		}
	}
	from := now.Add(-sl.m.cfg.keepalive.Defaults().DecryptWindow)
	for _, u := range sl.vitals.undecrypted {
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
func (sl *slot) probe(c *connection) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(sl.s.rush, cancel)
	defer stop()
	go func() {
		select {
		case <-c.link.Down():
			cancel()
		case <-ctx.Done():
		}
	}()
	var ok, goOn bool
	in, can := any(sl.client.DangerousInternals()).(interface {
		SendKeepAlive(context.Context) (isSuccess, shouldContinue bool)
	})
	if can = can && !sl.m.cfg.lacks(relyProbe); can {
		ok, goOn = in.SendKeepAlive(ctx)
	}
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	sl.vitals.probing = false
	switch {
	case !can: // whatsmeow's own pings go on
		sl.m.noteCompatLocked(relyProbe, "whatsmeow's SendKeepAlive is missing: a dead connection is noticed by whatsmeow's own pings alone, some minutes later")
	case sl.conn != c || !goOn:
	case ok:
		sl.vitals.lastProbe, sl.vitals.failed = time.Now(), 0
	default:
		sl.vitals.failed++
	}
	sl.s.poke()
}

// measureLocked measures how fast received stanzas are handled, and tells the
// log of a backlog. False where handlers are not seen.
func (sl *slot) measureLocked(c *connection, now time.Time) bool {
	w, v := c.link.Work(), &sl.vitals
	if !w.Seen {
		return false
	}
	if d := now.Sub(v.handledAt); d > 0 && !v.handledAt.IsZero() {
		v.perSecond = float64(w.Handled-v.handled) / d.Seconds()
	}
	v.handled, v.handledAt, v.queueAt = w.Handled, now, now.Add(sl.m.queueEvery())
	switch old := w.Waiting > 0 && now.Sub(w.Oldest) >= sl.m.queueEvery(); {
	case old && !v.backlog:
		v.backlog = true
		sl.m.cfg.logger.Info("received messages, receipts and notices wait to be handled",
			"waiting", w.Waiting, "oldest", now.Sub(w.Oldest), "perSecond", v.perSecond)
	case w.Waiting == 0 && v.backlog:
		v.backlog = false
		sl.m.cfg.logger.Info("nothing waits to be handled any more")
	}
	return true
}

// watchQueue puts a marker behind what waits to be handled, where handlers are
// not seen. As long as it does not come out, something has been waiting since.
func (sl *slot) watchQueue(c *connection, since time.Time) {
	ctx, cancel := context.WithCancel(sl.s.rush)
	defer cancel()
	_ = c.link.Quiesce(ctx)
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if sl.vitals.queueSince.Equal(since) {
		sl.vitals.queueSince = time.Time{}
		sl.vitals.queueAt = time.Now().Add(sl.m.queueEvery())
		sl.s.poke()
	}
}
