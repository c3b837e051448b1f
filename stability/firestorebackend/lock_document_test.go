package firestorebackend

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// A deleted lock document frees the lock, and epochs go on.
func TestEpochsGoOnAfterTheLockDocumentIsDeleted(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	b := opened(t, c)
	hold(t, b)
	rec := hold(t, b)
	require.EqualValues(t, 2, rec.Epoch)
	_, err := c.Doc(DefaultRoot + "/locks/wa_connection").Delete(t.Context())
	require.NoError(t, err)
	_, err = b.Lock.Renew(t.Context(), rec)
	require.ErrorIs(t, err, lock.ErrLost)
	next := hold(t, opened(t, c))
	require.EqualValues(t, 3, next.Epoch)
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")), authstore.ErrFenced)

	_, err = c.Doc(DefaultRoot+"/locks/wa_connection").Update(t.Context(), []firestore.Update{{Path: "leaseEpoch", Value: "three"}})
	require.NoError(t, err)
	_, err = b.Lock.Load(t.Context())
	require.ErrorIs(t, err, ErrDamaged)
}

// Both lock documents deleted by hand: epochs begin anew, and the term that is
// granted then is the one that counts, also to a backend that knows a higher
// epoch.
func TestAGrantCountsAfterBothLockDocumentsAreDeleted(t *testing.T) {
	t.Parallel()
	c := onSim(t, sim(t))
	b := opened(t, c)
	hold(t, b)
	old := hold(t, b)
	require.EqualValues(t, 2, old.Epoch)
	require.NoError(t, b.Auth.Commit(t.Context(), old.Epoch, put("a", "0")))
	for _, id := range []string{"wa_connection", "wa_connection_fence"} {
		_, err := c.Doc(DefaultRoot + "/locks/" + id).Delete(t.Context())
		require.NoError(t, err)
	}
	rec := hold(t, b)
	require.EqualValues(t, 1, rec.Epoch)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 1}))
	require.ErrorIs(t, b.Auth.Commit(t.Context(), old.Epoch, put("a", "old")), authstore.ErrFenced)
	require.Equal(t, map[string]string{"g1/a": "1"}, values(t, b))
}

// An import puts documents back whose update times are earlier than those that
// the holder knows. Firestore calls a write that names such a time invalid, and
// not lost.
func TestDocumentsThatWereImportedAreOlderThanTheHolderKnows(t *testing.T) {
	t.Parallel()
	account := func(t *testing.T) (*firestoresim.Server, *firestore.Client, stability.Backend, lock.Record) {
		s := sim(t)
		c := onSim(t, s)
		b := opened(t, c)
		rec := hold(t, b)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
		raw := b.Auth.(keyValues).b
		raw.mu.Lock()
		raw.writer.token = raw.writer.token.Add(time.Minute)
		raw.mu.Unlock()
		rec.RenewedAt = rec.RenewedAt.Add(time.Minute)
		return s, c, b, rec
	}
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	fenceIs := func(t *testing.T, c *firestore.Client, epoch int64) {
		_, err := c.Doc(DefaultRoot+"/locks/wa_connection_fence").Set(t.Context(), fenceFields(term{epoch: epoch}, "", 0, false))
		require.NoError(t, err)
	}
	run("a commit goes on in the same term", func(t *testing.T) {
		_, _, b, rec := account(t)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
		require.Equal(t, map[string]string{"g1/a": "1"}, values(t, b))
	})
	run("a save goes on in the same term", func(t *testing.T) {
		_, _, b, rec := account(t)
		require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 7}))
		got, err := b.State.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, 7, got.RetryCount)
	})
	run("a commit of a term that is not the fence's is fenced", func(t *testing.T) {
		_, c, b, rec := account(t)
		fenceIs(t, c, rec.Epoch+1)
		require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")), authstore.ErrFenced)
	})
	run("a fence that cannot be read is an outage", func(t *testing.T) {
		s, _, b, rec := account(t)
		s.Fault(firestoresim.Fail(codes.Unknown, "a moment")).On(firestoresim.BatchGetDocuments).Always().Now()
		err := b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1"))
		require.ErrorIs(t, err, ErrUnavailable)
		require.NotErrorIs(t, err, authstore.ErrTooLarge)
	})
	run("a write that is refused for itself is too large", func(t *testing.T) {
		s, _, b, rec := account(t)
		refused := s.Fault(firestoresim.Fail(codes.InvalidArgument, "the value is too large")).On(firestoresim.Commit).After(2).Always().Now()
		err := b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")) // refused for the fence, which is moved then
		require.ErrorIs(t, err, authstore.ErrTooLarge)
		require.Equal(t, 1, refused.Fired(), "not repeated")
	})
	run("a commit that adopts its term meanwhile looks again", func(t *testing.T) {
		s, _, b, rec := account(t)
		raw := b.Auth.(keyValues).b
		raw.forget(raw.writer)
		refused := s.Fault(firestoresim.Fail(codes.InvalidArgument, "later than it is")).On(firestoresim.Commit).Now()
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
		require.Equal(t, 1, refused.Fired())
	})
	run("a renewal goes on in the same term", func(t *testing.T) {
		_, _, b, rec := account(t)
		got, err := b.Lock.Renew(t.Context(), rec)
		require.NoError(t, err)
		require.Equal(t, rec.Epoch, got.Epoch)
	})
	run("a renewal under another holder is lost", func(t *testing.T) {
		_, c, b, rec := account(t)
		_, err := c.Doc(DefaultRoot+"/locks/wa_connection").Update(t.Context(), []firestore.Update{{Path: "holderInstanceId", Value: "two"}})
		require.NoError(t, err)
		_, err = b.Lock.Renew(t.Context(), rec)
		require.ErrorIs(t, err, lock.ErrLost)
		require.NoError(t, b.Lock.Release(t.Context(), rec), "there is nothing to release")
		now, err := b.Lock.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, "two", now.Holder)
	})
	run("a release frees the lock", func(t *testing.T) {
		_, _, b, rec := account(t)
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		now, err := b.Lock.Load(t.Context())
		require.NoError(t, err)
		require.Empty(t, now.Holder)
	})
	run("a renewal that is refused for itself ends", func(t *testing.T) {
		s, _, b, rec := account(t)
		refused := s.Fault(firestoresim.Fail(codes.InvalidArgument, "no")).On(firestoresim.Commit).Always().Now()
		_, err := b.Lock.Renew(t.Context(), rec)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		require.NotErrorIs(t, err, lock.ErrLost)
		require.Equal(t, 2, refused.Fired(), "one look")
	})
}

// If somebody edits the lock document under a holder, its next renewal
// repairs it, and the term goes on.
func TestRenewalRepairsTheLockDocument(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(m map[string]any){
		"no holder":               func(m map[string]any) { delete(m, "holderInstanceId") },
		"epoch of another type":   func(m map[string]any) { m["leaseEpoch"] = "three" },
		"impossible epoch":        func(m map[string]any) { m["leaseEpoch"] = int64(-1) },
		"lease of zero":           func(m map[string]any) { m["leaseMs"] = int64(0) },
		"lease that overflows":    func(m map[string]any) { m["leaseMs"] = int64(1 << 62) },
		"times of another type":   func(m map[string]any) { m["acquiredAt"], m["updatedAt"], m["leaseUntil"] = "x", "x", "x" },
		"no lease, and no nonce":  func(m map[string]any) { delete(m, "leaseMs"); delete(m, "nonce") },
		"a field of its own":      func(m map[string]any) { m["note"] = "do not touch" },
		"nothing, but it is new":  func(map[string]any) {},
		"no times and no trouble": func(m map[string]any) { delete(m, "acquiredAt"); delete(m, "updatedAt"); delete(m, "leaseUntil") },
	} {
		t.Run(name, func(t *testing.T) {
			s := sim(t)
			b := opened(t, onSim(t, s))
			rec := hold(t, b)
			s.Edit("demo-sim", DefaultRoot+"/locks/wa_connection", func(m map[string]any) map[string]any { edit(m); return m })
			_, granted, err := opened(t, onSim(t, s)).Lock.Acquire(t.Context(), "two", "n", time.Hour)
			require.False(t, granted)
			if err != nil {
				require.ErrorIs(t, err, ErrDamaged)
			}
			_, err = b.Lock.Renew(t.Context(), rec)
			require.NoError(t, err)
			got, err := b.Lock.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, "one", got.Holder)
			require.Equal(t, rec.Epoch, got.Epoch)
			require.Equal(t, rec.Lease, got.Lease)
			require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
		})
	}
}
