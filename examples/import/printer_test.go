package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// long is a move of 60 s, told of twice a second.
func long(p *printer) {
	for table := 1; table <= 2; table++ {
		for n := 1; n <= 60; n++ {
			time.Sleep(500 * time.Millisecond)
			p.show(authstore.Progress{Phase: "copy", Kind: "session", Table: table, Tables: 2, Done: 10 * n, Total: 600, Bytes: int64(1000 * n)})
		}
	}
}

func TestProgressIsOneLineOnATerminalOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newPrinter(&out)
		p.pause = 10 * time.Second
		long(p)
		require.Equal(t, 6, strings.Count(out.String(), "\n"), "a line each ten seconds:\n%s", out.String())
		require.NotContains(t, out.String(), "\x1b")
		require.Contains(t, out.String(), "table 2 of 2 (session, 600 of 600 rows); 1200 rows, 60000 bytes written, 20 rows/s\n")

		out.Reset()
		p = newPrinter(&out)
		p.live = true
		long(p)
		require.Equal(t, 120, strings.Count(out.String(), "\r\x1b[K"))
		require.Equal(t, 1, strings.Count(out.String(), "\n"), "one line")

		for _, live := range []bool{false, true} {
			out.Reset()
			p = newPrinter(&out)
			p.pause, p.live = 10*time.Second, live
			for n := 1; n <= 120; n++ {
				time.Sleep(500 * time.Millisecond)
				p.resealed(10*n, 1200)
			}
			require.Equal(t, map[bool]int{true: 120}[live], strings.Count(out.String(), "\r\x1b[K"))
			require.Equal(t, map[bool]int{true: 1, false: 6}[live], strings.Count(out.String(), "\n"))
			require.Contains(t, out.String(), "reseal  1200 of 1200 rows, 20 rows/s\n")
		}
	})
}
