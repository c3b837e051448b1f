package main

import (
	"fmt"
	"io"
)

// report is what a person reads.
type report struct {
	out            io.Writer
	parts          []*part
	passed, failed int
	broken         []string // the failed checks, as "DoD-WA-1: what"
}

// part is what was asked for under one id.
type part struct {
	id             string
	passed, failed int
}

func (r *report) begin(id, title string) {
	r.parts = append(r.parts, &part{id: id})
	fmt.Fprintf(r.out, "\n%s  %s\n", id, title)
}

// add appends what another report holds, and prints it. That report wrote into a
// buffer.
func (r *report) add(one *report) {
	fmt.Fprint(r.out, one.out)
	r.parts = append(r.parts, one.parts...)
	r.passed += one.passed
	r.failed += one.failed
	r.broken = append(r.broken, one.broken...)
}

// check notes one result. detail says what was seen; it is shown when it helps.
func (r *report) check(what string, ok bool, detail string) bool {
	mark, now := "✅", r.parts[len(r.parts)-1]
	if ok {
		r.passed++
		now.passed++
	} else {
		r.failed++
		now.failed++
		mark = "❌"
		r.broken = append(r.broken, now.id+": "+what)
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

// summary prints a line for each part, then one for all, and returns the exit
// code. If nothing was checked, nothing has passed.
func (r *report) summary() int {
	verdict := func(passed, failed int) string {
		if failed > 0 || passed == 0 {
			return "❌ FAIL"
		}
		return "✅ PASS"
	}
	fmt.Fprintln(r.out)
	for _, p := range r.parts {
		fmt.Fprintf(r.out, "%s: %s\n", p.id, verdict(p.passed, p.failed))
	}
	fmt.Fprintf(r.out, "All: %s (%d checks, %d passed, %d failed)\n", verdict(r.passed, r.failed), r.passed+r.failed, r.passed, r.failed)
	if r.failed > 0 || r.passed == 0 {
		return 1
	}
	return 0
}
