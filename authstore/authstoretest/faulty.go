package authstoretest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/wastability/wastability/authstore"
)

// ErrInjected is the transient error of an injected fault.
var ErrInjected = errors.New("authstoretest: injected fault")

// Op names a method of authstore.KV.
type Op string

// The operations. OpAny stands for all of them in a rule.
const (
	OpAny    Op = ""
	OpGet    Op = "get"
	OpScan   Op = "scan"
	OpCommit Op = "commit"
)

// Call is one call that reached a FaultyKV. Its slices belong to the caller:
// read only.
type Call struct {
	Op     Op
	N      int // the nth call of its Op, from 1
	Keys   []authstore.Key
	Kind   authstore.Kind
	Prefix string
	Epoch  int64
	Batch  authstore.Batch
}

// Fault is what happens to a call. The zero value lets it pass.
type Fault struct {
	Before time.Duration // latency of the request
	After  time.Duration // latency of the reply
	Drop   error         // the request never arrives: nothing applied, this error
	Lose   error         // the call is applied and the reply lost: this error
	// Hang waits until ctx ends instead of answering, after the call was
	// applied when Lose is set, before it arrives otherwise.
	Hang bool
}

// Stats count what passed through a FaultyKV.
type Stats struct {
	Gets, Scans, Commits int // calls, failed ones included
	Failed               int // calls that an injected fault failed
	KeysRead             int // keys asked for by Get
	EntriesRead          int // entries found by Get and yielded by Scan
	Puts, Deletes        int // of commits that were applied
	BytesRead            int // values found
	BytesWritten         int // values of commits that were applied
}

// Calls is the number of round trips.
func (s Stats) Calls() int { return s.Gets + s.Scans + s.Commits }

// FaultyKV is a KV with faults and counters. Make it with Faulty. Safe for
// concurrent use; works in synctest bubbles.
type FaultyKV struct {
	kv authstore.KV

	mu    sync.Mutex // never held across a call
	rules []rule
	stats Stats
}

// rule decides about a call; done rules are removed.
type rule func(Call) (f Fault, hit, done bool)

var _ authstore.KV = (*FaultyKV)(nil)

// Faulty wraps kv. Without further calls nothing fails.
func Faulty(kv authstore.KV) *FaultyKV { return &FaultyKV{kv: kv} }

// Inject lets decide choose the fault of every call. decide runs under a lock:
// it must not block and not call the FaultyKV. Of all rules, in the order they
// were added, the first that gives a fault counts; latencies add up.
func (f *FaultyKV) Inject(decide func(Call) Fault) {
	f.add(func(c Call) (Fault, bool, bool) {
		fault := decide(c)
		return fault, fault != Fault{}, false
	})
}

// DropNext lets the next n calls of op never arrive: ErrInjected, nothing
// applied.
func (f *FaultyKV) DropNext(op Op, n int) {
	f.next(op, n, Fault{Drop: fmt.Errorf("%w: request lost", ErrInjected)})
}

// LoseNext applies the next n calls of op and loses their replies: ErrInjected.
func (f *FaultyKV) LoseNext(op Op, n int) {
	f.next(op, n, Fault{Lose: fmt.Errorf("%w: reply lost", ErrInjected)})
}

// HangNext lets the next n calls of op hang until their ctx ends; nothing of
// them is applied.
func (f *FaultyKV) HangNext(op Op, n int) { f.next(op, n, Fault{Hang: true}) }

// FailAt fails the nth call of op from now (1 is the next one) with err;
// nothing of it is applied.
func (f *FaultyKV) FailAt(op Op, nth int, err error) {
	f.add(func(c Call) (Fault, bool, bool) {
		if op != OpAny && op != c.Op {
			return Fault{}, false, false
		}
		nth--
		return Fault{Drop: err}, nth == 0, nth <= 0
	})
}

// Latency makes every call of op take a random time between least and most,
// half of it before it is applied and half after.
func (f *FaultyKV) Latency(op Op, least, most time.Duration) {
	f.Inject(func(c Call) Fault {
		if op != OpAny && op != c.Op {
			return Fault{}
		}
		d := least
		if most > least {
			d += rand.N(most - least)
		}
		return Fault{Before: d / 2, After: d - d/2}
	})
}

// Heal removes every rule. Calls that hang already go on hanging.
func (f *FaultyKV) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Stats returns the counters since the start or the last Reset.
func (f *FaultyKV) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Reset sets the counters to zero and returns what they were. Call.N counts
// from there.
func (f *FaultyKV) Reset() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	f.stats = Stats{}
	return s
}

func (f *FaultyKV) add(r rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, r)
}

func (f *FaultyKV) next(op Op, n int, fault Fault) {
	if n <= 0 {
		return
	}
	f.add(func(c Call) (Fault, bool, bool) {
		if op != OpAny && op != c.Op {
			return Fault{}, false, false
		}
		n--
		return fault, true, n == 0
	})
}

// decide counts the call and asks the rules. Of several rules that would fail
// it only the first is used up.
func (f *FaultyKV) decide(c Call, count *int) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	*count++
	c.N = *count
	f.stats.KeysRead += len(c.Keys)
	var out Fault
	kept := f.rules[:0:0]
	failed := false
	for _, r := range f.rules {
		if failed {
			kept = append(kept, r)
			continue
		}
		fault, hit, done := r(c)
		if hit {
			out.Before += fault.Before
			out.After += fault.After
			if fault.Drop != nil || fault.Lose != nil || fault.Hang {
				out.Drop, out.Lose, out.Hang, failed = fault.Drop, fault.Lose, fault.Hang, true
			}
		}
		if !done {
			kept = append(kept, r)
		}
	}
	f.rules = kept
	if failed {
		f.stats.Failed++
	}
	return out
}

func (f *FaultyKV) count(add func(*Stats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add(&f.stats)
}

// before plays the request's way to the store.
func (fault Fault) before(ctx context.Context) error {
	if err := sleep(ctx, fault.Before); err != nil {
		return err
	}
	if fault.Drop != nil {
		return fault.Drop
	}
	if fault.Hang && fault.Lose == nil {
		<-ctx.Done()
		return fmt.Errorf("authstoretest: injected hang: %w", context.Cause(ctx))
	}
	return nil
}

// after plays the reply's way back.
func (fault Fault) after(ctx context.Context) error {
	if err := sleep(ctx, fault.After); err != nil {
		return err
	}
	if fault.Hang {
		<-ctx.Done()
		return fmt.Errorf("authstoretest: injected hang: %w", context.Cause(ctx))
	}
	return fault.Lose
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("authstoretest: injected latency: %w", context.Cause(ctx))
	}
}

// Get implements authstore.KV.
func (f *FaultyKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	fault := f.decide(Call{Op: OpGet, Keys: keys}, &f.stats.Gets)
	if err := fault.before(ctx); err != nil {
		return nil, err
	}
	got, err := f.kv.Get(ctx, keys...)
	if err != nil {
		return nil, err
	}
	if err := fault.after(ctx); err != nil {
		return nil, err
	}
	f.count(func(s *Stats) {
		s.EntriesRead += len(got)
		for _, v := range got {
			s.BytesRead += len(v)
		}
	})
	return got, nil
}

// Scan implements authstore.KV. A lost reply is an error after the last entry:
// the consumer must not take what it saw for all there is.
func (f *FaultyKV) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		fault := f.decide(Call{Op: OpScan, Kind: kind, Prefix: idPrefix}, &f.stats.Scans)
		if err := fault.before(ctx); err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		for e, err := range f.kv.Scan(ctx, kind, idPrefix) {
			if err == nil {
				f.count(func(s *Stats) { s.EntriesRead++; s.BytesRead += len(e.Value) })
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := fault.after(ctx); err != nil {
			yield(authstore.Entry{}, err)
		}
	}
}

// Commit implements authstore.KV.
func (f *FaultyKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	fault := f.decide(Call{Op: OpCommit, Epoch: epoch, Batch: b}, &f.stats.Commits)
	if err := fault.before(ctx); err != nil {
		return err
	}
	if err := f.kv.Commit(ctx, epoch, b); err != nil {
		return err
	}
	f.count(func(s *Stats) {
		s.Puts += len(b.Put)
		s.Deletes += len(b.Delete)
		for _, e := range b.Put {
			s.BytesWritten += len(e.Value)
		}
	})
	return fault.after(ctx)
}

// Limits implements authstore.KV.
func (f *FaultyKV) Limits() authstore.Limits { return f.kv.Limits() }
