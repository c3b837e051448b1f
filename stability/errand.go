package stability

import (
	"sync"
	"sync/atomic"
	"time"
)

// errand is work of one term that is done when somebody rings for it, or when it is
// due. No goroutine waits for that: of a quiet account there is nothing to do for
// hours.
type errand struct {
	wg *sync.WaitGroup          // has the goroutine that does it
	do func() (again time.Time) // returns when to do it again; zero: in an hour

	mu    sync.Mutex // guards what follows; never held while it is done
	timer *time.Timer
	busy  bool // it is being done
	rung  bool // and must be done once more behind that
	over  bool // the term is
}

func newErrand(wg *sync.WaitGroup, do func() (again time.Time)) *errand {
	e := &errand{wg: wg, do: do}
	e.timer = time.AfterFunc(time.Hour, e.ring)
	return e
}

// ring has it done, soon and once for any number of rings. It never blocks.
func (e *errand) ring() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.over:
	case e.busy:
		e.rung = true
	default:
		e.busy = true
		e.wg.Go(e.run)
	}
}

func (e *errand) run() {
	for !e.rests(e.do()) {
	}
}

// rests ends the goroutine that has done it, unless somebody rang meanwhile.
func (e *errand) rests(again time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rung && !e.over {
		e.rung = false
		return false
	}
	e.busy = false
	if !e.over {
		wait := time.Hour
		if !again.IsZero() {
			wait = max(time.Until(again), time.Second)
		}
		e.timer.Reset(wait)
	}
	return true
}

// end lets nothing begin any more. The WaitGroup waits for the work that is
// under way.
func (e *errand) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	e.timer.Stop()
}

// doorbell rings for the errand of the present term, if there is one.
type doorbell struct{ at atomic.Pointer[errand] }

// leave forgets an errand whose term is over, and with it all that the term held.
func (d *doorbell) leave(e *errand) { d.at.CompareAndSwap(e, nil) }

func (d *doorbell) ring() {
	if e := d.at.Load(); e != nil {
		e.ring()
	}
}
