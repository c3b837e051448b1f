package lock

import "time"

// SetWallShift moves the wall clock of l. Call it before l is used.
func SetWallShift(l *Lease, shift func() time.Duration) { l.clocks.shift = shift }

// StopExpiry stops the timer at the end of the term's window: so it is in a
// process that has just woken and whose timers have not run yet.
func StopExpiry(t Term) {
	in := t.(*term)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.expiry.Stop()
}
