package firestorebackend

import (
	"cmp"
	"context"
	"errors"
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
	term
	holder     string
	lease      time.Duration
	acquiredAt time.Time // for people
	version    time.Time
}

// heldOf reads the lock document. Of a damaged one it gives what can be read,
// beside ErrDamaged.
func heldOf(s *firestore.DocumentSnapshot) (held, error) {
	if !s.Exists() {
		return held{}, nil
	}
	f := fieldsOf(s)
	h := held{term: term{f.number("leaseEpoch"), f.text("nonce")}, holder: f.text("holderInstanceId"), version: s.UpdateTime}
	_, hasHolder := f.m["holderInstanceId"].(string)
	f.want(hasHolder, "holderInstanceId is missing: of a free lock it is empty")
	f.want(possibleEpoch(h.epoch), "leaseEpoch is %d", h.epoch)
	ms := f.number("leaseMs")
	if f.want(possibleLease(ms), "leaseMs is %d", ms); possibleLease(ms) {
		h.lease = time.Duration(ms) * time.Millisecond
	}
	h.acquiredAt, _ = f.m["acquiredAt"].(time.Time)
	return h, f.err
}

const (
	maxEpoch = 1 << 53 // no account has so many terms, and others count in floating point
	maxLease = 31 * 24 * time.Hour
)

func possibleEpoch(n int64) bool  { return n > 0 && n < maxEpoch }
func possibleLease(ms int64) bool { return ms > 0 && ms <= maxLease.Milliseconds() }

func (h held) record() lock.Record {
	if h.version.IsZero() {
		return lock.Record{}
	}
	return lock.Record{
		Holder: h.holder, Epoch: h.epoch, Lease: h.lease,
		AcquiredAt: h.acquiredAt, RenewedAt: h.version, LeaseUntil: h.version.Add(h.lease),
	}
}

// ours says whether the lock document is that of our term. damage is what
// heldOf found wrong with it: then the nonce is enough, and whoever holds the
// lock repairs the document.
func (s lockStore) ours(h held, damage error, rec lock.Record) bool {
	nonce, known := s.b.nonceOf(rec.Epoch)
	known = known && nonce != ""
	switch {
	case known && h.nonce != "" && h.nonce != nonce:
		return false // another term has this epoch, since somebody removed both documents
	case h.holder != "" && h.holder == rec.Holder && h.epoch == rec.Epoch:
		return true
	}
	return damage != nil && known && h.nonce == nonce
}

// read gives the lock document, and the server's time.
func (s lockStore) read(ctx context.Context, op string) (h held, now time.Time, err error) {
	snaps, err := s.b.get(ctx, laneLock, op, s.b.lockDoc)
	if err != nil {
		return held{}, time.Time{}, err
	}
	h, err = heldOf(snaps[0])
	s.b.sawLock(h)
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
// one commit, on condition that the lock is as it was read. The server alone decides
// whether a lease has run out: its time of the read is compared with its time of
// the last renewal.
func (s lockStore) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (rec lock.Record, granted bool, err error) {
	const op = "acquire the lock"
	if holder == "" || nonce == "" || lease <= 0 || lease > maxLease {
		return lock.Record{}, false, fmt.Errorf("firestorebackend: %s: holder %q, nonce %q, lease %v: "+
			"a term needs a holder, a nonce and a lease above zero and of at most %v", op, holder, nonce, lease, maxLease)
	}
	defer s.b.judge(op, &err)
	pause := pauses()
	for n := 1; ; n++ {
		h, now, err := s.read(ctx, op)
		if err != nil {
			return lock.Record{}, false, err
		}
		switch {
		case h.nonce == nonce: // this attempt was decided before
			s.b.expect(h.term, h.version)
			return h.record(), h.holder == holder, nil
		case h.holder != "" && (h.holder != holder || s.b.over(h.nonce)) && now.Before(h.version.Add(h.lease)):
			return h.record(), false, nil
		}
		rec, granted, err := s.take(ctx, op, h, now, holder, nonce, lease)
		if err == nil {
			return rec, granted, nil
		}
		// Lost to another, or the reply was: the next look tells.
		if hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return lock.Record{}, false, err
		}
	}
}

// take begins a term, unless the fence says that another may go on. A lock
// document without a holder, or none, is no proof that nobody holds the lock:
// somebody may have removed it under a living holder. Only a release, a lease
// that has run out, or an account that is new is proof.
func (s lockStore) take(ctx context.Context, op string, h held, now time.Time, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	b := s.b
	f, token, err := b.readFence(ctx, laneLock, op)
	if err != nil {
		return lock.Record{}, false, err
	}
	missing := h.version.IsZero()
	// A lock document that is older than the fence was put back by somebody, and
	// so was that of a term of ours that another has followed.
	own := h.holder == holder && h.epoch >= f.epoch && !b.over(h.nonce) ||
		h.holder == "" && f.holder == holder && f.epoch >= h.epoch && !b.over(f.nonce)
	released := h.holder == "" && f.released && f.epoch >= h.epoch
	switch {
	case own, released:
	case missing && f.epoch == 0:
		used, err := s.used(ctx, op)
		if err != nil {
			return lock.Record{}, false, err
		}
		if used {
			// No count of terms has reached this number, so no epoch comes twice.
			return s.holdOff(ctx, op, now, now.Unix(), lease, "unknown")
		}
	case missing:
		return s.holdOff(ctx, op, now, f.epoch, max(lease, f.lease), f.holder)
	default:
		last := h.lease
		if f.epoch >= h.epoch {
			last = max(last, f.lease)
		}
		if now.Before(h.version.Add(last)) {
			rec := h.record()
			rec.Lease, rec.LeaseUntil = last, h.version.Add(last)
			rec.Holder = cmp.Or(h.holder, f.holder, "unknown")
			return rec, false, nil
		}
	}
	t := term{max(h.epoch, f.epoch) + 1, nonce}
	batch := b.client.Batch() //nolint:staticcheck // see fenced
	fields := map[string]any{
		"holderInstanceId": holder, "nonce": nonce, "leaseEpoch": t.epoch, "leaseMs": millis(lease),
		"leaseUntil": s.until(lease, h.version), "acquiredAt": firestore.ServerTimestamp, "updatedAt": firestore.ServerTimestamp,
	}
	fence := fenceFields(t, holder, lease, false)
	switch {
	case !missing:
		batch.Update(b.lockDoc, updates(fields), firestore.LastUpdateTime(h.version))
		batch.Set(b.fenceDoc, fence)
	case f.epoch == 0:
		batch.Create(b.lockDoc, fields)
		batch.Create(b.fenceDoc, fence)
	default:
		// A lock that is missing can be missing again later. The fence as it was
		// never comes again.
		fence["released"], fence["lastWrite"] = firestore.Delete, firestore.Delete
		batch.Create(b.lockDoc, fields)
		batch.Update(b.fenceDoc, updates(fence), firestore.LastUpdateTime(token))
	}
	var at time.Time
	err = b.write(ctx, laneLock, op, func(ctx context.Context) error {
		res, err := batch.Commit(ctx)
		if err == nil {
			at = res[0].UpdateTime
			b.granted(t, at, res[1].UpdateTime)
		}
		return err
	})
	if err != nil {
		return lock.Record{}, false, err
	}
	b.clock.saw(at)
	return lock.Record{Holder: holder, Epoch: t.epoch, Lease: lease, AcquiredAt: at, RenewedAt: at, LeaseUntil: at.Add(lease)}, true, nil
}

// used says whether the account has a device. Only a new account has neither a
// lock nor a fence by itself.
func (s lockStore) used(ctx context.Context, op string) (bool, error) {
	snaps, err := s.b.get(ctx, laneLock, op+": look for a device", s.b.credsDoc)
	if err != nil {
		return false, err
	}
	return snaps[0].Exists(), nil
}

// holdOff puts a lock document without a holder where somebody removed it. From
// now on the lease runs in which a holder that goes on finds out.
func (s lockStore) holdOff(ctx context.Context, op string, now time.Time, epoch int64, lease time.Duration, holder string) (lock.Record, bool, error) {
	b := s.b
	var at time.Time
	err := b.write(ctx, laneLock, op+": after it was removed", func(ctx context.Context) error {
		res, err := b.lockDoc.Create(ctx, map[string]any{
			"holderInstanceId": "", "nonce": "", "leaseEpoch": epoch, "leaseMs": millis(lease),
			"leaseUntil": s.until(lease, now), "acquiredAt": firestore.ServerTimestamp, "updatedAt": firestore.ServerTimestamp,
		})
		if err == nil {
			at = res.UpdateTime
		}
		return err
	})
	if err != nil {
		return lock.Record{}, false, err
	}
	b.clock.saw(at)
	return lock.Record{Holder: cmp.Or(holder, "unknown"), Epoch: epoch, Lease: lease, RenewedAt: at, LeaseUntil: at.Add(lease)}, false, nil
}

func updates(fields map[string]any) []firestore.Update {
	out := make([]firestore.Update, 0, len(fields))
	for name, v := range fields {
		out = append(out, firestore.Update{FieldPath: firestore.FieldPath{name}, Value: v})
	}
	return out
}

// onHeld writes on condition that the lock document still is as rec says: its
// update time is rec.RenewedAt. If it is not, a look tells whether the term
// goes on (a reply was lost, somebody edited the document) or is over: lost is
// true then, and now is the record that was found.
func (s lockStore) onHeld(ctx context.Context, op string, rec lock.Record,
	write func(ctx context.Context, version time.Time) error,
) (now held, lost bool, err error) {
	version := rec.RenewedAt.Truncate(time.Microsecond)
	var looked bool // because Firestore refused the write as invalid
	pause := pauses()
	for n := 1; ; n++ {
		if version.IsZero() {
			now, _, err = s.read(ctx, op)
			switch mine := s.ours(now, err, rec); {
			case err != nil && !(mine && errors.Is(err, ErrDamaged)):
				return held{}, false, err
			case !mine:
				return now, true, nil
			}
			version = now.version
		}
		err = s.b.write(ctx, laneLock, op, func(ctx context.Context) error { return write(ctx, version) })
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
			return held{}, false, err
		}
	}
}

// fields are what every write of the holder says again, so that it repairs what
// somebody edited.
func (s lockStore) fields(rec lock.Record) map[string]any {
	m := map[string]any{"holderInstanceId": rec.Holder, "leaseEpoch": rec.Epoch, "updatedAt": firestore.ServerTimestamp}
	if rec.Lease > 0 {
		m["leaseMs"] = millis(rec.Lease)
	}
	if nonce, known := s.b.nonceOf(rec.Epoch); known && nonce != "" {
		m["nonce"] = nonce
	}
	return m
}

// Renew is one request and one document: the lock, on condition that it is as
// it was. The time of renewal is the server's, so each renewal is a change.
func (s lockStore) Renew(ctx context.Context, rec lock.Record) (renewed lock.Record, err error) {
	const op = "renew the lock"
	defer s.b.judge(op, &err)
	var at time.Time
	now, lost, err := s.onHeld(ctx, op, rec, func(ctx context.Context, version time.Time) error {
		fields := s.fields(rec)
		fields["leaseUntil"] = s.until(rec.Lease, version)
		res, err := s.b.lockDoc.Update(ctx, updates(fields), firestore.LastUpdateTime(version))
		if err == nil {
			at = res.UpdateTime
		}
		return err
	})
	switch {
	case err != nil:
		return lock.Record{}, err
	case lost:
		return now.record(), fmt.Errorf("firestorebackend: renew epoch %d, the newest is %d of %q: %w", rec.Epoch, now.epoch, now.holder, lock.ErrLost)
	}
	s.b.clock.saw(at)
	rec.RenewedAt, rec.LeaseUntil = at, at.Add(rec.Lease)
	return rec, nil
}

// Release frees the lock and closes the fence behind the term: a request that
// is still on its way then writes no more.
func (s lockStore) Release(ctx context.Context, rec lock.Record) (err error) {
	const op = "release the lock"
	defer s.b.judge(op, &err)
	b := s.b
	nonce, _ := b.nonceOf(rec.Epoch)
	_, _, err = s.onHeld(ctx, op, rec, func(ctx context.Context, version time.Time) error {
		fields := s.fields(rec)
		fields["holderInstanceId"], fields["leaseUntil"] = "", int64(0)
		batch := b.client.Batch() //nolint:staticcheck // see fenced
		batch.Update(b.lockDoc, updates(fields), firestore.LastUpdateTime(version))
		batch.Set(b.fenceDoc, fenceFields(term{rec.Epoch, nonce}, rec.Holder, rec.Lease, true))
		_, err := batch.Commit(ctx)
		return err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer != nil && b.writer.epoch == rec.Epoch {
		b.writer = nil
	}
	return nil
}

// Load reads the lock document.
func (s lockStore) Load(ctx context.Context) (_ lock.Record, err error) {
	const op = "load the lock"
	defer s.b.judge(op, &err)
	h, _, err := s.read(ctx, op)
	if err != nil {
		return lock.Record{}, err
	}
	return h.record(), nil
}
