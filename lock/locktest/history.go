package locktest

import (
	"context"
	"errors"
	"iter"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/wastability/wastability/lock"
)

// Recorder writes down the calls that go through the stores it wraps, and
// checks them for linearizability. They pass if there is one order of the
// calls in which one lock would have given all these answers. Each call is
// placed at some moment between its beginning and its end. A call that failed
// may have happened at any moment after its beginning, or never.
type Recorder struct {
	// Slack is how far the store's clock may differ from this process's over
	// one lease, for stores that round or have a clock of their own.
	Slack time.Duration
	// Now is the clock of the history; default time.Now. Set it, before the
	// first call, where the store's clock can run away from this process's.
	Now func() time.Time

	start time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	conns int
}

// NewRecorder begins a history.
func NewRecorder() *Recorder { return &Recorder{Now: time.Now, start: time.Now()} }

// Wrap records the calls to s. If s is a lock.Watcher, so is the result.
func (r *Recorder) Wrap(s lock.Store) lock.Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	rs := recorded{r: r, s: s, id: r.conns}
	if w, ok := s.(lock.Watcher); ok {
		return recordedWatcher{rs, w}
	}
	return rs
}

// Check fails the test if the history so far is not linearizable. It reports
// how many calls it judged, and whether it came to an answer in time.
func (r *Recorder) Check(t *testing.T, timeout time.Duration) (calls int, decided bool) {
	t.Helper()
	r.mu.Lock()
	ops := append([]porcupine.Operation(nil), r.ops...)
	r.mu.Unlock()
	model := model(r.Slack)
	switch porcupine.CheckOperationsTimeout(model, ops, timeout) {
	case porcupine.Illegal:
		t.Errorf("locktest: the history of %d calls is not linearizable", len(ops))
		for _, op := range ops {
			t.Logf("%d [%v %v] %s", op.ClientId, time.Duration(op.Call), time.Duration(op.Return), describe(op.Input, op.Output))
		}
	case porcupine.Ok:
		decided = true
	}
	return len(ops), decided
}

type input struct {
	op            Op
	holder, nonce string // acquire
	held          lock.Record
	lease         time.Duration
	call          int64
}

type output struct {
	rec     lock.Record
	granted bool
	lost    bool
	unknown bool // the call failed: it may have happened, or may still happen
	ret     int64
}

const never = math.MaxInt64 / 4

func (r *Recorder) clock() int64 { return int64(r.Now().Sub(r.start)) }

func (r *Recorder) end(client int, in input, out output, err error) {
	out.ret = r.clock()
	if err != nil {
		out.lost = errors.Is(err, lock.ErrLost)
		out.unknown = !out.lost
	}
	if out.unknown {
		if in.op == OpLoad {
			return
		}
		out.ret = never
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Call: in.call, Output: out, Return: out.ret})
}

type recorded struct {
	r  *Recorder
	s  lock.Store
	id int
}

type recordedWatcher struct {
	recorded
	w lock.Watcher
}

func (s recordedWatcher) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return s.w.Changes(ctx)
}

func (s recorded) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	in := input{op: OpAcquire, holder: holder, nonce: nonce, lease: lease, call: s.r.clock()}
	rec, granted, err := s.s.Acquire(ctx, holder, nonce, lease)
	s.r.end(s.id, in, output{rec: rec, granted: granted}, err)
	return rec, granted, err
}

func (s recorded) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	in := input{op: OpRenew, held: held, lease: held.Lease, call: s.r.clock()}
	rec, err := s.s.Renew(ctx, held)
	s.r.end(s.id, in, output{rec: rec}, err)
	return rec, err
}

func (s recorded) Release(ctx context.Context, held lock.Record) error {
	in := input{op: OpRelease, held: held, call: s.r.clock()}
	err := s.s.Release(ctx, held)
	s.r.end(s.id, in, output{}, err)
	return err
}

func (s recorded) Load(ctx context.Context) (lock.Record, error) {
	in := input{op: OpLoad, call: s.r.clock()}
	rec, err := s.s.Load(ctx)
	s.r.end(s.id, in, output{rec: rec}, err)
	return rec, err
}
