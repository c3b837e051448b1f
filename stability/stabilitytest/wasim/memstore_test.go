package wasim_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A message that a contact loses for reasons of its own would be blamed on the host
// under test.
func TestContactsThatWriteToEachOtherAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	rounds, n := stabilitytest.Pick(5, 50), 20
	for range rounds {
		s := wasim.New(wasim.WithTB(t))
		require.NoError(t, s.Listen())
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		greet(t, a, b)
		var wg sync.WaitGroup
		for _, p := range [][2]*wasim.Contact{{a, b}, {b, a}} {
			wg.Go(func() {
				for i := range n {
					_, err := p[0].Send(t.Context(), p[1].JID(), fmt.Sprint(i))
					if err != nil {
						t.Errorf("sending: %v", err)
					}
				}
			})
		}
		wg.Wait()
		for _, c := range []*wasim.Contact{a, b} {
			eventually(t, "all messages", func() bool { return len(c.Texts()) == n+1 })
			require.Zero(t, c.Undecryptable())
		}
		s.Close()
	}
}
