package stability

import (
	"slices"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/internal/book"
)

// sizes is how much content the store has of messages that no handler has taken yet, by
// their states; missed is that without those that nobody misses. The caller holds mu.
func (r *received) sizes() (all, missed map[book.State]int64) {
	all, missed = make(map[book.State]int64), make(map[book.State]int64)
	for k, rec := range r.more {
		var n int64
		for _, raw := range rec.Contents {
			n += int64(len(raw))
		}
		st, is, ok := r.book.Counts(k)
		if n == 0 || !ok {
			continue
		}
		all[st] += n
		if is {
			missed[st] += n
		}
	}
	return all, missed
}

// old are the messages that were set aside so long ago that they are to be removed, and
// when to look again. The caller holds mu.
func (r *received) old(now time.Time) (old []book.Entry, again time.Time) {
	s := r.m.can.retainer
	if s == nil || s.Retention().SetAside == authstore.Forever {
		return nil, time.Time{}
	}
	return r.book.Old(now, s.Retention().SetAside)
}

// expire removes messages for their age that are still as they were. Their rows go with
// one commit.
func (r *received) expire(old []book.Entry) {
	var removed []change
	r.mu.Lock()
	old = slices.DeleteFunc(old, func(e book.Entry) bool { return !r.still(e) })
	for _, e := range old {
		r.remove(e.Key)
		removed = append(removed, r.changed(e.Key))
	}
	r.mu.Unlock()
	if len(old) == 0 {
		return
	}
	for _, e := range old {
		if !e.Hidden {
			r.m.cfg.logger.Warn("a message that was set aside was removed for its age: nobody has dealt with it",
				"id", e.Key.ID, "after", time.Since(e.Since))
		}
	}
	r.writeAll(removed)
	r.tell()
}

// remove forgets a message that was set aside, and counts it. The caller holds mu.
func (r *received) remove(k book.Key) {
	r.book.Remove(k)
	delete(r.more, k)
	r.removals.done++
}

// removals are the messages that are removed for good. The book's mutex guards it.
type removals struct {
	under map[book.Key]struct{} // under way
	done  uint64                // see ReceivedMessages.Removed
}

// begin notes that a message is about to be removed: nobody is given it meanwhile.
func (x *removals) begin(k book.Key) {
	if x.under == nil {
		x.under = make(map[book.Key]struct{})
	}
	x.under[k] = struct{}{}
}

// end notes that the store has answered, whatever it said.
func (x *removals) end(k book.Key) { delete(x.under, k) }

// going reports whether a message is being removed.
func (x *removals) going(k book.Key) bool {
	_, ok := x.under[k]
	return ok
}
