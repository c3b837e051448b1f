package main

import (
	"fmt"
	"io"
)

// report is what a person reads.
type report struct {
	out            io.Writer
	id             string
	passed, failed int
	broken         []string // the failed checks, as "DoD-WA-1: what"
}

func (r *report) begin(id, title string) {
	r.id = id
	fmt.Fprintf(r.out, "\n%s  %s\n", id, title)
}

// check notes one result. detail says what was seen; it is shown when it helps.
func (r *report) check(what string, ok bool, detail string) bool {
	mark := "✅"
	if ok {
		r.passed++
	} else {
		r.failed++
		mark = "❌"
		r.broken = append(r.broken, r.id+": "+what)
	}
	line := "  " + mark + " " + what
	if detail != "" {
		line += " (" + detail + ")"
	}
	fmt.Fprintln(r.out, line)
	return ok
}

// checkf is check with a detail that is put together.
func (r *report) checkf(what string, ok bool, format string, args ...any) bool {
	return r.check(what, ok, fmt.Sprintf(format, args...))
}
