package authstore

import (
	"maps"
	"time"
)

// writeQueue is what waits for its commit: requests, whose callers wait too, and rows
// that are dirty, because memory is ahead of the disk there. deviceStore.mu guards it.
//
// Requests and deferrals are numbered in the order in which they came. So a request
// that was overtaken by a deferral does not put its older value over the newer one.
type writeQueue struct {
	requests []*request
	dirty    map[row]struct{}
	turn     uint64               // of the last request or deferral
	late     map[logicalID]uint64 // the turn of what was deferred beside requests that wait
	entries  map[string]int       // of the book of messages: how many writes of each are on their way
	wholly   int                  // how many wait until everything that is deferred is durable

	timer      *time.Timer // the flush of what is deferred; nil: none
	flushAt    time.Time   // when it is
	flush      func()      // what the timer calls
	background *tasks      // has a task while the timer runs, until flush returns

	closed    bool // nothing more is deferred: nobody would flush it
	lastWrite time.Time
}

// newWriteQueue makes an empty queue. flush is called, in a goroutine of its own and
// without the lock, when what is deferred is due.
func newWriteQueue(background *tasks, flush func()) writeQueue {
	return writeQueue{dirty: make(map[row]struct{}), late: make(map[logicalID]uint64), background: background, flush: flush}
}

// add puts r behind what waits.
func (q *writeQueue) add(r *request) {
	q.turn++
	r.turn = q.turn
	q.requests = append(q.requests, r)
}

// take gives the requests that wait. They are the caller's.
func (q *writeQueue) take() []*request {
	reqs := q.requests
	q.requests = nil
	return reqs
}

// postpone makes changes in memory, and leaves their rows to a later commit.
func (q *writeQueue) postpone(im *image, changes ...change) {
	q.turn++
	for _, c := range changes {
		q.dirty[im.rowOf(c)] = struct{}{}
		im.apply(c)
		q.late[logicalID{c.table, c.id}] = q.turn
	}
}

// mark leaves a row to a later commit, as memory has it then.
func (q *writeQueue) mark(r row) { q.dirty[r] = struct{}{} }

// isDirty reports whether memory is ahead of the disk in r.
func (q *writeQueue) isDirty(r row) bool {
	_, ok := q.dirty[r]
	return ok
}

// clean reports whether no row is dirty. One may be on its way all the same.
func (q *writeQueue) clean() bool { return len(q.dirty) == 0 }

// deferredSince reports whether a value was deferred after turn: memory has a newer one
// than what came with that turn.
func (q *writeQueue) deferredSince(id logicalID, turn uint64) bool { return q.late[id] > turn }

// forgetLate forgets what was deferred before every request that waits.
func (q *writeQueue) forgetLate() {
	if len(q.requests) == 0 {
		clear(q.late)
		return
	}
	first := q.requests[0].turn
	maps.DeleteFunc(q.late, func(_ logicalID, turn uint64) bool { return turn < first })
}

// takeDirty gives the rows that a commit takes along. Of more than most message secrets
// some are left, for the next ones, unless somebody waits for everything.
func (q *writeQueue) takeDirty(most int) (took map[row]struct{}, left bool) {
	took = q.dirty
	if len(took) <= most || q.wholly > 0 {
		q.dirty = make(map[row]struct{})
		return took, false
	}
	// The rest stays where it is: behind a history sync it is nearly all.
	took = make(map[row]struct{})
	secrets := 0
	for r := range q.dirty {
		if r.table == tSecret {
			if secrets++; secrets > most {
				continue
			}
		}
		took[r] = struct{}{}
		delete(q.dirty, r)
	}
	return took, len(q.dirty) > 0
}

// putBack makes those of the rows dirty again that a commit took along and that have not
// landed.
func (q *writeQueue) putBack(took, landed map[row]struct{}) {
	for r := range took {
		if _, ok := landed[r]; !ok {
			q.dirty[r] = struct{}{}
		}
	}
}

// wantAll is for a caller who waits until everything that is deferred is durable. He
// calls it again with -1.
func (q *writeQueue) wantAll(n int) { q.wholly += n }

// arm sees to it that what is deferred is flushed after delay, or at once where it is a
// lot.
func (q *writeQueue) arm(delay time.Duration) {
	if q.closed {
		return
	}
	at := time.Now().Add(delay)
	if len(q.dirty) > maxLate {
		at = time.Now()
	}
	if q.timer != nil && !at.Before(q.flushAt) {
		return
	}
	q.disarm()
	q.flushAt = at
	q.background.Add(1)
	q.timer = time.AfterFunc(time.Until(at), func() {
		defer q.background.Done()
		q.flush()
	})
}

// disarm stops the timer. A flush that has begun goes on.
func (q *writeQueue) disarm() {
	if q.timer != nil && q.timer.Stop() {
		q.background.Done()
	}
	q.timer = nil
}

// fired is the first thing that flush does: the next deferral starts a timer again.
func (q *writeQueue) fired() { q.timer = nil }

// close takes nothing more. Rows that are deferred already may still be
// flushed.
func (q *writeQueue) close() { q.closed = true }

// enter counts n more writes of an entry that are on their way. A removal beside one
// goes behind it, although memory has the entry only when it is written.
func (q *writeQueue) enter(id string, n int) {
	if q.entries == nil {
		q.entries = make(map[string]int)
	}
	if q.entries[id] += n; q.entries[id] == 0 {
		delete(q.entries, id)
	}
}

// entering reports whether a write of an entry is on its way.
func (q *writeQueue) entering(id string) bool { return q.entries[id] > 0 }

// landed notes that a commit has succeeded.
func (q *writeQueue) landed(now time.Time) { q.lastWrite = now }
