package firestorebackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
)

// session is one term as this backend writes in it. Its token is the update
// time of the fence document, which only moves when a term begins or ends, and
// when somebody makes sure that no older write of the same term is still on its
// way. Whoever knows the token is the only writer: that is what makes it safe
// to remember how full a bucket is. Fields are guarded by backend.mu.
type session struct {
	epoch   int64
	token   time.Time
	unclear bool // a write of this session may yet arrive
	stateOK bool // the stored state has a format that this library may replace
	know    knowledge
}

// fenced is the one way in which anything is written under a term: a single
// request whose writes land together or not at all, and only while the fence
// document is as it was. Deleting a field that is not there changes nothing,
// the document's update time included, so the fence never moves by itself.
func (b *backend) fenced(ctx context.Context, token time.Time, fill func(*firestore.WriteBatch)) error {
	batch := b.client.Batch() //nolint:staticcheck // the only atomic commit of the client that takes one request
	batch.Update(b.fenceDoc, []firestore.Update{{Path: "_", Value: firestore.Delete}}, firestore.LastUpdateTime(token))
	fill(batch)
	_, err := batch.Commit(ctx)
	return err
}

// underFence writes what fill adds, only while epoch is the newest and its term
// was not released. It repeats until the outcome is known, within bounds. fill
// may read; undo is told that an attempt failed, whatever became of it.
func (b *backend) underFence(ctx context.Context, l lane, op string, epoch int64,
	fill func(ctx context.Context, s *session) (func(*firestore.WriteBatch), error), undo func(s *session),
) error {
	pause := pauses()
	for n := 1; ; n++ {
		s, err := b.sessionOf(ctx, l, op, epoch)
		if err != nil {
			return err
		}
		if err = b.settle(ctx, l, op, s); err == nil {
			var add func(*firestore.WriteBatch)
			if add, err = fill(ctx, s); err != nil {
				return err
			}
			err = b.call(ctx, l, op, func(ctx context.Context, _ func()) error {
				return b.fenced(ctx, b.tokenOf(s), add)
			})
			if err == nil {
				return nil
			}
			undo(s)
			if !lostRace(err) || aborted(err) {
				// The client repeats by itself, so ABORTED may be the answer to
				// a repetition while the first attempt is still on its way.
				b.mu.Lock()
				s.unclear = true
				b.mu.Unlock()
			}
		}
		if lostRace(err) && !aborted(err) {
			// The fence moved. Who moved it decides sessionOf.
			b.forget(s)
		}
		if invalid(err) {
			err = b.askedOfAnother(ctx, l, op, s, err)
		}
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return err
		}
	}
}

// askedOfAnother tells a write that Firestore refuses for what is in it from one
// that names a token later than the fence: then the stored fence is an older
// one, put back by an import, and the session is over.
func (b *backend) askedOfAnother(ctx context.Context, l lane, op string, s *session, err error) error {
	_, token, err2 := b.readFence(ctx, l, op)
	switch {
	case err2 != nil:
		return err2
	case token.Equal(b.tokenOf(s)):
		return err
	}
	b.forget(s)
	return putBack(op)
}

// putBack is not the refusal itself, which is permanent.
func putBack(op string) error {
	return fmt.Errorf("%w: %s: the fence document is older than it was: somebody has put it back", ErrUnavailable, op)
}

func (b *backend) tokenOf(s *session) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.token
}

// granted begins the session of a term that the server has just granted here:
// it counts, also after a higher epoch, whose documents somebody deleted.
func (b *backend) granted(epoch int64, token time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ses = &session{epoch: epoch, token: token}
}

// adopt begins the session of a term that was granted elsewhere. A newer one,
// granted here meanwhile, stays.
func (b *backend) adopt(epoch int64, token time.Time) *session {
	s := &session{epoch: epoch, token: token}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ses == nil || b.ses.epoch <= epoch {
		b.ses = s
	}
	return s
}

func (b *backend) forget(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ses == s {
		b.ses = nil
	}
}

// sessionOf gives the session of an epoch. What Acquire did not leave here is
// read; then the fence is moved, so that nobody else writes in the session.
func (b *backend) sessionOf(ctx context.Context, l lane, op string, epoch int64) (*session, error) {
	b.mu.Lock()
	s := b.ses
	b.mu.Unlock()
	switch {
	case s != nil && s.epoch == epoch:
		return s, nil
	case s != nil && s.epoch > epoch:
		return nil, fenceError(op, epoch, fmt.Sprintf("the newest is %d", s.epoch))
	case epoch <= 0:
		return nil, fenceError(op, epoch, "epochs begin at 1")
	}
	pause := pauses()
	for n := 1; ; n++ {
		f, token, err := b.readFence(ctx, l, op)
		switch {
		case err != nil:
			return nil, err
		case f.epoch != epoch:
			return nil, fenceError(op, epoch, fmt.Sprintf("the newest is %d", f.epoch))
		case f.released:
			return nil, fenceError(op, epoch, "it was released")
		}
		moved, err := b.moveFence(ctx, l, op, token)
		if err == nil {
			return b.adopt(epoch, moved), nil
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

// settle moves the fence after a write whose outcome is not known: whatever of
// it is still on its way then comes too late, and cannot undo something newer.
func (b *backend) settle(ctx context.Context, l lane, op string, s *session) error {
	b.mu.Lock()
	unclear, token := s.unclear, s.token
	b.mu.Unlock()
	if !unclear {
		return nil
	}
	moved, err := b.moveFence(ctx, l, op, token)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.token, s.unclear = moved, false
	return nil
}

// moveFence really changes the fence document, and so its token.
func (b *backend) moveFence(ctx context.Context, l lane, op string, token time.Time) (moved time.Time, err error) {
	err = b.call(ctx, l, op+": move the fence", func(ctx context.Context, _ func()) error {
		res, err := b.fenceDoc.Update(ctx, []firestore.Update{{Path: "settled", Value: rand.Text()}}, firestore.LastUpdateTime(token))
		if err == nil {
			moved = res.UpdateTime
		}
		return err
	})
	if err == nil {
		b.clock.saw(moved)
	}
	return moved, err
}

type fence struct {
	epoch    int64
	released bool
}

func (b *backend) readFence(ctx context.Context, l lane, op string) (fence, time.Time, error) {
	snaps, err := b.get(ctx, l, op+": read the fence", b.fenceDoc)
	if err != nil {
		return fence{}, time.Time{}, err
	}
	f, err := fenceOf(snaps[0])
	return f, snaps[0].UpdateTime, err
}

func fenceOf(s *firestore.DocumentSnapshot) (fence, error) {
	fs := fieldsOf(s)
	f := fence{fs.number("epoch"), fs.flag("released")}
	if fs.err != nil {
		return fence{}, fs.err
	}
	return f, nil
}

// fenceFields is the whole fence document.
func fenceFields(epoch int64, released bool) map[string]any {
	m := map[string]any{"epoch": epoch, "updatedAt": firestore.ServerTimestamp}
	if released {
		m["released"] = true
	}
	return m
}

var _ = lock.ErrFenced // authstore.ErrFenced is this value
