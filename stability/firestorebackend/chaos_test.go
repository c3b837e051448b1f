package firestorebackend

import (
	"context"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// ledger is what an account must never go back behind.
type ledger struct {
	mu            sync.Mutex
	acked, state  int // the newest that were acknowledged
	terms         []lock.Term
	commits, held int
}

func (l *ledger) enter(t *testing.T, term lock.Term) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.terms = append(l.terms, term)
	l.held++
	n := 0
	for _, o := range l.terms {
		if o.Held() {
			n++
		}
	}
	assert.LessOrEqual(t, n, 1, "terms held at once")
}

// pair reads two keys that always stand in one commit together: as numbers.
func pair(t *testing.T, ctx context.Context, b stability.Backend) (n int, ok bool) {
	got, err := b.Auth.Get(ctx, key("a"), key("b"))
	if err != nil {
		return 0, false
	}
	assert.Equal(t, string(got[key("a")]), string(got[key("b")]), "half of a commit is seen")
	n, _ = strconv.Atoi(string(got[key("a")]))
	return n, true
}

// hold does what a holder does until its term ends: it counts on from what it
// finds, in the session and in the state.
func (l *ledger) hold(t *testing.T, r *mrand.Rand, b stability.Backend, term lock.Term) {
	ctx := context.Background()
	end := time.Now().Add(time.Duration(30+r.IntN(300)) * time.Second)
	var n int
	for ok := false; !ok; {
		if !term.Held() {
			return
		}
		l.mu.Lock()
		acked, state := l.acked, l.state
		l.mu.Unlock()
		if n, ok = pair(t, ctx, b); ok {
			assert.GreaterOrEqual(t, n, acked, "an acknowledged commit is undone")
		}
		if s, err := b.State.Load(ctx); err == nil {
			assert.GreaterOrEqual(t, s.RetryCount, state, "an acknowledged state is undone")
		}
	}
	for term.Held() && time.Now().Before(end) {
		n++
		for term.Held() {
			// A large value moves to documents of its own, and back.
			v := fmt.Sprint(n)
			batch := put("a", v, "b", v)
			if n%5 == 0 {
				batch.Put = append(batch.Put, put("c", string(make([]byte, 40_000))).Put...)
			} else {
				batch.Put = append(batch.Put, put("c", v).Put...)
			}
			if b.Auth.Commit(ctx, term.Epoch(), batch) != nil {
				time.Sleep(time.Second)
				continue
			}
			l.mu.Lock()
			l.acked = max(l.acked, n)
			l.commits++
			l.mu.Unlock()
			break
		}
		if n%3 == 0 && b.State.Save(ctx, term.Epoch(), reconnect.State{RetryCount: n}) == nil {
			l.mu.Lock()
			l.state = max(l.state, n)
			l.mu.Unlock()
		}
		time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
		l.mu.Lock()
		acked := l.acked
		l.mu.Unlock()
		if got, ok := pair(t, ctx, b); ok && term.Held() {
			assert.GreaterOrEqual(t, got, acked, "an acknowledged commit is undone")
		}
	}
}

// Requests are duplicated, kept past their deadline and put out of order, at
// every RPC: nothing acknowledged is undone, nothing is half visible, and there
// are never two holders.
func TestNothingIsUndoneOnANetworkThatKeepsRequests(t *testing.T) {
	t.Parallel()
	const contenders = 5
	commits, terms := 0, 0
	for round := range stabilitytest.Pick(3, 50) {
		length := stabilitytest.Pick(15*time.Minute, 40*time.Minute)
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := uint64(round)
				opts := []firestoresim.Option{firestoresim.WithLatency(30 * time.Millisecond)}
				if round%2 == 0 {
					opts = append(opts, firestoresim.WithRisingReadTimes())
				}
				s := sim(t, opts...)
				for i, f := range []firestoresim.Fault{
					firestoresim.Duplicate(50 * time.Millisecond), firestoresim.Duplicate(7 * time.Second), firestoresim.Duplicate(100 * time.Second),
					firestoresim.Late(200 * time.Millisecond), firestoresim.Late(3 * time.Second), firestoresim.Late(95 * time.Second),
					firestoresim.PastDeadline(6 * time.Second), firestoresim.PastDeadline(2 * time.Minute),
					firestoresim.Delay(time.Second), firestoresim.DelayReply(4 * time.Second), firestoresim.DropReply(), firestoresim.Aborted(),
				} {
					s.Fault(f).Chance(0.02, seed*100+uint64(i)).Always().Now()
				}
				l := &ledger{}
				ctx, cancel := context.WithTimeout(t.Context(), length)
				defer cancel()
				var wg sync.WaitGroup
				for i := range contenders {
					name := fmt.Sprint("c", i)
					b := opened(t, onSim(t, s, firestoresim.Name(name)))
					lease, err := lock.New(b.Lock, fmt.Sprint("holder ", i), lock.WithLogger(slog.New(slog.DiscardHandler)))
					require.NoError(t, err)
					r := mrand.New(mrand.NewPCG(seed, uint64(i)))
					wg.Go(func() {
						defer func() { _ = lease.Close(context.Background()) }()
						for ctx.Err() == nil {
							term, err := lease.Acquire(ctx)
							if err != nil {
								return
							}
							l.enter(t, term)
							l.hold(t, r, b, term)
							if r.IntN(3) == 0 { // it is cut off, and does not know it
								cut := s.Fault(firestoresim.DropRequest()).From(name).Always().Now()
								<-term.Lost()
								cut.Stop()
							}
							_ = term.Release(context.Background())
							time.Sleep(20 * time.Second)
						}
					})
				}
				reader := opened(t, onSim(t, s, firestoresim.Name("reader")))
				wg.Go(func() {
					for ctx.Err() == nil {
						_, _ = pair(t, context.Background(), reader)
						time.Sleep(700 * time.Millisecond)
					}
				})
				wg.Wait()
				s.Heal()
				time.Sleep(3 * time.Minute) // what is still on its way arrives
				n, ok := pair(t, t.Context(), reader)
				require.True(t, ok)
				require.GreaterOrEqual(t, n, l.acked)
				require.Greater(t, l.commits, 20)
				commits, terms = commits+l.commits, terms+l.held
			})
		})
	}
	t.Logf("%d commits in %d terms", commits, terms)
}
