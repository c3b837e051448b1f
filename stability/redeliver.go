package stability

import (
	"context"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
	core "github.com/wastability/wastability/stability/internal/term"
)

// dispatcher gives an event to a client's handlers, as whatsmeow does.
type dispatcher interface {
	DispatchEvent(evt any) (handlerFailed bool)
}

// tend looks after what waits, for one term: it hands over again what is kept,
// asks the phone for what could not be decrypted, and asks for a new connection
// when messages that were refused wait at the service.
func (t *term) tend() {
	r := &t.m.received
	t.tending = newErrand(&t.wg, func() time.Time { return r.due(t) })
	context.AfterFunc(t.patience, t.tending.end)
	r.wake.at.Store(t.tending)
	t.tending.ring()
}

// due does what is due, and says when to look again.
func (r *received) due(t *term) (again time.Time) {
	m := t.m
	later := r.makeGood(t.patience)
	m.mu.Lock()
	a := t.client
	ready := a != nil && a.ready() && !t.core.Ending()
	st, connects := t.core.State(), t.core.Connects()
	m.mu.Unlock()
	if !ready || a.refuse.Load() {
		return later // a login pokes
	}
	sooner := func(at time.Time) {
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	sooner(later)
	now := time.Now()
	sending := m.sends.waits(now) // a new connection would leave its answer behind
	r.mu.Lock()
	var kept []book.Entry
	var at time.Time
	if until := st.ConnectedAt.Add(hangsAfter); r.care.needed() && now.Before(until) {
		sooner(until) // else it would be accused of the deaths that a message of the backlog causes
	} else {
		kept, at = r.book.Due(now)
		sooner(at)
	}
	asks, at := r.book.Asks(now)
	sooner(at)
	lost, at := r.book.Overdue(now)
	sooner(at)
	old, at := r.old(now)
	sooner(at)
	var busy time.Time
	if sending || r.handlingNow(now) {
		busy = now
	}
	var redelivery time.Time
	if connects {
		redelivery = r.book.Redelivery(st.ConnectedAt, busy)
	}
	var alone []book.Key
	for _, k := range r.book.Alone(now) {
		if at := r.offerAt(k); now.Before(at) {
			sooner(at)
		} else {
			alone = append(alone, k)
		}
	}
	marked, epoch := r.care.marked(), r.care.epoch
	settle, at := r.backlog.settles(now)
	sooner(at)
	r.mu.Unlock()
	if settle {
		r.settle()
		r.sweepFound(now)
	}
	r.expire(old)
	if !marked {
		r.putMark(t.patience, epoch) // it was not paired when the term began
	}
	if len(alone) > 0 {
		r.offer(t, alone, false)
		return again
	}
	sooner(redelivery)

	for _, e := range lost {
		r.aside(e, "it cannot be decrypted, and neither its sender nor the phone has sent it again")
	}
	// Before anything that takes long: with enough slow handlers of kept messages it would never be its turn.
	if !redelivery.IsZero() && !redelivery.After(now) {
		r.mu.Lock()
		waiting := r.book.ForRedelivery()
		r.book.Redelivering(now)
		r.mu.Unlock()
		m.cfg.logger.Info("ending the connection so that the service delivers again what was not taken",
			"messages", waiting.Count, "oldest", keepalive.Span(now.Sub(waiting.Oldest)))
		t.note(core.Again{
			Unasked: true,
			Reason:  reconnect.ReasonRedelivery,
			Detail:  fmt.Sprintf("%d messages that were not taken wait at the service, the oldest for %s", waiting.Count, keepalive.Span(now.Sub(waiting.Oldest))),
		})
		return again // the next login rings
	}
	for _, e := range asks {
		if !r.ask(t, a, e) {
			break // one lost connection is one request that was not sent, and not five
		}
	}
	tried := len(asks)
	for _, e := range kept {
		if n, _ := r.hanging(time.Now(), true); n >= maxHanging {
			break // the first that returns pokes
		}
		if time.Since(now) > hangsAfter {
			break // the other things that are due wait as well
		}
		if tried++; !r.handOver(t, a, e) {
			return again
		}
	}
	if tried > 0 {
		return now // their pauses have begun
	}
	return again
}

// A handler that does not return from a kept message holds the others up for a
// minute, and then they are handed over beside it, unless too many hang.
const (
	hangsAfter = time.Minute
	maxHanging = 8
)

// handlingNow reports whether a handler has a message, or the next one in whatsmeow's
// queue soon. One that hangs does not count, nor do those behind it. The caller
// holds mu.
func (r *received) handlingNow(now time.Time) bool {
	stuck := false
	for _, d := range r.inHand {
		if now.Sub(d.began) < hangsAfter {
			return true
		}
		stuck = stuck || !d.ours()
	}
	return !stuck && r.book.Sums().States[book.Queued].Count > 0
}

// handOver gives a kept message to the handlers. It waits for them, but not for
// long, and not when the term ends first: then false, and they go on.
func (r *received) handOver(t *term, a *attachment, e book.Entry) bool {
	r.standMark(t.patience)
	d := &delivery{a: a, key: e.Key, course: course.Course{Origin: course.Store}}
	if !r.admit(t.patience, d) {
		return true // such as one that comes from the service at this moment
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.dispatch(d, d.before)
		r.ended(d)
	}()
	patience := time.NewTimer(hangsAfter)
	defer patience.Stop()
	select {
	case <-done:
		return true
	case <-patience.C:
		r.m.cfg.logger.Warn("a handler does not return from a message that was kept; the others are handed over meanwhile", "id", e.Key.ID)
		r.tell()
		return true
	case <-t.patience.Done():
		return false
	case <-a.life.Done():
		return false
	}
}

// hanging counts the messages that have been with a handler for long, and says
// since when the first of them is. kept asks for those that were handed over
// from here.
func (r *received) hanging(now time.Time, kept bool) (n int, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.inHand {
		if kept && !d.ours() || now.Sub(d.began) < hangsAfter {
			continue
		}
		n++
		if since.IsZero() || d.began.Before(since) {
			since = d.began
		}
	}
	return n, since
}

// dispatch gives each part of a kept message to the handlers.
func (r *received) dispatch(d *delivery, rec messageRecord) {
	in, can := any(d.a.client.DangerousInternals()).(dispatcher)
	poisonous := r.poisonous(d.key)
	var rest [][]byte
	for _, raw := range rec.Contents {
		var msg waE2E.Message
		if !can || poisonous || proto.Unmarshal(raw, &msg) != nil {
			rest = append(rest, raw)
			continue
		}
		evt := (&events.Message{Info: rec.Info, RawMessage: &msg}).UnwrapRaw()
		d.mu.Lock()
		d.content.event = evt
		d.course.BeginStored()
		d.mu.Unlock()
		failed := in.DispatchEvent(evt)
		d.mu.Lock()
		if d.course.Untaken(failed) {
			rest = append(rest, raw)
		}
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info, d.content.kept, d.content.event = rec.Info, rest, nil
	if poisonous {
		d.course.Condemn()
	}
}

// synced is told that the service has delivered what waited there.
func (r *received) synced() {
	r.calm()
	r.mu.Lock()
	r.backlog.delivered(time.Now())
	offered := func(k book.Key) bool { return r.more[k].State == book.AtService }
	var missing []book.Entry
	for _, k := range r.book.Synced(offered) {
		e, _ := r.book.Find(k)
		missing = append(missing, e)
	}
	var removed []change // begun by an earlier process, and the service has it no more
	for k, rec := range r.more {
		if _, known := r.book.Find(k); !known && rec.State == "" {
			delete(r.more, k)
			removed = append(removed, r.changed(k))
		}
	}
	r.mu.Unlock()
	r.writeAll(removed)
	r.wake.ring()
	for _, e := range missing {
		why := "a handler refused it, and WhatsApp does not deliver it again: another program may have acknowledged it"
		if e.State == book.AtService {
			why = "it was left alone, since the process ended while it was handled, and WhatsApp does not deliver it any more"
		}
		r.aside(e, why)
	}
}

// still reports whether a message is as it was when it was listed. That may be a minute
// ago: it was handled, removed, or handed over again meanwhile. The caller holds mu.
func (r *received) still(was book.Entry) bool {
	e, ok := r.book.Find(was.Key)
	return ok && !r.removals.going(was.Key) && e.State == was.State && e.First.Equal(was.First) && e.Since.Equal(was.Since) && e.Last.Equal(was.Last)
}

// aside sets a message aside that is still as it was.
func (r *received) aside(was book.Entry, why string) {
	if r.becomes(func() (book.Entry, bool) {
		if !r.still(was) {
			return book.Entry{}, false
		}
		return r.book.Aside(was.Key, why, time.Now())
	}) {
		r.dropSurplus()
		r.tell()
	}
}

// becomes writes down what an entry of the book has become. change says that, while
// mu is held, or that nothing has changed.
func (r *received) becomes(change func() (book.Entry, bool)) bool {
	r.mu.Lock()
	e, ok := change()
	if !ok {
		r.mu.Unlock()
		return false
	}
	rec := r.more[e.Key]
	rec.Entry = e
	r.note(rec)
	is := r.changed(e.Key)
	r.mu.Unlock()
	_ = r.write(context.Background(), is, false)
	return true
}

// idle waits until no message is in hand that was handed over from here.
func (r *received) idle(ctx context.Context) {
	for {
		r.mu.Lock()
		busy := false
		for _, d := range r.inHand {
			busy = busy || d.ours()
		}
		r.mu.Unlock()
		if !busy || !sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
}
