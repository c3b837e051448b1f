package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/lock"
)

// heard is one report of the listener.
type heard struct {
	snap *firestore.DocumentSnapshot
	err  error
}

// Changes listens to the lock document. It yields what the listener reports
// and, since a listener can fall silent, looks by itself when nobody has looked
// for a poll interval (WithPoll). A listener that misses what a look finds is
// replaced. It ends when ctx does, without an error, or with ErrClosed.
func (s lockStore) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		b := s.b
		w := &watch{s: s}
		defer w.stop()
		w.listen(ctx)
		poll := time.NewTimer(b.poll)
		defer poll.Stop()
		for {
			var rec lock.Record
			var err error
			select {
			case <-ctx.Done():
				return
			case <-b.life.Done():
				yield(lock.Record{}, fmt.Errorf("watch the lock: %w", ErrClosed))
				return
			case <-w.again:
				w.listen(ctx)
				continue
			case h := <-w.reports:
				if rec, err = w.hear(h); errors.Is(err, context.Canceled) && ctx.Err() != nil {
					return
				}
			case <-poll.C:
				w.replaceDeaf()
				// Those who wait for the lock look too, as often. After a tenth
				// more there is nobody else who does.
				if left := b.poll + b.poll/10 - b.sinceLook(); left > 0 {
					poll.Reset(left)
					continue
				}
				poll.Reset(b.poll)
				var h held
				h, _, err = w.s.read(ctx, "look at the lock")
				rec = h.record()
				if ctx.Err() != nil {
					return
				}
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func (b *backend) sinceLook() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.look.IsZero() {
		return 2 * b.poll
	}
	return time.Since(b.look)
}

// watch is one listener after the other.
type watch struct {
	s       lockStore
	reports chan heard
	cancel  context.CancelFunc
	done    chan struct{}
	again   <-chan time.Time // when to listen again
	pause   time.Duration

	last   time.Time // update time of the document in the last report
	missed time.Time // of the document that a look found and no report told, so far
}

// listen starts a listener, after the one before has ended.
func (w *watch) listen(ctx context.Context) {
	w.stop()
	ctx, w.cancel = context.WithCancel(ctx)
	w.reports, w.done, w.again = make(chan heard), make(chan struct{}), nil
	reports, done := w.reports, w.done
	it := w.s.b.lockDoc.Snapshots(ctx)
	go func() {
		defer close(done)
		defer it.Stop()
		for {
			snap, err := it.Next()
			select {
			case reports <- heard{snap, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
}

// stop ends the listener and waits for its goroutine.
func (w *watch) stop() {
	if w.cancel != nil {
		w.cancel()
		<-w.done
		w.cancel = nil
	}
}

// listenPause is the longest pause between two listeners; looks go on meanwhile.
const listenPause = 30 * time.Second

// later replaces the listener after a pause that grows.
func (w *watch) later() {
	w.stop()
	w.pause = min(max(2*w.pause, firstPause), listenPause)
	w.again = time.After(w.pause/2 + jitter(w.pause/2))
}

func (w *watch) hear(h heard) (lock.Record, error) {
	if h.err != nil {
		w.later()
		return lock.Record{}, w.s.b.describe(context.Background(), context.Background(), "listen to the lock", false, h.err)
	}
	w.pause = 0
	w.missed = time.Time{}
	w.last = h.snap.UpdateTime
	rec, err := heldOf(h.snap)
	return rec.record(), err
}

// replaceDeaf replaces a listener that has not told, a poll interval later,
// what somebody's look has found.
func (w *watch) replaceDeaf() {
	b := w.s.b
	b.mu.Lock()
	found := b.found
	b.mu.Unlock()
	switch {
	case !found.After(w.last):
		w.missed = time.Time{}
	case w.missed.IsZero():
		w.missed = time.Now()
	case time.Since(w.missed) >= b.poll && w.cancel != nil:
		w.missed = time.Time{}
		w.later()
	}
}
