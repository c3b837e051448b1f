package lock

import "time"

// SetWallShift moves the wall clock of l. Call it before l is used.
func SetWallShift(l *Lease, shift func() time.Duration) { l.clocks.shift = shift }
