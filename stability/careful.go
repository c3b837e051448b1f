package stability

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/book"
	core "github.com/wastability/wastability/stability/internal/term"
)

// A message whose handling ends the process comes again at every start, and dies
// again, and nothing behind it is ever handled. So a mark stands in the store
// while a term runs, and a clean hand-over removes it. A term that finds the mark of
// an earlier one is careful: until the backlog is handled, each message is written
// down before it is. One that was begun so and not ended three times is left
// alone at the service, and what is behind it goes on.

const (
	termMark    = "term"    // the id of the mark, among the entries of messages
	maxDeaths   = 3         // begun so often and never ended: left alone
	stableAfter = time.Hour // a term that has lasted so long may offer it once more
	rarely      = 24 * time.Hour
	mostBuilds  = 4 // that take turns, such as the two of a deploy that goes on for long
)

// offerAfter is how long a message is left alone before it is offered by itself, where it
// was offered n times. The process may die of it each time.
func offerAfter(n int) time.Duration {
	return min(stableAfter<<min(n, 8), rarely)
}

// offerAt is when a message that was left alone is offered by itself. The caller holds mu.
func (r *received) offerAt(k book.Key) time.Time {
	e, _ := r.book.Find(k)
	stable, at := r.care.begun.Add(stableAfter), e.Since.Add(offerAfter(r.more[k].Offers))
	if at.Before(stable) {
		return stable
	}
	return at
}

// termRecord is the mark.
type termRecord struct {
	Epoch int64
	Since time.Time
}

// build names the program, as far as it can be told from another build of it.
var build = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	name := info.Main.Path + "@" + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
			name += " " + s.Value
		}
	}
	return name
})

// care is the present term with its mark, and what the mark that it found tells. The
// book's mutex guards it.
type care struct {
	epoch int64     // of the term
	begun time.Time // when it began
	mark  markPhase
	past  pastEnd
}

// markPhase is how far the mark of a term has come.
type markPhase uint8

const (
	markUnset  markPhase = iota
	markRides            // it is in the store with the next commit
	markStands           // it is known to be in the store
)

// pastEnd is how the term before ended.
type pastEnd uint8

const (
	endedWell  pastEnd = iota // in good order, or it was this process's
	endedBadly                // not so, and the backlog is handled
	careInNeed                // not so, and the backlog is not handled yet
)

// begin notes that a term has begun, and what mark it has found; nil for none. It reports
// false where it is the same term still, with another device.
func (c *care) begin(epoch int64, found []byte, now time.Time) bool {
	if c.epoch == epoch {
		return false
	}
	var before termRecord
	own := c.epoch // of this process's last term: it has lost the lock, and lives
	died := found != nil && (json.Unmarshal(found, &before) != nil || before.Epoch != epoch && before.Epoch != own)
	*c = care{epoch: epoch, begun: now}
	if died {
		c.past = careInNeed
	}
	return true
}

// put notes that the mark of a term was written.
func (c *care) put(epoch int64, stands bool) {
	if c.epoch != epoch {
		return // another one has begun
	}
	c.mark = max(c.mark, markRides)
	if stands {
		c.mark = markStands
	}
}

// marked reports whether the mark is in the store, or on its way.
func (c *care) marked() bool { return c.mark >= markRides }

// needed reports whether each message is written down before it is handled.
func (c *care) needed() bool { return c.past == careInNeed }

// calm notes that the backlog is handled.
func (c *care) calm() { c.past = min(c.past, endedBadly) }

// accuses reports whether a message is written down before it is handled: processes have
// died in its hands, or may do so. ours says that it is kept here, so it is no part of the
// backlog.
func (c *care) accuses(deaths int, ours bool) bool {
	return c.needed() || deaths > 0 || ours && c.past == endedBadly
}

// mark begins a term: it looks for the mark of an earlier one, and puts its own.
// It reports whether there was one.
func (r *received) mark(ctx context.Context, epoch int64, found []byte) (unclean bool) {
	r.mu.Lock()
	first := r.care.begin(epoch, found, time.Now())
	careful, put := first && r.care.needed(), !r.care.marked()
	r.mu.Unlock()
	if careful {
		r.m.cfg.logger.Warn("an earlier term ended uncleanly; each message is recorded before it is handled, until the backlog is handled")
	}
	if put {
		r.putMark(ctx, epoch)
	}
	return careful
}

// putMark writes the mark with the next commit. An account that is not paired
// has none.
func (r *received) putMark(ctx context.Context, epoch int64) { r.writeMark(ctx, epoch, false) }

// standMark writes the mark and waits until it is in the store, once a term. A message
// that was decrypted before, or that is kept here, is handed over without a commit, so no
// mark would ride before it; one that is decrypted now takes the mark with it.
func (r *received) standMark(ctx context.Context) {
	r.mu.Lock()
	epoch, stands := r.care.epoch, r.care.mark == markStands
	r.mu.Unlock()
	if !stands {
		r.writeMark(ctx, epoch, true)
	}
}

func (r *received) writeMark(ctx context.Context, epoch int64, now bool) {
	s := r.m.can.book
	r.mu.Lock()
	paired := r.own != ownNames{}
	r.mu.Unlock()
	if s == nil || !paired {
		return
	}
	value, err := json.Marshal(termRecord{epoch, time.Now()})
	if err != nil || s.PutMessageEntry(ctx, termMark, value, now) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.care.put(epoch, now)
}

// unmark ends a term in good order. A handler may still be running: it is slow,
// and has not ended the process.
func (r *received) unmark(ctx context.Context) {
	s := r.m.can.book
	r.mu.Lock()
	marked := r.care.marked()
	r.mu.Unlock()
	if s != nil && marked {
		_ = s.PutMessageEntry(ctx, termMark, nil, false) // else the next term is careful
	}
}

// calm is told that the backlog of this login is handled.
func (r *received) calm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.care.calm()
}

// accused is what is to be written down before d's message is handled; false
// where nothing is. alone says that it is not to be handled at all.
func (r *received) accused(d *delivery) (rec messageRecord, write, alone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.book.Find(d.key)
	rec, stored := r.more[d.key]
	if known && e.State == book.LeftAlone {
		return rec, false, true
	}
	if !r.care.accuses(rec.Deaths, d.ours()) {
		return rec, false, false
	}
	if !stored {
		rec = messageRecord{Entry: book.Entry{Key: d.key, First: time.Now(), Since: time.Now()}, Info: d.info}
	}
	if is := build(); rec.Build != is {
		builds := slices.DeleteFunc(append(slices.Clone(rec.Builds), rec.Build), func(b string) bool { return b == "" || b == is })
		rec.Builds, rec.Build = builds[max(0, len(builds)-mostBuilds):], is
	}
	rec.Deaths, rec.Begun = rec.Deaths+1, true
	return rec, true, false
}

// accuse writes a message down before it is handled.
func (r *received) accuse(ctx context.Context, rec messageRecord) error {
	if err := r.ahead(ctx, rec.Key, &rec); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(rec)
	return nil
}

// survivor turns a record of an earlier process into one that the book begins
// with. A message that was begun and did not end is offered again, until that
// happened too often.
// clean says that the term before ended in good order.
func (r *received) survivor(rec messageRecord, clean bool) messageRecord {
	now := time.Now()
	for _, at := range []*time.Time{&rec.First, &rec.Anew, &rec.Since, &rec.Last} {
		if at.After(now) { // a clock was ahead: nothing waits for such a time to come
			*at = now
		}
	}
	if rec.Begun && clean {
		// The note that it did end was not written, but nothing died.
		rec.Begun, rec.Deaths = false, max(0, rec.Deaths-1)
	}
	if is := build(); rec.Build != is && !slices.Contains(rec.Builds, is) { // another program: it may be mended
		rec.Deaths, rec.Offers = min(rec.Deaths, 1), 0
		if rec.State == book.LeftAlone {
			rec.State = book.AtService
		}
	}
	if !rec.Begun {
		return rec
	}
	rec.Begun = false
	if rec.Deaths < maxDeaths {
		return rec
	}
	rec.Since = now
	rec.Why = fmt.Sprintf("the process ended while it was handled, %d times", rec.Deaths)
	if rec.State == book.Kept {
		rec.State = book.SetAside
	} else {
		rec.State = book.LeftAlone
	}
	r.m.cfg.logger.Error("a message is left alone: the process ended again and again while it was handled", "id", rec.Key.ID, "times", rec.Deaths)
	return rec
}

// offer gives what was left alone one more chance, on a new connection. asked says that
// somebody wants it, and does not count as one of the offers of its own.
func (r *received) offer(t *term, keys []book.Key, asked bool) {
	var offered bool
	for _, k := range keys {
		r.mu.Lock()
		ok := r.book.Offer(k, time.Now())
		rec := r.more[k]
		if ok {
			rec.Deaths = maxDeaths - 1
			if !asked {
				rec.Offers++
			}
			rec.State = book.AtService
			r.note(rec)
		}
		var is change
		if ok {
			is = r.changed(k)
		}
		r.mu.Unlock()
		if ok {
			_ = r.write(context.Background(), is, false)
			offered = true
		}
	}
	if offered {
		t.note(core.Again{Unasked: true, Reason: reconnect.ReasonRedelivery, Detail: "a message that was left alone is offered once more"})
	}
}
