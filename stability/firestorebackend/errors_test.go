package firestorebackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/assert"
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

// calls are all operations, by name.
func calls(b stability.Backend, rec lock.Record) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"acquire": func(ctx context.Context) error {
			_, _, err := b.Lock.Acquire(ctx, "other", rand.Text(), time.Minute)
			return err
		},
		"renew":   func(ctx context.Context) error { _, err := b.Lock.Renew(ctx, rec); return err },
		"release": func(ctx context.Context) error { return b.Lock.Release(ctx, rec) },
		"load":    func(ctx context.Context) error { _, err := b.Lock.Load(ctx); return err },
		"get":     func(ctx context.Context) error { _, err := b.Auth.Get(ctx, key("a")); return err },
		"scan": func(ctx context.Context) (last error) {
			for _, err := range b.Auth.Scan(ctx, "session", "") {
				last = err
			}
			return last
		},
		"commit":     func(ctx context.Context) error { return b.Auth.Commit(ctx, rec.Epoch, put("a", "w")) },
		"save":       func(ctx context.Context) error { return b.State.Save(ctx, rec.Epoch, reconnect.State{}) },
		"load state": func(ctx context.Context) error { _, err := b.State.Load(ctx); return err },
		"raise": func(ctx context.Context) error {
			_, _, err := b.Incidents.Raise(ctx, guard.Incident{ID: "x", DetectedAt: time.Now()})
			return err
		},
		"resolve": func(ctx context.Context) error { _, err := b.Incidents.Resolve(ctx, "x", time.Now()); return err },
		"list":    func(ctx context.Context) error { _, err := b.Incidents.List(ctx); return err },
	}
}

func TestErrorsHaveTheirClassAndAreNotHammered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer error
		want   error
		paced  bool
	}{
		{"permission", status.Error(codes.PermissionDenied, "Missing or insufficient permissions."), ErrPermission, true},
		{"credentials", status.Error(codes.Unauthenticated, "Request had invalid authentication credentials."), ErrUnavailable, false},
		{"database", status.Error(codes.NotFound, "The database (default) does not exist for project x"), ErrDatabaseNotFound, true},
		{"database in other words", status.Error(codes.NotFound, "No document to update: nor a database"), ErrDatabaseNotFound, true},
		{"datastore mode", status.Error(codes.FailedPrecondition, "The Cloud Firestore API is not available for Firestore in Datastore Mode database projects/x/databases/(default)."), ErrDatabaseNotFound, true},
		{"internal", internal, ErrUnavailable, false},
		{"token", noToken, ErrUnavailable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			wired(t, func(t *testing.T, client *firestore.Client, w *wire) {
				good := opened(t, client)
				rec := hold(t, good)
				require.NoError(t, good.Auth.Commit(t.Context(), rec.Epoch, put("a", "v")))
				w.fail(func(string, int) fault { return fault{drop: c.answer} })
				check := func(name string) {
					do := calls(opened(t, client), rec)[name] // with pacers of its own
					err := do(t.Context())
					assert.ErrorIs(t, err, c.want, name)
					assert.NotErrorIs(t, err, lock.ErrLost, name)
					assert.NotErrorIs(t, err, authstore.ErrFenced, name)
					var p *backoff.PermanentError
					assert.False(t, errors.As(err, &p), "%s: it may pass: %v", name, err)
					if c.paced {
						assert.LessOrEqual(t, w.reset().total(), 2, "%s: one request, and a read that tells what a refused write means", name)
						for range 50 {
							assert.ErrorIs(t, do(t.Context()), c.want, name)
						}
						assert.Zero(t, w.reset().total(), "%s: asked again at once", name)
					}
				}
				var wg sync.WaitGroup
				for name := range calls(good, rec) {
					w.reset()
					if c.paced { // requests are counted
						check(name)
					} else { // each waits between its attempts
						wg.Go(func() { check(name) })
					}
				}
				wg.Wait()
				w.fail(nil)
				require.Equal(t, map[string]string{"g1/a": "v"}, values(t, opened(t, client)), "nothing was written")
				got, err := opened(t, client).Lock.Load(t.Context())
				require.NoError(t, err)
				require.Equal(t, rec.Epoch, got.Epoch)
				require.Equal(t, "one", got.Holder)
			})
		})
	}
}

// noToken is what gRPC answers by itself when it has nothing to send as a token.
var noToken = status.Error(codes.Unauthenticated, "transport: per-RPC creds failed due to error: credentials: cannot fetch token: "+
	"Post \"https://oauth2.googleapis.com/token\": dial tcp: lookup oauth2.googleapis.com: i/o timeout")

// Whoever waits for the lock waits on when a token could not be fetched once.
func TestATokenThatCouldNotBeFetchedIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		failed := s.Fault(firestoresim.Fail(codes.Unauthenticated, status.Convert(noToken).Message())).Times(6).Now()
		l, err := lock.New(opened(t, onSim(t, s)).Lock, "one", lock.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		term, err := l.Acquire(t.Context())
		require.NoError(t, err)
		require.True(t, term.Held())
		require.Equal(t, 6, failed.Fired(), "more than the repetitions of one call")
		require.NoError(t, l.Close(context.Background()))
	})
}

// Nobody who waits for the lock stops waiting for one odd answer, and no holder
// loses it; an answer that lasts ends the wait with what is wrong.
func TestOneOddAnswerEndsNoWait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault firestoresim.Fault
		lasts error // what ends the wait if it lasts; nil: nothing
	}{
		"PERMISSION_DENIED": {firestoresim.PermissionDenied(), ErrPermission},
		"NOT_FOUND":         {firestoresim.NoDatabase(), ErrDatabaseNotFound},
		"UNAUTHENTICATED":   {firestoresim.Fail(codes.Unauthenticated, "Request had invalid authentication credentials."), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithLatency(20*time.Millisecond))
				lease := func(n string) *lock.Lease {
					l, err := lock.New(opened(t, onSim(t, s, firestoresim.Name(n))).Lock, n, lock.WithLogger(slog.New(slog.DiscardHandler)))
					require.NoError(t, err)
					return l
				}
				a, b := lease("a"), lease("b")
				term, err := a.Acquire(t.Context())
				require.NoError(t, err)
				ended := make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { _, err := b.Acquire(ctx); ended <- err }()
				waits := func() bool {
					select {
					case err := <-ended:
						t.Logf("the wait ended: %v", err)
						return false
					default:
						return true
					}
				}
				time.Sleep(time.Minute)
				renewal := s.Fault(c.fault).From("a").On(firestoresim.Commit).Now()
				look := s.Fault(c.fault).From("b").On(firestoresim.BatchGetDocuments).Now()
				time.Sleep(time.Minute)
				require.Equal(t, 1, renewal.Fired())
				require.Equal(t, 1, look.Fired())
				require.True(t, term.Held())
				require.True(t, waits())
				time.Sleep(10 * time.Minute)
				s.Fault(c.fault).From("b").On(firestoresim.BatchGetDocuments).Now()
				time.Sleep(time.Minute)
				require.True(t, waits(), "two odd answers, with good ones between them")

				s.Fault(c.fault).From("b").Always().Now()
				time.Sleep(30 * time.Second)
				require.True(t, waits())
				time.Sleep(5 * time.Minute)
				if c.lasts == nil {
					require.True(t, waits())
					cancel()
				}
				err = <-ended
				if c.lasts != nil {
					require.ErrorIs(t, err, c.lasts)
				}
				s.Heal()
				time.Sleep(maxPause)
				require.NoError(t, a.Close(context.Background()))
				require.NoError(t, b.Close(context.Background()))
			})
		})
	}
}

// cutTerm notes that the connection was given up.
type cutTerm struct {
	heldTerm
	cut *atomic.Pointer[error]
}

func (c cutTerm) Cut(err error) { c.cut.CompareAndSwap(nil, &err) }

// A refusal that is over within authstore's patience costs a wait and not the
// connection, however many requests it met at once.
func TestAQuotaThatComesBackInTimeCutsNoConnection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reads           int
		refused, within time.Duration
	}{
		{1, 50 * time.Millisecond, 5 * time.Second},
		{8, 50 * time.Millisecond, 5 * time.Second}, // one pause, not eight
		{1, 16 * time.Second, 30 * time.Second},     // a pause does not outlast the patience
		{8, 16 * time.Second, 30 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d reads refused for %v", c.reads, c.refused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithLatency(20*time.Millisecond))
				b := opened(t, onSim(t, s))
				container := authstore.New(b.Auth)
				t.Cleanup(func() { _ = container.Close(context.Background()) })
				term := cutTerm{heldTerm{hold(t, b)}, new(atomic.Pointer[error])}
				d := pairedIn(t, container, term)
				refusal := s.Fault(firestoresim.ResourceExhausted()).On(firestoresim.BatchGetDocuments).Always().Now()
				time.AfterFunc(c.refused, refusal.Stop)
				begin := time.Now()
				var wg sync.WaitGroup
				for i := range c.reads {
					wg.Go(func() {
						_, err := d.SenderKeys.GetSenderKey(t.Context(), fmt.Sprintf("%d@g.us", i), fmt.Sprintf("49170%d:1", i))
						assert.NoError(t, err)
					})
				}
				wg.Wait()
				require.Positive(t, refusal.Fired())
				require.LessOrEqual(t, refusal.Fired(), 5*c.reads, "at 0, 1, 3, 7 and 15 s")
				require.Less(t, time.Since(begin), c.within)
				if cut := term.cut.Load(); cut != nil {
					require.NoError(t, *cut)
				}
			})
		})
	}
}

// A writer that keeps losing to others waits longer and longer, but not for minutes.
func TestTheWaitOfALoserIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		b := opened(t, onSim(t, s))
		lost := s.Fault(firestoresim.Fail(codes.FailedPrecondition, "the stored version does not match the required base version")).
			On(firestoresim.Commit).Times(contenders - 1).Now()
		begin := time.Now()
		_, isNew, err := b.Incidents.Raise(t.Context(), guard.Incident{ID: "x", DetectedAt: time.Now()})
		require.NoError(t, err)
		require.True(t, isNew)
		require.Equal(t, contenders-1, lost.Fired())
		require.Less(t, time.Since(begin), contenders*longestPause*3/2)
	})
}

func TestAnExhaustedQuotaIsBounded(t *testing.T) {
	t.Parallel()
	client, w := onWire(t)
	b := opened(t, client, WithTimeout(time.Second))
	rec := hold(t, b)
	w.fail(func(string, int) fault { return fault{drop: status.Error(codes.ResourceExhausted, "Quota exceeded.")} })
	w.reset()
	_, err := b.Auth.Get(t.Context(), key("a"))
	require.ErrorIs(t, err, ErrQuota)
	require.ErrorContains(t, err, "billing")
	require.Equal(t, 1, w.reset().total())
	require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "v")), ErrQuota)
	require.Zero(t, w.reset().total(), "held back")

	// A renewal has a pace of its own. The client repeats it by itself, and its
	// reason is not known; our timeout ends that.
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	_, err = b.Lock.Renew(ctx, rec)
	require.Error(t, err)
	require.NotErrorIs(t, err, lock.ErrLost)
	require.Less(t, w.reset().total(), 40)
	w.fail(nil)
	_, err = b.Lock.Renew(t.Context(), rec)
	require.NoError(t, err)
}

func TestRootsAreValidated(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	for _, root := range []string{
		"a", "a/b/c", "/a/b", "a/b/", "a//b/c", "a/.", "../b", "a/__b__", "____/b", "a/\xff", "a/" + strings.Repeat("x", 600),
	} {
		_, err := New(c, WithRoot(root))
		require.ErrorContains(t, err, "WithRoot", "%q", root)
		require.Less(t, len(err.Error()), 1000)
	}
	for _, root := range []string{"a", "a/b/c"} {
		_, err := New(c, WithRoot(root))
		require.ErrorContains(t, err, "even number")
	}
	for _, root := range []string{"a/b", "a/b/c/d", "wa:x/a@b", "ü/日本", "__a/b__", ".../x"} {
		b := opened(t, c, WithRoot(root))
		require.EqualValues(t, 1, hold(t, b).Epoch, "each root is an account of its own")
		_, err := c.Doc(root + "/locks/wa_connection").Get(t.Context())
		require.NoError(t, err)
	}
	_, err := New(nil)
	require.ErrorContains(t, err, "no client")
	_, err = New(c, WithTimeout(-1))
	require.ErrorContains(t, err, "WithTimeout")
}

func TestACloseLeavesTheClientAlone(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	b := opened(t, c)
	rec := hold(t, b)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	for name, do := range calls(b, rec) {
		require.ErrorIs(t, do(t.Context()), ErrClosed, name)
	}
	for _, err := range b.Lock.(lock.Watcher).Changes(t.Context()) {
		require.ErrorIs(t, err, ErrClosed)
	}
	got, err := opened(t, c).Lock.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, "one", got.Holder, "closing gives no lock up")
}
