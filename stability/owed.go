package stability

import (
	"context"
	"time"

	"github.com/wastability/wastability/stability/internal/book"
)

// The book of messages stands in memory and in the store, and the two may differ at any
// moment. While they do, the row of that message is owed. This is what happens to it.
//
//   - A write waits through an outage. An outage that lasts ends the term. What was not
//     written by then was not acknowledged either, and the next holder goes by the rows.
//   - A write fails while one device is exchanged for the next: no device is there to write
//     through. The row is owed, and the next load writes it (debts). Behind a load it is
//     written by tend, after a second, and then with pauses of up to ten minutes (makeGood).
//   - A write fails for good, such as one that the backend refuses. It is owed too, and
//     tend tries it again.
//   - A deferred write is lost with its device, whose last flush fails. Nobody is told. So
//     what was deferred stays owed for a while (owedFor), and the next load writes it again.
//   - The reply to a write is lost. The store finds out, or a later device writes the same
//     once more (authstore). Where it does not find out, the write has failed: see above.
//   - A term ends in good order: what is owed is tried once more (lastPayment), unless a
//     handler that hangs has used up the time of the hand-over.
//   - The process dies, or a term ends while the backend is away or refuses the row: what is
//     owed is forgotten. A message that was not acknowledged
//     is at the service. One that a handler has taken, and whose row stands, is handed over
//     once more. One that was kept from a device that the service has logged out is lost:
//     nobody has its row, and the service does not deliver it again.
//
// A load believes memory where a row is owed, and rows elsewhere, within one term. In a new
// term it believes rows: another holder may have changed them. The exception is a message
// that a handler of this process took, where nobody has changed its row since (newer).

// owing is what the book knows of rows that are owed. The book's mutex guards it.
type owing struct {
	rows   map[book.Key]debt
	unpaid int       // how often in a row what is owed could not be written
	paidAt time.Time // when that was tried last
	loads  int       // of the store, that are under way
}

// debt is a row that is perhaps not as memory has it.
type debt struct {
	at     time.Time   // of the last change, or the last deferred write
	failed bool        // the last write of it did
	took   *book.Entry // a handler has taken the message that the row has so
}

const (
	owedFor   = 10 * time.Minute // a deferred write has landed by then, or its term is over
	owedPause = 10 * time.Minute // the longest between two tries

	lastBudget = 2 * time.Second // of a hand-over, for what is still owed
)

// owe notes that the row of a message is not as memory has it. The caller holds mu.
func (r *received) owe(k book.Key) {
	if r.m.can.book == nil {
		return // there are no rows
	}
	r.owing.owe(k, time.Now())
}

func (o *owing) owe(k book.Key, now time.Time) {
	o.put(k, debt{at: now, failed: o.rows[k].failed})
}

func (o *owing) put(k book.Key, d debt) {
	if o.rows == nil {
		o.rows = make(map[book.Key]debt)
	}
	o.rows[k] = d
}

// took notes how the row of a message stands that a handler has taken.
func (o *owing) took(was book.Entry) {
	if d, ok := o.rows[was.Key]; ok {
		d.took = &was
		o.rows[was.Key] = d
	}
}

// paid notes what came of a write of what memory has. It reports whether that failed, and
// the write before did not.
func (o *owing) paid(k book.Key, durable bool, err error, now time.Time) (fails bool) {
	d, ok := o.rows[k]
	switch {
	case err != nil:
		fails, d.failed = !d.failed, true
		if d.at.IsZero() {
			d.at = now
		}
		o.put(k, d)
	case !ok:
	case durable && o.loads == 0: // else a load may have read the row before
		delete(o.rows, k)
	default: // a deferred write proves nothing
		d.failed, d.at = d.failed && !durable, now
		o.rows[k] = d
	}
	return fails
}

// landed forgets the deferred writes that are in the store by now.
func (o *owing) landed(now time.Time) {
	for k, d := range o.rows {
		if !d.failed && now.Sub(d.at) >= owedFor && o.loads == 0 {
			delete(o.rows, k)
		}
	}
}

// nextTry is when to write again what could not be written.
func (o *owing) nextTry() time.Time {
	return o.paidAt.Add(min(time.Second<<min(o.unpaid, 10), owedPause))
}

// tried notes that what is owed was tried.
func (o *owing) tried(err error, now time.Time) {
	o.paidAt = now
	if o.unpaid++; err == nil {
		o.unpaid = 0
	}
}

// newer reports whether memory, which does not have the message, is newer than a row that
// a load has read. same: the term had read its rows before.
func (o *owing) newer(row book.Entry, same bool) bool {
	d, ok := o.rows[row.Key]
	return ok && (same || d.took != nil && d.took.First.Equal(row.First) && d.took.Last.Equal(row.Last) && d.took.Tries == row.Tries)
}

// inherit leaves what the next term has to know of what this one owes.
func (o *owing) inherit() {
	for k, d := range o.rows {
		if d.took == nil {
			delete(o.rows, k)
		}
	}
	o.unpaid, o.paidAt = 0, time.Time{}
}

// paid notes what came of a write of what memory has. The caller holds mu.
func (r *received) paid(k book.Key, durable bool, err error) {
	if r.owing.paid(k, durable, err, time.Now()) {
		r.wake.ring()
	}
}

// ahead writes a row before memory has it so. Where that fails, the row may be there all
// the same, and what memory has is owed.
func (r *received) ahead(ctx context.Context, k book.Key, rec *messageRecord) error {
	r.mu.Lock()
	term, was := r.term.number, r.owing.rows[k]
	if rec != nil {
		delete(r.owing.rows, k) // whatever that was, this row takes its place
	}
	r.mu.Unlock()
	err := r.store(ctx, k, rec, true)
	if err != nil {
		r.mu.Lock()
		if term == r.term.number {
			if was.failed { // nobody needs to hear of it once more
				r.owing.put(k, debt{at: time.Now(), failed: true})
			}
			r.paid(k, true, err)
		}
		r.mu.Unlock()
	}
	return err
}

// makeGood writes what is owed because a write failed, and says when to try again.
func (r *received) makeGood(ctx context.Context) (again time.Time) {
	now := time.Now()
	r.mu.Lock()
	owed, at := r.overdue(), r.owing.nextTry()
	if r.term.read {
		r.owing.landed(now)
	}
	r.mu.Unlock()
	if len(owed) == 0 {
		return time.Time{}
	}
	if now.Before(at) {
		return at
	}
	var err error
	for _, c := range owed {
		if err = r.write(ctx, c, true); err != nil {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owing.tried(err, time.Now())
	if err == nil {
		return time.Time{}
	}
	return r.owing.nextTry()
}

// overdue are the rows whose last write failed, once the rows are known. The caller holds mu.
func (r *received) overdue() (owed []change) {
	for k, d := range r.owing.rows {
		if r.term.read && d.failed {
			owed = append(owed, r.isNow(k))
		}
	}
	return owed
}

// lastPayment tries once more to write what is owed, at the end of a term in good order.
// Each row by itself: one that is refused would hold up the last flush.
func (r *received) lastPayment(ctx context.Context) {
	r.mu.Lock()
	owed := r.overdue()
	r.mu.Unlock()
	if len(owed) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastBudget)
	defer cancel()
	done := make(chan struct{})
	go func() { // the store does not look at ctx while it writes; the end of the device ends that
		defer close(done)
		for _, c := range owed {
			if ctx.Err() != nil {
				return
			}
			_ = r.write(ctx, c, true)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// loading notes a load until done is called.
func (r *received) loading() (done func()) {
	add := func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.owing.loads += n
	}
	add(1)
	return func() { add(-1) }
}

// debts are the rows that a load has to write. The caller holds mu.
func (r *received) debts(same bool) (owed []change) {
	for k, d := range r.owing.rows {
		if _, known := r.more[k]; same || !known && d.took != nil {
			owed = append(owed, r.isNow(k))
		} else {
			delete(r.owing.rows, k)
		}
	}
	return owed
}
