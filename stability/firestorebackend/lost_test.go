package firestorebackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func hold(t testing.TB, b stability.Backend) lock.Record {
	t.Helper()
	rec, granted, err := b.Lock.Acquire(t.Context(), "one", rand.Text(), time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	return rec
}

func key(id string) authstore.Key { return authstore.Key{Kind: "session", ID: "g1/" + id} }

func put(kv ...string) (b authstore.Batch) {
	for i := 0; i < len(kv); i += 2 {
		b.Put = append(b.Put, authstore.Entry{Key: key(kv[i]), Value: []byte(kv[i+1])})
	}
	return b
}

func values(t testing.TB, b stability.Backend) map[string]string {
	t.Helper()
	got := map[string]string{}
	for e, err := range b.Auth.Scan(t.Context(), "session", "") {
		require.NoError(t, err)
		got[e.Key.ID] = string(e.Value)
	}
	return got
}

// operation is something to be done once, however often its requests fail.
type operation struct {
	name string
	// prepare makes an account; do is the operation, check what must be true
	// afterwards whatever happened on the way.
	prepare func(t *testing.T, b stability.Backend) (do func(context.Context) error, check func(t *testing.T))
}

func operations() []operation {
	return []operation{
		{"the first acquire", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			nonce := rand.Text()
			return func(ctx context.Context) error {
					rec, granted, err := b.Lock.Acquire(ctx, "one", nonce, time.Hour)
					if err == nil && (!granted || rec.Epoch != 1) {
						err = fmt.Errorf("granted %v, epoch %d", granted, rec.Epoch)
					}
					return err
				}, func(t *testing.T) {
					rec, err := b.Lock.Load(t.Context())
					require.NoError(t, err)
					require.EqualValues(t, 1, rec.Epoch, "one epoch")
					require.NoError(t, b.Auth.Commit(t.Context(), 1, put("a", "1")))
				}
		}},
		{"a takeover under the same id", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			old := hold(t, b)
			nonce := rand.Text()
			return func(ctx context.Context) error {
					rec, granted, err := b.Lock.Acquire(ctx, "one", nonce, time.Hour)
					if err == nil && (!granted || rec.Epoch != 2) {
						err = fmt.Errorf("granted %v, epoch %d", granted, rec.Epoch)
					}
					return err
				}, func(t *testing.T) {
					require.ErrorIs(t, b.Auth.Commit(t.Context(), old.Epoch, put("a", "old")), authstore.ErrFenced)
					require.NoError(t, b.Auth.Commit(t.Context(), 2, put("a", "1")))
					rec, err := b.Lock.Load(t.Context())
					require.NoError(t, err)
					require.EqualValues(t, 2, rec.Epoch, "one epoch more")
				}
		}},
		{"a renewal", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			return func(ctx context.Context) error {
					got, err := b.Lock.Renew(ctx, rec)
					if err == nil && (got.Epoch != rec.Epoch || !got.RenewedAt.After(rec.RenewedAt)) {
						err = fmt.Errorf("renewed %+v", got)
					}
					return err
				}, func(t *testing.T) {
					got, err := b.Lock.Load(t.Context())
					require.NoError(t, err)
					require.Equal(t, "one", got.Holder)
					require.True(t, got.RenewedAt.After(rec.RenewedAt))
					require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")), "a renewal leaves the fence alone")
				}
		}},
		{"a release", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			return func(ctx context.Context) error { return b.Lock.Release(ctx, rec) }, func(t *testing.T) {
				require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "late")), authstore.ErrFenced)
				got, err := b.Lock.Load(t.Context())
				require.NoError(t, err)
				require.Empty(t, got.Holder)
				require.EqualValues(t, 2, hold(t, b).Epoch)
			}
		}},
		{"the first commit", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			batch := put("a", "1", "b", "1")
			return func(ctx context.Context) error { return b.Auth.Commit(ctx, rec.Epoch, batch) }, func(t *testing.T) {
				require.Equal(t, map[string]string{"g1/a": "1", "g1/b": "1"}, values(t, b))
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))
				require.Equal(t, map[string]string{"g1/a": "2", "g1/b": "1"}, values(t, b))
			}
		}},
		{"a commit that puts, deletes and moves", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			large := string(make([]byte, 100_000))
			require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1", "b", "1", "c", large)))
			batch := put("a", large, "c", "small")
			batch.Delete = []authstore.Key{key("b")}
			return func(ctx context.Context) error { return b.Auth.Commit(ctx, rec.Epoch, batch) }, func(t *testing.T) {
				want := map[string]string{"g1/a": large, "g1/c": "small"}
				require.Equal(t, want, values(t, b))
				require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
				require.Equal(t, want, values(t, b))
			}
		}},
		{"a commit in a term that is adopted", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			b.Auth.(keyValues).b.forget(b.Auth.(keyValues).b.writer)
			return func(ctx context.Context) error { return b.Auth.Commit(ctx, rec.Epoch, put("a", "1")) }, func(t *testing.T) {
				require.Equal(t, map[string]string{"g1/a": "1"}, values(t, b))
			}
		}},
		{"saving the state", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			rec := hold(t, b)
			return func(ctx context.Context) error {
					return b.State.Save(ctx, rec.Epoch, reconnect.State{Status: reconnect.StatusConnected, RetryCount: 7})
				}, func(t *testing.T) {
					s, err := b.State.Load(t.Context())
					require.NoError(t, err)
					require.Equal(t, 7, s.RetryCount)
				}
		}},
		{"raising an incident", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			inc := guard.Incident{ID: "x_active", Type: guard.TypeDegraded, DetectedAt: time.Now()}
			return func(ctx context.Context) error {
					_, opened, err := b.Incidents.Raise(ctx, inc)
					if err == nil && !opened {
						err = fmt.Errorf("nobody is told that it is new")
					}
					return err
				}, func(t *testing.T) {
					all, err := b.Incidents.List(t.Context())
					require.NoError(t, err)
					require.Len(t, all, 1)
				}
		}},
		{"resolving an incident", func(t *testing.T, b stability.Backend) (func(context.Context) error, func(*testing.T)) {
			_, _, err := b.Incidents.Raise(t.Context(), guard.Incident{ID: "x_active", DetectedAt: time.Now()})
			require.NoError(t, err)
			return func(ctx context.Context) error {
					closed, err := b.Incidents.Resolve(ctx, "x_active", time.Now())
					if err == nil && !closed {
						err = fmt.Errorf("nobody is told that it is over")
					}
					return err
				}, func(t *testing.T) {
					all, err := b.Incidents.List(t.Context())
					require.NoError(t, err)
					require.False(t, all[0].Active)
				}
		}},
	}
}

// Each request of each operation fails once, in each way. The operation itself
// settles that, and happens once.
func TestEveryOperationSettlesEveryLostRequestAndReply(t *testing.T) {
	t.Parallel()
	ways := map[string]fault{
		"dropped, unavailable": {drop: unavailable},
		"dropped, internal":    {drop: internal},
		"lost, unavailable":    {lose: unavailable}, // the client repeats it by itself
		"lost, internal":       {lose: internal},
		"lost, no answer":      {lose: internal, hang: true},
		"lost, aborted":        {lose: status.Error(codes.Aborted, "contention")},
	}
	account := func(t *testing.T, c *firestore.Client, f fault) stability.Backend {
		timeout := time.Minute
		if f.hang {
			timeout = 1500 * time.Millisecond
		}
		return opened(t, c, WithRoot("accounts/"+rand.Text()), WithTimeout(timeout))
	}
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			var requests int
			wired(t, func(t *testing.T, c *firestore.Client, w *wire) {
				do, check := op.prepare(t, account(t, c, fault{}))
				w.reset()
				require.NoError(t, do(t.Context()))
				requests = w.reset().total()
				require.Positive(t, requests)
				check(t)
			})
			for name, f := range ways {
				for n := 1; n <= requests; n++ {
					t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
						wired(t, func(t *testing.T, c *firestore.Client, w *wire) {
							do, check := op.prepare(t, account(t, c, f))
							hit := false
							w.fail(func(method string, nth int) fault {
								if nth != n {
									return fault{}
								}
								hit = true
								return f
							})
							err := do(t.Context())
							w.fail(nil)
							require.True(t, hit)
							require.NoError(t, err)
							check(t)
						})
					})
				}
			}
		})
	}
}

// A write that is still on its way when the caller has gone on comes too late: it never
// undoes what was written since.
func TestACommitThatArrivesLateWritesNothing(t *testing.T) {
	t.Parallel()
	c, w := onWire(t)
	b := opened(t, c)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
	raw := b.Auth.(keyValues).b

	// The request is held up on its way, and its caller gives up.
	late := raw.tokenOf(raw.writer)
	w.fail(func(string, int) fault { return fault{drop: internal, hang: true} })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Auth.Commit(ctx, rec.Epoch, put("a", "1")), context.DeadlineExceeded)
	w.fail(nil)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))

	// Now it arrives.
	_, err := raw.fenced(t.Context(), late, "late", func(batch *firestore.WriteBatch) {
		batch.Set(raw.doc(placeOf(key("a")).bucket), map[string]any{"data": map[string]any{"g1/a": []byte("1")}}, firestore.MergeAll)
	})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.Equal(t, map[string]string{"g1/a": "2"}, values(t, b))
}

// ABORTED may be the answer to the client's own repetition, while the attempt
// before it, which got UNAVAILABLE, is still on its way.
func TestACommitThatWasAbortedMayStillArrive(t *testing.T) {
	t.Parallel()
	s := sim(t)
	b := opened(t, onSim(t, s))
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
	raw := b.Auth.(keyValues).b
	late := raw.tokenOf(raw.writer)
	faults := []*firestoresim.Injection{
		s.Fault(firestoresim.Unavailable()).On(firestoresim.Commit).Now(),
		s.Fault(firestoresim.Aborted()).On(firestoresim.Commit).Now(),
	}
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
	for _, f := range faults {
		require.Equal(t, 1, f.Fired())
	}
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))
	_, err := raw.fenced(t.Context(), late, "late", func(batch *firestore.WriteBatch) {
		batch.Set(raw.doc(placeOf(key("a")).bucket), map[string]any{"data": map[string]any{"g1/a": []byte("1")}}, firestore.MergeAll)
	})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.Equal(t, map[string]string{"g1/a": "2"}, values(t, b))
}
