package stability

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Everything that can be learned, in every place: what is not in the table
// changes nothing, and what is shut stays shut.
func TestSeatDoesWhatItsTableSays(t *testing.T) {
	want := map[place]map[turnover]place{
		passive: {granted: active, refused: standby, closing: shut},
		standby: {granted: active, closing: shut},
		active:  {ended: leaving, closing: shut},
		leaving: {tornDown: passive, closing: shut},
		shut:    {},
	}
	for from, moves := range want {
		for what := range turnovers {
			s := seat{at: from}
			to, moved := moves[what]
			require.Equal(t, moved, s.take(what, time.Now()), "%s, %d", from, what)
			if !moved {
				to = from
			}
			require.Equal(t, to, s.at, "%s, %d", from, what)
		}
	}
	for _, row := range seatTable {
		require.NotZero(t, row.from)
		require.Contains(t, want, row.to)
		require.NotEmpty(t, row.why)
	}
}

func TestSeatHoldsOneTermAtATimeAndNoneOnceShut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s, now := seat{at: passive}, time.Now()
		held, over := false, false
		for range 100 {
			what := turnover(rng.IntN(int(turnovers)))
			now = now.Add(time.Second)
			moved := s.take(what, now)
			switch {
			case what == granted && moved:
				require.False(t, held || over, "a second term began")
				held = true
			case what == ended && moved:
				require.True(t, held)
			case what == tornDown && moved:
				held = false
			case what == closing:
				require.Equal(t, !over, moved, "it closes once")
				over = true
			}
			require.Equal(t, over, s.at == shut)
		}
	}
}

func TestTermsBehindAYieldAreNotCounted(t *testing.T) {
	var s seat
	now := time.Now()
	for i := range 3 * maxTerms {
		s.began(now.Add(time.Duration(i)*time.Second), i%3 == 0)
	}
	require.LessOrEqual(t, len(s.terms), maxTerms+1, "bounded")
	require.Equal(t, now.Add(time.Duration(3*maxTerms-1)*time.Second), s.terms[len(s.terms)-1])
	require.NotContains(t, s.terms, now.Add(time.Duration(3*maxTerms-3)*time.Second))
}
