package firestorebackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
)

// writer is one term as this backend writes in it. Its token is the update
// time of the fence document, which moves with each commit of the term, and when
// a term begins or ends. The one who knows the token is the only writer, which
// makes it safe to remember how full a bucket is. Fields are guarded by
// backend.mu.
type writer struct {
	term
	token   time.Time
	unclear bool // a write of this term may yet arrive
	stateOK bool // the stored state has a format that this library may replace
	know    knowledge
}

// term names a term as the fence does. Epochs alone can come again, if somebody
// removes the documents of the lock; the nonce of an acquisition never does. It
// is empty where an older library acquired.
type term struct {
	epoch int64
	nonce string
}

// fenced is the one way in which anything is written under a term: a single
// request whose writes land together or not at all, and only while the fence
// document is as it was. The request changes the fence too, to a name of its
// own. So it lands once at most, however often and however late it arrives, and
// never behind one that was sent after it. The result is the next token.
func (b *backend) fenced(ctx context.Context, token time.Time, name string, fill func(*firestore.WriteBatch)) (next time.Time, err error) {
	batch := b.client.Batch() //nolint:staticcheck // the only atomic commit of the client that takes one request
	batch.Update(b.fenceDoc, []firestore.Update{{Path: "lastWrite", Value: name}}, firestore.LastUpdateTime(token))
	fill(batch)
	res, err := batch.Commit(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return res[0].UpdateTime, nil
}

// attempt is one commit under the fence. It is sent until it is known what
// became of it, each time as the same request.
type attempt struct {
	w     *writer
	token time.Time
	name  string
	add   func(*firestore.WriteBatch)
}

// underFence writes what fill adds, only while epoch is the newest and its term
// was not released. It repeats until the outcome is known, within bounds. fill
// may read; undo is told that what fill added is not known to have landed.
// Commits come one after the other, those of the session and of the state
// alike: each needs the token that the one before it has left.
func (b *backend) underFence(ctx context.Context, l lane, op string, epoch int64,
	fill func(ctx context.Context, w *writer) (func(*firestore.WriteBatch), error), undo func(w *writer),
) error {
	select {
	case b.commit <- struct{}{}:
		defer func() { <-b.commit }()
	case <-ctx.Done():
		return fmt.Errorf("firestorebackend: %s: %w", op, ctx.Err())
	}
	var a *attempt // nil while nothing is on its way
	pause := pauses()
	for n := 1; ; n++ {
		var err error
		if a == nil {
			w, err2 := b.writerOf(ctx, l, op, epoch)
			if err2 != nil {
				return err2
			}
			if err = b.settle(ctx, l, op, w); err == nil {
				add, err := fill(ctx, w)
				if err != nil {
					return err
				}
				a = &attempt{w: w, token: b.tokenOf(w), name: rand.Text(), add: add}
			}
		}
		if a != nil {
			var over bool
			if over, err = b.send(ctx, l, op, a); err == nil {
				return nil
			}
			if over { // and did not land; writerOf decides whether the term goes on
				b.forget(a.w)
				undo(a.w)
				a = nil
			}
		}
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			if a != nil {
				b.mu.Lock()
				a.w.unclear = true
				b.mu.Unlock()
				undo(a.w)
			}
			return err
		}
	}
}

// send makes one request of an attempt. over says that the attempt never lands
// any more, and has not landed: somebody else has moved the fence. A refusal
// alone does not say that: the client repeats by itself what it got no answer
// to, and then the second request is refused because the first one landed. The
// name in the fence tells.
func (b *backend) send(ctx context.Context, l lane, op string, a *attempt) (over bool, err error) {
	var next time.Time
	err = b.write(ctx, l, op, func(ctx context.Context) (err error) {
		next, err = b.fenced(ctx, a.token, a.name, a.add)
		return err
	})
	if err == nil {
		b.advance(a.w, next)
		return false, nil
	}
	if aborted(err) || !lostRace(err) && !invalid(err) {
		return false, err // as if there were no answer: an earlier request may still be on its way
	}
	f, now, err2 := b.readFence(ctx, l, op)
	switch {
	case err2 != nil:
		return false, err2
	case f.lastWrite == a.name:
		b.advance(a.w, now)
		return false, nil
	case !invalid(err):
		return true, err
	case now.Equal(a.token):
		return false, err // refused for what is in it
	}
	return true, putBack(op) // the stored fence is an older one
}

// putBack is not the refusal itself, which is permanent.
func putBack(op string) error {
	return fmt.Errorf("%w: %s: the fence document is older than it was: somebody has put it back", ErrUnavailable, op)
}

func (b *backend) advance(w *writer, token time.Time) {
	b.clock.saw(token)
	b.mu.Lock()
	defer b.mu.Unlock()
	w.token, w.unclear = token, false
}

func (b *backend) tokenOf(w *writer) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return w.token
}

// granted makes the writer of a term that the server has just granted here: it
// counts, also after a higher epoch, whose documents somebody deleted.
func (b *backend) granted(t term, at, token time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writer, b.newest, b.grantedAt = &writer{term: t, token: token}, t, at
}

// expect names a term that was granted here, by what the lock document says.
// Its writer is made when something is written.
func (b *backend) expect(t term, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest, b.grantedAt = t, at
}

// maxEnded bounds the memory of terms that are over.
const maxEnded = 64

// sawLock takes what a look at the lock document found. A later document of
// another term means that the one that was granted here is over for good: if its
// document stands there again, somebody has put it back.
func (b *backend) sawLock(h held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look, b.found = time.Now(), h.version
	if n := b.newest.nonce; n != "" && !b.grantedAt.IsZero() && h.version.After(b.grantedAt) && h.nonce != n {
		b.ended = append(b.ended, n)
		b.ended = b.ended[max(0, len(b.ended)-maxEnded):]
		b.grantedAt = time.Time{}
	}
}

// over says whether a term was granted here, and ended.
func (b *backend) over(nonce string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.ended, nonce)
}

// adopt makes the writer of a term that was granted elsewhere. A newer one,
// granted here meanwhile, stays.
func (b *backend) adopt(t term, token time.Time) *writer {
	w := &writer{term: t, token: token}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil || b.writer.epoch <= t.epoch {
		b.writer, b.newest = w, t
	}
	return w
}

func (b *backend) forget(w *writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == w {
		b.writer = nil
	}
}

// nonceOf is the nonce of the term that this backend knows by this epoch. It
// outlives the writer.
func (b *backend) nonceOf(epoch int64) (nonce string, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest.nonce, b.newest.epoch == epoch && epoch > 0
}

// writerOf gives the writer of an epoch. If Acquire did not leave it here, the
// fence is read, and moved, so that nobody else writes in this term.
func (b *backend) writerOf(ctx context.Context, l lane, op string, epoch int64) (*writer, error) {
	b.mu.Lock()
	w := b.writer
	b.mu.Unlock()
	switch {
	case w != nil && w.epoch == epoch:
		return w, nil
	case w != nil && w.epoch > epoch:
		return nil, fenceError(op, epoch, fmt.Sprintf("the newest is %d", w.epoch))
	case epoch <= 0:
		return nil, fenceError(op, epoch, "epochs begin at 1")
	}
	pause := pauses()
	for n := 1; ; n++ {
		f, token, err := b.readFence(ctx, l, op)
		if err != nil {
			return nil, err
		}
		nonce, known := b.nonceOf(epoch)
		switch {
		case f.epoch == 0:
			return nil, fenceError(op, epoch, "the fence document is missing; the next term writes another")
		case f.epoch != epoch:
			return nil, fenceError(op, epoch, fmt.Sprintf("the newest is %d", f.epoch))
		case f.released:
			return nil, fenceError(op, epoch, "it was released")
		case known && nonce != f.nonce:
			return nil, fenceError(op, epoch, "another term has the same epoch, since somebody removed the documents of the lock")
		}
		moved, err := b.moveFence(ctx, l, op, token)
		if err == nil {
			return b.adopt(f.term, moved), nil
		}
		if invalid(err) {
			err = putBack(op)
		}
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return nil, err
		}
	}
}

func fenceError(op string, epoch int64, why string) error {
	return fmt.Errorf("firestorebackend: %s with epoch %d: %s: %w", op, epoch, why, authstore.ErrFenced)
}

// settle moves the fence after a write whose outcome is not known. Requests
// that are still on their way then come too late, and cannot undo something
// newer.
func (b *backend) settle(ctx context.Context, l lane, op string, w *writer) error {
	b.mu.Lock()
	unclear, token := w.unclear, w.token
	b.mu.Unlock()
	if !unclear {
		return nil
	}
	moved, err := b.moveFence(ctx, l, op, token)
	switch {
	case err == nil:
		b.advance(w, moved)
	case lostRace(err) && !aborted(err):
		b.forget(w) // the write has landed after all, or somebody else's: writerOf tells
	case invalid(err):
		b.forget(w)
		return putBack(op)
	}
	return err
}

// moveFence changes nothing but the fence document, and so its token.
func (b *backend) moveFence(ctx context.Context, l lane, op string, token time.Time) (moved time.Time, err error) {
	op += ": move the fence"
	name := rand.Text()
	err = b.write(ctx, l, op, func(ctx context.Context) (err error) {
		moved, err = b.fenced(ctx, token, name, func(*firestore.WriteBatch) {})
		return err
	})
	if err != nil && lostRace(err) && !aborted(err) {
		// The request before this one may have landed without its reply.
		if f, now, err2 := b.readFence(ctx, l, op); err2 == nil && f.lastWrite == name {
			return now, nil
		}
	}
	return moved, err
}

// fence is the fence document.
type fence struct {
	term
	released  bool
	lastWrite string        // name of the last commit
	holder    string        // who acquired the term; "" where an older library did
	lease     time.Duration // as at the acquisition; 0 where that is not known
}

func (b *backend) readFence(ctx context.Context, l lane, op string) (fence, time.Time, error) {
	snaps, err := b.get(ctx, l, op+": read the fence", b.fenceDoc)
	if err != nil {
		return fence{}, time.Time{}, err
	}
	f, err := fenceOf(snaps[0])
	return f, snaps[0].UpdateTime, err
}

// fenceOf reads the fence document. None is the zero fence.
func fenceOf(s *firestore.DocumentSnapshot) (fence, error) {
	if !s.Exists() {
		return fence{}, nil
	}
	fs := fieldsOf(s)
	f := fence{term: term{fs.number("epoch"), fs.text("nonce")}, released: fs.flag("released")}
	fs.want(possibleEpoch(f.epoch), "epoch is %d", f.epoch)
	// The rest is never needed.
	f.lastWrite, _ = fs.m["lastWrite"].(string)
	f.holder, _ = fs.m["holderInstanceId"].(string)
	if ms, _ := fs.m["leaseMs"].(int64); possibleLease(ms) {
		f.lease = time.Duration(ms) * time.Millisecond
	}
	return f, fs.err
}

// fenceFields is the whole fence document as a term begins or ends.
func fenceFields(t term, holder string, lease time.Duration, released bool) map[string]any {
	m := map[string]any{
		"epoch": t.epoch, "nonce": t.nonce, "holderInstanceId": holder, "leaseMs": millis(lease), "updatedAt": firestore.ServerTimestamp,
	}
	if released {
		m["released"] = true
	}
	return m
}

var _ = lock.ErrFenced // authstore.ErrFenced is this value
