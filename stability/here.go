package stability

import (
	"sync"

	"github.com/wastability/wastability/lock"
)

// holding are the terms of all Managers of this process: a lock says who holds
// it, but not where that runs.
var holding struct {
	mu    sync.Mutex
	terms map[possession]int
}

// possession is a term as other holders see it. The epoch tells the accounts
// apart that one instance id holds.
type possession struct {
	holder string
	epoch  int64
}

func (t *term) possession() possession {
	return possession{t.hold.Record().Holder, t.hold.Epoch()}
}

func (p possession) begins() { p.count(1) }
func (p possession) ends()   { p.count(-1) }

func (p possession) count(n int) {
	holding.mu.Lock()
	defer holding.mu.Unlock()
	if holding.terms == nil {
		holding.terms = map[possession]int{}
	}
	if holding.terms[p] += n; holding.terms[p] <= 0 {
		delete(holding.terms, p)
	}
}

// heldHere reports whether a Manager of this process wrote a record that
// another one sees.
func heldHere(rec lock.Record) bool {
	holding.mu.Lock()
	defer holding.mu.Unlock()
	return holding.terms[possession{rec.Holder, rec.Epoch}] > 0
}
