package authstore

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Windows keep a session's read and the write that follows from it together,
// per address. doc.go says what the rules are; here is how they are kept.
//
// A receive's window belongs to its transaction. A send has no token that
// reaches the store: contexts are shared and derived. But it reads and writes
// in one goroutine, so its window belongs to the goroutine. Should a client
// ever write from another one, an undisturbed window still counts as its own.

type windows struct {
	wait  time.Duration   // how long others wait for a send
	limit time.Duration   // how much longer one who holds something waits
	over  <-chan struct{} // the term

	mu      sync.Mutex // memory only
	changed chan struct{}
	held    map[string]*claim              // by address
	wide    []*claim                       // exclusive, by match
	sends   map[int64][]*claim             // by goroutine
	broken  map[int64]map[string]time.Time // what a goroutine read and lost
	pending []*claim                       // in order of arrival
	swept   time.Time                      // when abandoned claims were last looked for
}

func newWindows(wait, limit time.Duration, over <-chan struct{}) *windows {
	return &windows{
		wait: wait, limit: limit, over: over, changed: make(chan struct{}),
		held: make(map[string]*claim), sends: make(map[int64][]*claim), broken: make(map[int64]map[string]time.Time),
	}
}

// open adds addrs to c's window and waits for those who are in the way.
func (w *windows) open(ctx context.Context, c *claim, addrs []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweep()
	missing := addrs[:0:0]
	for _, a := range addrs {
		if w.held[a] != c {
			missing = append(missing, a)
		}
	}
	if len(missing) == 0 && c.match == nil {
		return nil
	}
	// A transaction that holds nothing waits behind earlier ones, so that a send
	// to a large group is not starved by a stream of receives. One that holds
	// something must not, or the two would wait for each other.
	queued := len(c.addrs) == 0
	want := &claim{kind: c.kind, addrs: toSet(missing), match: c.match}
	if queued {
		w.pending = append(w.pending, want)
		defer func() {
			w.pending = slices.DeleteFunc(w.pending, func(p *claim) bool { return p == want })
			w.wake()
		}()
	}
	deadline := time.Now().Add(w.wait)
	for {
		next, free := w.clear(c, want, queued, deadline)
		if free {
			break
		}
		if !queued && time.Since(deadline) > w.limit {
			// Two who hold what the other wants. It takes transactions over
			// several addresses, of which whatsmeow has none.
			return fmt.Errorf("%w (held crosswise)", ErrWindowBroken)
		} else if at := deadline.Add(w.limit + 1); !queued && (next.IsZero() || at.Before(next)) {
			next = at
		}
		if err := w.sleep(ctx, next); err != nil {
			return err
		}
	}
	if c.since.IsZero() {
		c.since = time.Now()
	}
	if c.addrs == nil {
		c.addrs = make(map[string]struct{}, len(missing))
	}
	for _, a := range missing {
		w.held[a] = c
		c.addrs[a] = struct{}{}
		delete(w.broken[c.gid], a) // a new read makes good for the lost one
	}
	if c.match != nil {
		w.wide = append(w.wide, c)
	}
	if c.kind == claimMany || c.kind == claimSingle {
		if !slices.Contains(w.sends[c.gid], c) {
			w.sends[c.gid] = append(w.sends[c.gid], c)
		}
	}
	return nil
}

// clear breaks what may be broken now. If something remains in the way, next
// is when to look again at the latest; zero means when woken.
func (w *windows) clear(c, want *claim, queued bool, deadline time.Time) (next time.Time, free bool) {
	now := time.Now()
	free = true
	block := func(at time.Time) {
		free = false
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	visit := func(addr string, other *claim) {
		if other == c {
			return
		}
		if other.gid == c.gid && other.kind != claimTxn && !other.locked {
			// This goroutine's own, so no other work is in progress under it:
			// a delete leaves it alone, a new read replaces it.
			if c.kind != claimExclusive {
				w.take(addr, other)
			}
			return
		}
		at := breakableAt(c.kind, other, deadline)
		if !other.locked && !at.IsZero() && !now.Before(at) {
			w.breakOne(addr, other)
			return
		}
		if other.locked {
			at = time.Time{}
		}
		block(at)
	}
	if want.match != nil {
		for addr, other := range w.held {
			if want.match(addr) {
				visit(addr, other)
			}
		}
	} else {
		for addr := range want.addrs {
			if other := w.held[addr]; other != nil {
				visit(addr, other)
			}
		}
	}
	for _, other := range w.wide {
		if other != c && overlap(other, want) {
			block(time.Time{})
		}
	}
	if queued && now.Before(deadline) {
		for _, p := range w.pending {
			if p == want {
				break
			}
			if overlap(p, want) {
				block(deadline)
			}
		}
	}
	return next, free
}

func (w *windows) breakOne(addr string, c *claim) {
	w.take(addr, c)
	lost := w.broken[c.gid]
	if lost == nil {
		lost = make(map[string]time.Time)
		w.broken[c.gid] = lost
	}
	lost[addr] = time.Now()
}

// take ends c's claim on addr, and forgets c with its last address.
func (w *windows) take(addr string, c *claim) {
	delete(w.held, addr)
	delete(c.addrs, addr)
	if len(c.addrs) == 0 {
		w.forget(c)
	}
}

func (w *windows) forget(c *claim) {
	sends, ok := w.sends[c.gid]
	if !ok {
		return
	}
	if sends = slices.DeleteFunc(sends, func(o *claim) bool { return o == c }); len(sends) == 0 {
		delete(w.sends, c.gid)
	} else {
		w.sends[c.gid] = sends
	}
}

// maxLost is how long a goroutine may take to find that its window was broken.
const maxLost = time.Hour

// sweep looks for goroutines that read and never wrote: a send that lost its
// connection leaves its claim, and with it the context of its request. A write
// that comes after all fails, because somebody else may have written meanwhile.
func (w *windows) sweep() {
	now := time.Now()
	if now.Sub(w.swept) < maxSendAge {
		return
	}
	w.swept = now
	for _, sends := range w.sends {
		for _, c := range slices.Clone(sends) {
			if c.locked || now.Sub(c.since) < maxSendAge {
				continue
			}
			for addr := range c.addrs {
				w.breakOne(addr, c)
			}
			w.wake()
		}
	}
	for gid, lost := range w.broken {
		maps.DeleteFunc(lost, func(_ string, at time.Time) bool { return now.Sub(at) > maxLost })
		if len(lost) == 0 {
			delete(w.broken, gid)
		}
	}
}

func (w *windows) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// sleep waits without the mutex, until something changed or next.
func (w *windows) sleep(ctx context.Context, next time.Time) error {
	changed := w.changed
	w.mu.Unlock()
	defer w.mu.Lock()
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(max(time.Until(next), 0))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-timer:
	case <-w.over:
		return errWindowsOver
	case <-ctx.Done():
		return fmt.Errorf("authstore: waiting for a session in use: %w", context.Cause(ctx))
	}
	return nil
}

// errWindowsOver is replaced by the gate's error.
var errWindowsOver = fmt.Errorf("authstore: the term is over")

// close ends c's window.
func (w *windows) close(c *claim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeLocked(c)
}

func (w *windows) closeLocked(c *claim) {
	for a := range c.addrs {
		if w.held[a] == c {
			delete(w.held, a)
		}
	}
	c.addrs, c.locked = nil, false
	w.wide = slices.DeleteFunc(w.wide, func(o *claim) bool { return o == c })
	w.forget(c)
	w.wake()
}

// readMany opens the window of a send. A goroutine that begins a send has no
// other.
func (w *windows) readMany(ctx context.Context, addrs []string) error {
	gid := w.endSends()
	return w.open(ctx, &claim{kind: claimMany, gid: gid, ctx: ctx}, addrs)
}

// endSends ends the windows of this goroutine's sends.
func (w *windows) endSends() (gid int64) {
	gid = goroutineID()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, old := range slices.Clone(w.sends[gid]) {
		w.closeLocked(old)
	}
	delete(w.broken, gid)
	return gid
}

// readOne opens a window on one address, unless this goroutine has one.
func (w *windows) readOne(ctx context.Context, addr string) error {
	gid := goroutineID()
	w.mu.Lock()
	own := w.held[addr]
	w.mu.Unlock()
	if own != nil && own.gid == gid && (own.kind == claimMany || own.kind == claimSingle) {
		return nil
	}
	return w.open(ctx, &claim{kind: claimSingle, gid: gid, ctx: ctx}, []string{addr})
}

// beginWrite checks that what addrs were read as still stands, and holds them
// until finish is called. many says that a whole send is written.
func (w *windows) beginWrite(ctx context.Context, addrs []string, many bool) (finish func(), err error) {
	gid := goroutineID()
	kind := claimSingle
	if many {
		kind = claimMany
	}
	w.mu.Lock()
	var locked []*claim
	var blind []string
	for _, a := range addrs {
		own := w.held[a]
		_, lost := w.broken[gid][a]
		switch {
		case lost, own != nil && own.gid != gid && own.kind == kind && w.lostByAnyone(a):
			err = fmt.Errorf("%w (%d sessions)", ErrWindowBroken, len(addrs))
		case own != nil && !own.locked && (own.gid == gid && own.kind != claimTxn || own.kind == kind):
			if !slices.Contains(locked, own) {
				locked = append(locked, own)
			}
		default:
			blind = append(blind, a)
		}
	}
	if err != nil {
		for _, own := range slices.Clone(w.sends[gid]) {
			if many || own.kind == claimSingle {
				w.closeLocked(own)
			}
		}
		for _, a := range addrs {
			delete(w.broken[gid], a)
		}
		if many || len(w.broken[gid]) == 0 {
			delete(w.broken, gid)
		}
		w.mu.Unlock()
		return nil, err
	}
	for _, c := range locked {
		c.locked = true
	}
	w.mu.Unlock()
	release := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range locked {
			c.locked = false
			if c.kind == claimSingle || many {
				w.closeLocked(c)
			}
		}
	}
	if len(blind) > 0 {
		// Written without having been read: there is no read to protect, but
		// others' reads are.
		c := &claim{kind: claimTxn, gid: gid, ctx: ctx}
		if err := w.open(ctx, c, blind); err != nil {
			release()
			return nil, err
		}
		first := release
		release = func() { first(); w.close(c) }
	}
	return release, nil
}

// lostByAnyone says that some send's window on addr was broken and its write
// has not come: an unknown writer might be that one.
func (w *windows) lostByAnyone(addr string) bool {
	for _, lost := range w.broken {
		if _, ok := lost[addr]; ok {
			return true
		}
	}
	return false
}

// exclusive holds what match covers, breaking sends on the way.
func (w *windows) exclusive(ctx context.Context, match func(string) bool) (*claim, error) {
	c := &claim{kind: claimExclusive, gid: goroutineID(), match: match, since: time.Now()}
	return c, w.open(ctx, c, nil)
}

// goroutineID reads the number that the runtime prints in front of a stack
// trace. It is unique for the life of the process.
func goroutineID() int64 {
	var buf [64]byte
	b := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	b, _, _ = bytes.Cut(b, []byte(" "))
	id, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("authstore: no goroutine number in %q", buf))
	}
	return id
}
