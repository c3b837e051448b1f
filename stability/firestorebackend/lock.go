package firestorebackend

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/lock"
)

// lockStore implements lock.Store and lock.Watcher.
type lockStore struct{ b *backend }

var (
	_ lock.Store   = lockStore{}
	_ lock.Watcher = lockStore{}
)

// held is the lock document. version is its update time, by which it is
// compared and set; zero when there is no document.
type held struct {
	holder, nonce string
	epoch         int64
	lease         time.Duration
	acquiredAt    time.Time
	version       time.Time
}

func heldOf(s *firestore.DocumentSnapshot) (held, error) {
	f := fieldsOf(s)
	h := held{
		holder: f.text("holderInstanceId"), nonce: f.text("nonce"), epoch: f.number("leaseEpoch"),
		lease:      time.Duration(f.number("leaseMs")) * time.Millisecond,
		acquiredAt: f.instant("acquiredAt"), version: s.UpdateTime,
	}
	if !s.Exists() {
		return held{}, nil
	}
	if f.err == nil && (h.epoch <= 0 || h.lease < 0) {
		f.err = fmt.Errorf("%w: %s: leaseEpoch is %d and leaseMs %d", ErrDamaged, f.name, h.epoch, h.lease.Milliseconds())
	}
	return h, f.err
}

func (h held) record() lock.Record {
	if h.version.IsZero() {
		return lock.Record{}
	}
	return lock.Record{
		Holder: h.holder, Epoch: h.epoch, Lease: h.lease,
		AcquiredAt: h.acquiredAt, RenewedAt: h.version, LeaseUntil: h.version.Add(h.lease),
	}
}

func (h held) by(rec lock.Record) bool {
	return h.holder != "" && h.holder == rec.Holder && h.epoch == rec.Epoch
}

func (s lockStore) read(ctx context.Context, op string) (h held, now time.Time, err error) {
	snaps, err := s.b.get(ctx, laneLock, op, s.b.lockDoc)
	if err != nil {
		return held{}, time.Time{}, err
	}
	s.b.mu.Lock()
	s.b.look, s.b.found = time.Now(), snaps[0].UpdateTime
	s.b.mu.Unlock()
	h, err = heldOf(snaps[0])
	return h, snaps[0].ReadTime, err
}

func millis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// until is what people read in the document.
func (s lockStore) until(lease time.Duration, last time.Time) int64 {
	now, known := s.b.clock.now()
	if !known {
		now = last
	}
	return now.Add(lease).UnixMilli()
}

// Acquire reads the lock and, where it may, takes it: the lock and the fence in
// one commit, on condition that the lock is as it was read. Whether a lease has
// run out is said by the server alone, its time of the read against its time of
// the last renewal.
func (s lockStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	const op = "acquire the lock"
	if holder == "" || nonce == "" || lease <= 0 {
		return lock.Record{}, false, fmt.Errorf("firestorebackend: %s: holder %q, nonce %q, lease %v: "+
			"a term needs a holder, a nonce and a lease above zero", op, holder, nonce, lease)
	}
	pause := pauses()
	for n := 1; ; n++ {
		h, now, err := s.read(ctx, op)
		if err != nil {
			return lock.Record{}, false, forLock(err)
		}
		switch {
		case h.nonce == nonce && h.epoch > 0:
			return h.record(), h.holder == holder, nil // this attempt was decided before
		case h.holder != "" && h.holder != holder && now.Before(h.version.Add(h.lease)):
			return h.record(), false, nil
		}
		rec, err := s.take(ctx, op, h, holder, nonce, lease)
		if err == nil {
			return rec, true, nil
		}
		// Lost to another, or the reply was: the next look tells.
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return lock.Record{}, false, forLock(err)
		}
	}
}

func (s lockStore) take(ctx context.Context, op string, h held, holder, nonce string, lease time.Duration) (lock.Record, error) {
	b := s.b
	epoch := h.epoch + 1
	if h.version.IsZero() {
		// No lock document: never taken, or somebody deleted it. The fence
		// still knows which epochs are used up.
		f, _, err := b.readFence(ctx, laneLock, op)
		if err != nil {
			return lock.Record{}, err
		}
		epoch = f.epoch + 1
	}
	batch := b.client.Batch() //nolint:staticcheck // see fenced
	fields := map[string]any{
		"holderInstanceId": holder, "nonce": nonce, "leaseEpoch": epoch, "leaseMs": millis(lease),
		"leaseUntil": s.until(lease, h.version), "acquiredAt": firestore.ServerTimestamp, "updatedAt": firestore.ServerTimestamp,
	}
	if h.version.IsZero() {
		batch.Create(b.lockDoc, fields)
	} else {
		batch.Update(b.lockDoc, updates(fields), firestore.LastUpdateTime(h.version))
	}
	batch.Set(b.fenceDoc, fenceFields(epoch, false))
	var at time.Time
	err := b.call(ctx, laneLock, op, func(ctx context.Context, _ func()) error {
		res, err := batch.Commit(ctx)
		if err == nil {
			at = res[0].UpdateTime
			b.granted(epoch, res[1].UpdateTime)
		}
		return err
	})
	if err != nil {
		return lock.Record{}, err
	}
	b.clock.saw(at)
	return lock.Record{Holder: holder, Epoch: epoch, Lease: lease, AcquiredAt: at, RenewedAt: at, LeaseUntil: at.Add(lease)}, nil
}

func updates(fields map[string]any) []firestore.Update {
	out := make([]firestore.Update, 0, len(fields))
	for name, v := range fields {
		out = append(out, firestore.Update{FieldPath: firestore.FieldPath{name}, Value: v})
	}
	return out
}

// onHeld writes on condition that the lock document still is as rec says: its
// update time is rec.RenewedAt. Where it is not, a look tells whether the term
// goes on (a reply was lost) or is over: gone is true then, and now is what was
// found.
func (s lockStore) onHeld(ctx context.Context, op string, rec lock.Record,
	write func(ctx context.Context, version time.Time) error,
) (now held, gone bool, err error) {
	version := rec.RenewedAt.Truncate(time.Microsecond)
	var looked bool // because Firestore refused the write as invalid
	pause := pauses()
	for n := 1; ; n++ {
		if version.IsZero() {
			if now, _, err = s.read(ctx, op); err != nil {
				return held{}, false, forLock(err)
			}
			if !now.by(rec) {
				return now, true, nil
			}
			version = now.version
		}
		err = s.b.call(ctx, laneLock, op, func(ctx context.Context, _ func()) error { return write(ctx, version) })
		if err == nil {
			return held{}, false, nil
		}
		switch {
		case lostRace(err) && !aborted(err):
			version = time.Time{}
		case invalid(err) && !looked:
			// So Firestore answers a version later than that of the document:
			// an older one was put back by an import.
			version, looked = time.Time{}, true
			continue
		}
		if hopeless(err) || ctx.Err() != nil || n >= tries || !pause(ctx) {
			return held{}, false, forLock(err)
		}
	}
}

// Renew is one request and one document: the lock, on condition that it is as
// it was. The time of renewal is the server's, so each renewal is a change.
func (s lockStore) Renew(ctx context.Context, rec lock.Record) (lock.Record, error) {
	const op = "renew the lock"
	var at time.Time
	now, gone, err := s.onHeld(ctx, op, rec, func(ctx context.Context, version time.Time) error {
		fields := map[string]any{"leaseUntil": s.until(rec.Lease, version), "updatedAt": firestore.ServerTimestamp}
		if rec.Lease > 0 {
			fields["leaseMs"] = millis(rec.Lease)
		}
		res, err := s.b.lockDoc.Update(ctx, updates(fields), firestore.LastUpdateTime(version))
		if err == nil {
			at = res.UpdateTime
		}
		return err
	})
	switch {
	case err != nil:
		return lock.Record{}, err
	case gone:
		return now.record(), fmt.Errorf("firestorebackend: renew epoch %d, the newest is %d of %q: %w", rec.Epoch, now.epoch, now.holder, lock.ErrLost)
	}
	s.b.clock.saw(at)
	rec.RenewedAt, rec.LeaseUntil = at, at.Add(rec.Lease)
	return rec, nil
}

// Release frees the lock and closes the fence behind the term: what is still on
// its way then writes no more.
func (s lockStore) Release(ctx context.Context, rec lock.Record) error {
	b := s.b
	_, _, err := s.onHeld(ctx, "release the lock", rec, func(ctx context.Context, version time.Time) error {
		batch := b.client.Batch() //nolint:staticcheck // see fenced
		batch.Update(b.lockDoc, updates(map[string]any{
			"holderInstanceId": "", "leaseUntil": int64(0), "updatedAt": firestore.ServerTimestamp,
		}), firestore.LastUpdateTime(version))
		batch.Set(b.fenceDoc, fenceFields(rec.Epoch, true))
		_, err := batch.Commit(ctx)
		return err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ses != nil && b.ses.epoch == rec.Epoch {
		b.ses = nil
	}
	return nil
}

// Load reads the lock document.
func (s lockStore) Load(ctx context.Context) (lock.Record, error) {
	h, _, err := s.read(ctx, "load the lock")
	if err != nil {
		return lock.Record{}, forLock(err)
	}
	return h.record(), nil
}
