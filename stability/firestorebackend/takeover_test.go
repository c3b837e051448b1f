package firestorebackend

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// An instance that has lost its lease and does not know it goes on writing, as
// fast as it can, while another takes over: what the new holder reads first is
// what it finds at the end.
func TestNothingOfTheOldHolderLandsAfterATakeover(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	landed, refused := 0, 0
	for round := range stabilitytest.Pick(6, 500) {
		root := "accounts/" + rand.Text()
		a, b := opened(t, c, WithRoot(root), patient), opened(t, c, WithRoot(root), patient)
		old, granted, err := a.Lock.Acquire(t.Context(), "a", rand.Text(), time.Millisecond)
		require.NoError(t, err)
		require.True(t, granted)
		var wg sync.WaitGroup
		var n, done atomic.Int64
		write := func(f func(i int64) error) {
			wg.Go(func() {
				for {
					err := f(n.Add(1))
					if errors.Is(err, authstore.ErrFenced) {
						return
					}
					if err != nil {
						t.Errorf("round %d: a write around the takeover: %v", round, err)
						return
					}
					done.Add(1)
				}
			})
		}
		for range 2 {
			write(func(i int64) error {
				return a.Auth.Commit(t.Context(), old.Epoch, put("k", fmt.Sprint(i), fmt.Sprint("k", i%7), fmt.Sprint(i)))
			})
		}
		write(func(i int64) error {
			return a.State.Save(t.Context(), old.Epoch, reconnect.State{Status: reconnect.StatusConnected, RetryCount: int(i)})
		})
		for done.Load() < 3 {
			time.Sleep(time.Millisecond)
		}
		var rec lock.Record
		for granted = false; !granted; {
			rec, granted, err = b.Lock.Acquire(t.Context(), "b", rand.Text(), time.Hour)
			require.NoError(t, err)
		}
		require.Equal(t, old.Epoch+1, rec.Epoch)
		first := values(t, b)
		state, err := b.State.Load(t.Context())
		require.NoError(t, err)
		wg.Wait()
		require.Equal(t, first, values(t, b), "a commit of the old term landed in the new one")
		later, err := b.State.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, state, later)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", "new")))
		landed, refused = landed+int(done.Load()), refused+3
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
	t.Logf("%d writes landed before the takeovers, %d were refused, none landed after", landed, refused)
}

// Contenders whose replies and requests get lost, in real time: the history is
// that of one lock. Alone: a renewal that others hold up for longer than a lease
// may be lost although it has lengthened the lease before, which the model does
// not allow.
func TestContendersOnABadNetworkAreLinearizable(t *testing.T) {
	const lease = 500 * time.Millisecond
	root := "accounts/" + rand.Text()
	rec := locktest.NewRecorder()
	rec.Slack = 20 * time.Millisecond // the emulator's clock, and milliseconds
	contenders := stabilitytest.Pick(5, 20)
	began := time.Now()
	var wg sync.WaitGroup
	var terms, lost atomic.Int64
	// On a busy machine the first terms take longer than the whole run should.
	more := func() bool {
		d := time.Since(began)
		return d < stabilitytest.Pick(2*time.Second, time.Minute) || terms.Load() <= 5 && d < 2*time.Minute
	}
	stores := make([]lock.Store, contenders)
	for i := range contenders {
		c, w := onWire(t, "demo-contenders")
		var n atomic.Int64
		w.fail(func(method string, _ int) fault {
			if method == "Listen" {
				return fault{}
			}
			switch k := n.Add(1); {
			case k%5 == int64(i%5):
				lost.Add(1)
				return fault{lose: status.Error(codes.Internal, "reset")}
			case k%11 == 0:
				return fault{drop: unavailable}
			}
			return fault{}
		})
		stores[i] = rec.Wrap(opened(t, c, WithRoot(root)).Lock)
	}
	for i, s := range stores {
		wg.Go(func() {
			holder := fmt.Sprint("h", i)
			for more() {
				r, granted, err := s.Acquire(t.Context(), holder, rand.Text(), lease)
				if err != nil || !granted {
					time.Sleep(lease / 10)
					continue
				}
				terms.Add(1)
				for k := range 2 {
					if r, err = s.Renew(t.Context(), r); err != nil {
						break
					}
					time.Sleep(time.Duration(k+1) * lease / 10)
				}
				if err == nil && i%2 == 0 {
					_ = s.Release(t.Context(), r)
				}
			}
		})
	}
	wg.Wait()
	calls, decided := rec.Check(t, time.Minute)
	require.True(t, decided)
	require.Greater(t, terms.Load(), int64(5))
	require.Positive(t, lost.Load())
	t.Logf("%d contenders, %d terms, %d calls, %d replies lost", contenders, terms.Load(), calls, lost.Load())
}

// One standby hears of a release from the listener; another, whose listener is
// silent, from its look at the lock.
func TestAReleaseIsHeard(t *testing.T) {
	t.Parallel()
	for name, silent := range map[string]bool{"listener": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			c, w := onWire(t)
			if silent {
				w.fail(func(method string, _ int) fault {
					if method == "Listen" {
						return fault{drop: internal, hang: true}
					}
					return fault{}
				})
			}
			poll := time.Minute
			if silent {
				poll = 200 * time.Millisecond
			}
			a, b := opened(t, c), opened(t, c, WithPoll(poll))
			rec := hold(t, a)
			heard := make(chan lock.Record)
			done := make(chan struct{})
			ctx := t.Context()
			go func() {
				defer close(done)
				for r, err := range b.Lock.(lock.Watcher).Changes(ctx) {
					if err != nil {
						continue
					}
					select {
					case heard <- r:
						if r.Holder == "" {
							return
						}
					case <-ctx.Done():
						return
					}
				}
			}()
			require.Equal(t, "one", (<-heard).Holder)
			begin := time.Now()
			require.NoError(t, a.Lock.Release(t.Context(), rec))
			for r := range heard {
				if r.Holder == "" {
					break
				}
			}
			<-done
			t.Logf("heard after %v", time.Since(begin).Round(time.Millisecond))
			require.Less(t, time.Since(begin), time.Minute)
		})
	}
}

// The idle cost that doc.go states.
func TestAnIdleHolderRenewsWithOneRequestAndOneWrite(t *testing.T) {
	t.Parallel()
	c, w := onWire(t)
	b := opened(t, c)
	rec := hold(t, b)
	fence, err := c.Doc(DefaultRoot + "/locks/wa_connection_fence").Get(t.Context())
	require.NoError(t, err)
	w.reset()
	for range 10 {
		rec, err = b.Lock.Renew(t.Context(), rec)
		require.NoError(t, err)
	}
	require.Equal(t, counts{rpcs: map[string]int{"Commit": 10}, writes: 10}, w.reset())
	after, err := c.Doc(DefaultRoot + "/locks/wa_connection_fence").Get(t.Context())
	require.NoError(t, err)
	require.True(t, after.UpdateTime.Equal(fence.UpdateTime), "a renewal leaves the fence alone")

	// A standby pays a read for each look, and nothing else when refused.
	s := opened(t, c)
	w.reset()
	_, granted, err := s.Lock.Acquire(t.Context(), "two", rand.Text(), time.Minute)
	require.NoError(t, err)
	require.False(t, granted)
	require.Equal(t, counts{rpcs: map[string]int{"BatchGetDocuments": 1}, reads: 1}, w.reset())

	// A release is one request, a commit too.
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
	w.reset()
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))
	require.Equal(t, counts{rpcs: map[string]int{"Commit": 1}, writes: 2}, w.reset())
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	require.Equal(t, counts{rpcs: map[string]int{"Commit": 1}, writes: 2}, w.reset())
}

// Both lock documents deleted by hand in the first term of an account that has
// no device yet: the next term has the same epoch, and another nonce.
func TestOlderTermOfTheSameEpochIsFenced(t *testing.T) {
	t.Parallel()
	c := onSim(t, sim(t))
	a, b := opened(t, c), opened(t, c)
	old := hold(t, a)
	require.NoError(t, a.Auth.Commit(t.Context(), old.Epoch, put("k", "a0")))
	for _, id := range []string{"wa_connection", "wa_connection_fence"} {
		_, err := c.Doc(DefaultRoot + "/locks/" + id).Delete(t.Context())
		require.NoError(t, err)
	}
	rec, granted, err := b.Lock.Acquire(t.Context(), "two", rand.Text(), time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	require.Equal(t, old.Epoch, rec.Epoch)
	for n := range 3 {
		want := fmt.Sprint("b", n)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", want)))
		require.ErrorIs(t, a.Auth.Commit(t.Context(), old.Epoch, put("k", "a")), authstore.ErrFenced)
		require.ErrorIs(t, a.State.Save(t.Context(), old.Epoch, reconnect.State{RetryCount: n}), authstore.ErrFenced)
		require.Equal(t, map[string]string{"g1/k": want}, values(t, b))
	}
	_, err = a.Lock.Renew(t.Context(), old)
	require.ErrorIs(t, err, lock.ErrLost)
}
