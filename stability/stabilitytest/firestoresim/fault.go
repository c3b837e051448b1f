package firestoresim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// Fault is something that goes wrong with an RPC. Make one with the functions
// of this package and arm it with Server.Fault.
type Fault struct {
	name    string
	applies bool  // the request is served, its answer is lost
	err     error // the answer; nil with kindAnswer: silence
	kind    faultKind
	before  time.Duration
	after   time.Duration
	// late serves the request, or serves it again, when this has passed,
	// whoever still waits for it. Not for streams: a read that arrives late does
	// nothing.
	late time.Duration
}

type faultKind int

const (
	kindAnswer faultKind = iota
	kindDelay
	kindTwice // a copy of the request comes later
	kindHang
	kindSilent // a listener that says nothing
	kindCut    // a listener that ends
)

func (f Fault) String() string { return f.name }

// Injection is a fault with a target and a moment. Its methods return it, so
// that they chain; Now arms it, and the others come before it.
type Injection struct {
	s       *Server
	fault   Fault
	methods []Method
	client  string
	named   bool
	skip    int
	every   int
	chance  float64
	rnd     *rand.Rand
	left    int // times to strike; negative: always
	seen    int
	fired   int
	armed   bool
	healed  chan struct{} // closed by Stop
}

// Fault prepares a fault: it strikes once, any call of any client, and not
// before Now arms it.
func (s *Server) Fault(f Fault) *Injection {
	return &Injection{s: s, fault: f, left: 1, every: 1, healed: make(chan struct{})}
}

// On limits the fault to these methods. Faults of listeners need no On.
func (i *Injection) On(methods ...Method) *Injection {
	i.methods = methods
	return i
}

// From limits the fault to clients of this name.
func (i *Injection) From(client string) *Injection {
	i.client, i.named = client, true
	return i
}

// After lets n matching calls pass first.
func (i *Injection) After(n int) *Injection {
	i.skip = n
	return i
}

// Every strikes each nth matching call only: the nth first.
func (i *Injection) Every(n int) *Injection {
	i.every = max(n, 1)
	return i
}

// Chance strikes a matching call with probability p, drawn from a generator
// with this seed.
func (i *Injection) Chance(p float64, seed uint64) *Injection {
	i.chance, i.rnd = p, rand.New(rand.NewPCG(seed, seed))
	return i
}

// Times makes the fault strike n times instead of once.
func (i *Injection) Times(n int) *Injection {
	i.left = n
	return i
}

// Always makes the fault strike until Stop.
func (i *Injection) Always() *Injection { return i.Times(-1) }

// Now arms the fault: it strikes from the next call on. Faults of listeners
// strike those that exist too, all that match whatever Times says.
func (i *Injection) Now() *Injection {
	s := i.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.armed {
		return i
	}
	i.armed = true
	if i.fault.kind == kindSilent || i.fault.kind == kindCut {
		for l := range s.streams {
			if i.matches(l.call) {
				i.fired++
				l.strike(i)
			}
		}
		if i.left > 0 { // those were the ones; Always also strikes what comes
			i.left = 0
		}
	}
	if i.left != 0 {
		s.injections = append(s.injections, i)
	}
	return i
}

// Stop disarms the fault. Held calls and silent listeners go on.
func (i *Injection) Stop() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.stop()
}

func (i *Injection) stop() {
	i.left = 0
	select {
	case <-i.healed:
	default:
		close(i.healed)
	}
	i.s.injections = slices.DeleteFunc(i.s.injections, func(o *Injection) bool { return o == i })
	for l := range i.s.streams {
		l.heal(i)
	}
}

// Fired is how often the fault has struck.
func (i *Injection) Fired() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.fired
}

// Heal stops every fault.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range slices.Clone(s.injections) {
		i.stop()
	}
	for l := range s.streams {
		for i := range l.silent {
			i.stop()
		}
	}
}

func (i *Injection) matches(c *call) bool {
	if i.named && i.client != c.client {
		return false
	}
	if i.fault.kind == kindSilent || i.fault.kind == kindCut {
		return c.method == Listen
	}
	return len(i.methods) == 0 || slices.Contains(i.methods, c.method)
}

// due decides whether a matching call is struck; the caller holds s.mu.
func (i *Injection) due() bool {
	i.seen++
	n := i.seen - i.skip
	if n <= 0 || n%i.every != 0 || i.left == 0 {
		return false
	}
	if i.rnd != nil && i.rnd.Float64() >= i.chance {
		return false
	}
	i.fired++
	if i.left > 0 {
		i.left--
	}
	return true
}

// struckBy are the faults of one call: all delays, and one that answers.
type struckBy struct {
	before, after time.Duration
	holds         []*Injection
	fault         *Fault
	again         []time.Duration // when copies of the request arrive
}

// takeFaults finds the faults that strike a call; the caller holds s.mu.
func (s *Server) takeFaults(c *call) (st struckBy) {
	for _, i := range s.injections {
		if i.fault.kind >= kindSilent || !i.matches(c) {
			continue
		}
		if i.fault.kind == kindAnswer && st.fault != nil {
			continue // one is enough; this one waits for its turn
		}
		if !i.due() {
			continue
		}
		switch i.fault.kind {
		case kindDelay:
			st.before += i.fault.before
			st.after += i.fault.after
		case kindTwice:
			st.again = append(st.again, i.fault.late)
		case kindHang:
			st.holds = append(st.holds, i)
		default:
			f := i.fault
			st.fault = &f
		}
	}
	s.injections = slices.DeleteFunc(s.injections, func(i *Injection) bool { return i.left == 0 })
	return st
}

// hold keeps a call until its fault is stopped or somebody gives up.
func (s *Server) hold(ctx context.Context, i *Injection) error {
	select {
	case <-i.healed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errClosed
	}
}
