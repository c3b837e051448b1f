package lock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// world is one random schedule: contenders over one faulty store.
type world struct {
	t      *testing.T
	store  *locktest.Store
	hist   *locktest.Recorder
	seed   uint64
	shared atomic.Int64 // wall clock shift of all machines: suspends

	mu     sync.Mutex
	terms  []possession
	last   int64
	moved  time.Time // when a clock was last moved
	grants int
	log    *slog.Logger
	story  bytes.Buffer // what was logged, shown of a schedule that failed
	failed bool
}

type possession struct {
	holder string
	term   lock.Term
}

// TestNeverTwoTermsHeld drives contenders through random schedules of acquire,
// renew, release, crash, suspend, stepped clocks, lost replies, late requests
// and store errors. All the time: who is Held is the one the store holds to be
// in force, so nobody is Held when another can be granted.
func TestNeverTwoTermsHeld(t *testing.T) {
	t.Parallel()
	var grants, calls, undecided int
	var checking time.Duration
	for seed := range uint64(stabilitytest.Pick(60, 1000)) {
		var w *world
		synctest.Test(t, func(t *testing.T) {
			w = &world{t: t, store: locktest.NewStore(), hist: locktest.NewRecorder(), seed: seed}
			w.log = slog.New(slog.NewTextHandler(&w.story, &slog.HandlerOptions{Level: slog.LevelDebug}))
			w.hist.Now = w.store.Now
			w.run()
		})
		began := time.Now()
		n, decided := w.hist.Check(t, stabilitytest.Pick(time.Second, 5*time.Second)) // most take a millisecond
		checking += time.Since(began)
		grants, calls = grants+w.grants, calls+n
		if !decided {
			undecided++
			t.Logf("seed %d: %d calls not judged in time", seed, n)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d grants, %d store calls, %d histories undecided, checked in %v", grants, calls, undecided, checking)
	require.LessOrEqual(t, undecided, stabilitytest.Pick(1, 20), "histories too long to be judged")
	require.NotZero(t, grants)
}

func (w *world) run() {
	rng := rand.New(rand.NewPCG(w.seed, 1))
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(5+rng.IntN(10))*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 2 + rng.IntN(4) {
		seed := rng.Uint64()
		wg.Go(func() { w.contender(ctx, i, rand.New(rand.NewPCG(seed, 2))) })
	}
	wg.Go(func() { // machines are suspended, all but the server
		rng := rand.New(rand.NewPCG(w.seed, 3))
		for w.sleep(ctx, rng, 3*time.Minute) {
			w.moveClock(func() {
				d := time.Duration(rng.Int64N(int64(2 * time.Minute)))
				w.log.Debug("suspend", "for", d)
				w.shared.Add(int64(d))
				w.store.RunAhead(d)
			})
			w.check()
		}
	})
	for ctx.Err() == nil {
		w.check()
		time.Sleep(47 * time.Millisecond)
	}
	wg.Wait()
	w.store.Wait()
	if w.failed {
		w.t.Log(w.story.String())
	}
	require.Zero(w.t, w.check(), "held after everything was closed")
}

// fail reports the first failure of a schedule. The caller holds mu.
func (w *world) fail(format string, args ...any) {
	if !w.failed {
		w.failed = true
		w.log.Debug("FAILED")
		w.t.Errorf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
	}
}

// check looks at all terms at one moment and returns how many are Held.
func (w *world) check() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := 0
	alive := w.terms[:0]
	for _, p := range w.terms {
		if p.term.Held() {
			held++
			// A late request of its own may have put a newer epoch in place: that
			// fences its writes, but lets nobody else in.
			if e := w.store.HeldBy(p.holder); e < p.term.Epoch() {
				w.fail("%s is Held in epoch %d, and another could be granted", p.holder, p.term.Epoch())
			}
		}
		select {
		case <-p.term.Lost():
			if p.term.Held() {
				w.fail("epoch %d is Held after Lost", p.term.Epoch())
			}
			if cause := lock.Cause(p.term); cause == nil || errors.Is(cause, lock.ErrInstanceIDNotUnique) {
				w.fail("epoch %d ended because of %v", p.term.Epoch(), cause)
			}
		default:
			alive = append(alive, p)
		}
	}
	w.terms = alive
	if held > 1 {
		w.fail("%d terms Held", held)
	}
	return held
}

func (w *world) granted(holder string, t lock.Term) {
	w.mu.Lock()
	// A grant may be heard late, when another has followed: by who was suspended
	// while he waited for it, and is not Held. The store's history says that
	// epochs rise in the order in which they are granted.
	if t.Epoch() <= w.last && t.Held() {
		w.fail("epoch %d after %d, and Held", t.Epoch(), w.last)
	}
	w.last = max(w.last, t.Epoch())
	w.grants++
	w.terms = append(w.terms, possession{holder, t})
	w.mu.Unlock()
	w.check()
}

// moveClock keeps a suspend and a step back out of the same second, where they
// could hide each other.
func (w *world) moveClock(move func()) {
	for {
		w.mu.Lock()
		if time.Since(w.moved) > 2*time.Second {
			move()
			w.moved = time.Now()
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		time.Sleep(time.Second)
	}
}

func (w *world) sleep(ctx context.Context, rng *rand.Rand, most time.Duration) bool {
	select {
	case <-time.After(time.Duration(rng.Int64N(int64(most)))):
		return true
	case <-ctx.Done():
		return false
	}
}

// contender is one machine; its process is restarted now and then.
func (w *world) contender(ctx context.Context, n int, rng *rand.Rand) {
	for life := 0; ctx.Err() == nil; life++ {
		holder, stable := fmt.Sprintf("m%d.%d", n, life), n%2 == 0
		if stable { // across restarts
			holder = fmt.Sprint("m", n)
		}
		w.life(ctx, holder, stable, rng)
	}
}

// life is one process: it works with the lock until it stops or crashes.
func (w *world) life(ctx context.Context, holder string, stable bool, rng *rand.Rand) {
	conn := w.store.Connect()
	var down atomic.Bool
	conn.SetFaults(faults(rand.New(rand.NewPCG(rng.Uint64(), 4)), rng.IntN(4), !stable, &down))
	l, err := lock.New(w.hist.Wrap(conn), holder, lock.WithLogger(w.log))
	if err != nil {
		w.t.Error(err)
		return
	}
	var own atomic.Int64 // this machine's wall clock is stepped
	lock.SetWallShift(l, func() time.Duration { return time.Duration(own.Load() + w.shared.Load()) })
	conn.Silence(rng.IntN(3) == 0)

	var last lock.Term
	for range 1 + rng.IntN(6) {
		tctx, cancel := context.WithTimeout(ctx, time.Duration(1+rng.Int64N(int64(3*time.Minute))))
		var t lock.Term
		if rng.IntN(2) == 0 {
			t, _ = l.Acquire(tctx)
		} else if got, ok, _ := l.TryAcquire(tctx); ok {
			t = got
		}
		cancel()
		if t == nil {
			w.sleep(ctx, rng, 20*time.Second)
			continue
		}
		if t != last { // else TryAcquire found the term alive
			w.granted(holder, t)
			last = t
		}
		for range rng.IntN(4) {
			switch rng.IntN(4) {
			case 0:
				w.moveClock(func() { own.Store(rng.Int64N(int64(2*time.Hour)) - int64(time.Hour)) })
				w.log.Debug("wall clock set", "holder", holder, "shift", time.Duration(own.Load()))
			case 1: // cut off from the store for a while
				down.Store(true)
				w.sleep(ctx, rng, 2*time.Minute)
				down.Store(false)
			}
			w.check()
			w.sleep(ctx, rng, time.Minute)
		}
		switch rng.IntN(4) {
		case 0: // forget about it: the next TryAcquire gets it again
		case 1:
			select {
			case <-t.Lost():
			case <-time.After(5 * time.Minute):
			case <-ctx.Done():
			}
		default:
			rctx, cancel := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(5*time.Second))))
			t.Release(rctx)
			cancel()
			if t.Held() {
				w.t.Error("Held after Release")
			}
		}
	}
	if rng.IntN(3) == 0 {
		down.Store(true) // a crash: nothing leaves this process any more
	}
	cctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l.Close(cctx)
	w.check()
}

// faults is a network; the worse, the higher the level. Where ids are stable no
// request outlives its process: one that did would take the lock from the next
// process with that id, which only the epoch can fence.
func faults(rng *rand.Rand, level int, late bool, down *atomic.Bool) locktest.Faults {
	var mu sync.Mutex
	return func(locktest.Op) locktest.Fault {
		mu.Lock()
		defer mu.Unlock()
		f := locktest.Fault{
			Delay: time.Duration(1 + rng.Int64N(int64(60*time.Millisecond))),
			Reply: time.Duration(1 + rng.Int64N(int64(60*time.Millisecond))),
		}
		if down.Load() {
			return locktest.Fault{Hang: rng.IntN(2) == 0, Drop: true}
		}
		if rng.IntN(10) >= 2*level {
			return f
		}
		switch rng.IntN(6) {
		case 0:
			f.Drop = true
		case 1:
			f.LoseReply = true
		case 2:
			f.Hang = true
		case 3:
			f.Delay = time.Duration(rng.Int64N(int64(9 * time.Second)))
		case 4:
			f.Reply = time.Duration(rng.Int64N(int64(9 * time.Second)))
		case 5: // gives up, and the request arrives later all the same
			f.Delay, f.Late = time.Duration(rng.Int64N(int64(time.Minute))), late
		}
		return f
	}
}
