package stability

import (
	"fmt"
	"time"
)

// seat is where this instance stands with the lock: activation, standby and
// closing. Decisions within a term are made in internal/term. Guarded by
// Manager.mu; it does no I/O and tells nobody.
type seat struct {
	at    place
	since time.Time   // when the present term began, or the last one ended
	rest  rest        // behind a term that this instance gave up
	twin  bool        // another process uses our instance id
	terms []time.Time // when terms began, newest last, bounded
}

// rest is what an instance remembers of a lock that it gave up.
type rest struct {
	own   bool      // this process gave it up, and nobody has connected here since
	until time.Time // it does not ask for the lock before
}

// place is one of the states of a seat.
type place uint8

const (
	passive place = 1 << iota // it does not hold the lock, and was not refused since it did
	standby                   // another instance holds the lock
	active                    // it holds the lock
	leaving                   // its term has ended, and is being torn down
	shut                      // Close has begun
)

func (p place) String() string {
	switch p {
	case passive:
		return "passive"
	case standby:
		return "standby"
	case active:
		return "active"
	case leaving:
		return "leaving"
	case shut:
		return "shut"
	}
	return fmt.Sprintf("place(%d)", uint8(p))
}

// turnover is what a seat learns.
type turnover uint8

const (
	granted  turnover = iota // the lock, and the state was read
	refused                  // the lock: another instance holds it
	ended                    // the term: nobody may use it from now on
	tornDown                 // the term: all of it has ended, the lock is released
	closing                  // Close was called
	turnovers
)

// seatTable is everything that a seat does. Where there is no row, nothing
// changes: a refusal is told once, a term ends once, and what is shut stays so.
var seatTable = []struct {
	on       turnover
	from, to place
	why      string
}{
	{granted, passive | standby, active, "a term begins"},
	{refused, passive, standby, "it stands by, and says so"},
	{ended, active, leaving, "it is passive for everybody from now on, however long the tear-down takes"},
	{tornDown, leaving, passive, "another term may begin"},
	{closing, passive | standby | active | leaving, shut, "no other term begins; a present one is torn down"},
}

// take reports whether the seat changed.
func (s *seat) take(what turnover, now time.Time) bool {
	if what == granted || what == ended {
		s.since = now // also of a term that ends because this instance closes
	}
	for _, row := range seatTable {
		if row.on == what && row.from&s.at != 0 {
			s.at = row.to
			return true
		}
	}
	return false
}

// maxTerms bounds the list of beginnings that is kept.
const maxTerms = 32

// began notes a term for those who count them; behind a yield it is no flapping.
func (s *seat) began(now time.Time, behindYield bool) {
	s.twin = false
	if !behindYield {
		s.terms = append(s.terms[max(0, len(s.terms)-maxTerms):], now)
	}
}
