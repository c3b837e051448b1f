package lock

import (
	"sync"
	"sync/atomic"
	"time"
)

// clocks adds up by how much the wall clock has run ahead of the monotonic
// one: the time that a suspended machine missed. Steps back are not taken off
// it, lest they hide a suspend.
type clocks struct {
	shift func() time.Duration // moves the wall clock, in tests only
	start time.Time

	last atomic.Pointer[reading]
	mu   sync.Mutex // held by who replaces last
}

// reading is the account at one moment.
type reading struct {
	ahead int64 // ns that the wall clock has ever gained
	off   int64 // wall clock − monotonic clock
}

// instant is a moment on the monotonic clock, and the account at that moment.
type instant struct {
	time.Time
	ahead int64
}

func (c *clocks) init() {
	c.start = time.Now()
	c.last.Store(&reading{off: c.off(c.start)})
}

func (c *clocks) off(now time.Time) int64 {
	off := now.UnixNano() - int64(now.Sub(c.start))
	if c.shift != nil {
		off += int64(c.shift())
	}
	return off
}

// ahead is the account as of now: it takes no lock and allocates nothing.
func (c *clocks) ahead(now time.Time) int64 { return c.read(now).ahead }

func (c *clocks) read(now time.Time) reading {
	last, off := c.last.Load(), c.off(now)
	return reading{ahead: last.ahead + max(0, off-last.off), off: off}
}

// now reads the clocks and enters the reading into the account.
func (c *clocks) now() instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	r := c.read(now)
	c.last.Store(&r)
	return instant{now, r.ahead}
}

// watchClocks enters readings until done, so that a suspend and a step back are
// told apart unless both fall between two of them.
func (l *Lease) watchClocks(done <-chan struct{}, each func(instant)) {
	tick := time.NewTicker(l.cfg.checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			now := l.clocks.now()
			if each != nil {
				each(now)
			}
		}
	}
}
