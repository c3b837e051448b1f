package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// line is one row of the table.
func (res result) line() string {
	s := fmt.Sprintf("%-16s %-52s %6.1f s  %s", res.verdict, res.defect.id(), res.took.Seconds(), res.test)
	switch res.verdict {
	case survived:
		s += "\n    " + res.defect.sentence
	case broken:
		s += "\n    " + strings.ReplaceAll(res.detail, "\n", "\n    ")
	case none, accepted:
		s += res.detail
	}
	return strings.TrimRight(s, " ")
}

// count is what came of some defects.
type count struct{ defects, caught, survived, broken int }

func (c *count) add(v verdict) {
	c.defects++
	switch v {
	case caught, hung:
		c.caught++
	case survived, accepted:
		c.survived++
	case broken:
		c.broken++
	}
}

func (c count) String() string {
	s := fmt.Sprintf("%4d of %4d caught", c.caught, c.defects)
	if c.defects > 0 {
		s += fmt.Sprintf(" (%5.1f %%)", 100*float64(c.caught)/float64(c.defects))
	}
	if c.survived > 0 {
		s += fmt.Sprintf(", %d survived", c.survived)
	}
	if c.broken > 0 {
		s += fmt.Sprintf(", %d errors", c.broken)
	}
	return s
}

// report prints the figures and returns how many results are not as they must be.
func report(w io.Writer, results []result) (bad int) {
	var all, lost count
	same := 0
	byPkg := map[string]*count{}
	var pkgs []string
	for _, res := range results {
		if res.verdict == none {
			same++
			continue
		}
		if res.verdict == survived || res.verdict == broken {
			bad++
		}
		all.add(res.verdict)
		if res.defect.loses != "" {
			lost.add(res.verdict)
		}
		pkg := res.defect.pkg
		if byPkg[pkg] == nil {
			byPkg[pkg] = &count{}
			pkgs = append(pkgs, pkg)
		}
		byPkg[pkg].add(res.verdict)
	}
	slices.Sort(pkgs)
	fmt.Fprintln(w)
	for _, pkg := range pkgs {
		fmt.Fprintf(w, "%-40s %s\n", pkg, byPkg[pkg])
	}
	fmt.Fprintf(w, "%-40s %s\n", "all", all)
	if lost.defects > 0 {
		fmt.Fprintf(w, "%-40s %s\n", "  that lose a message or a session", lost)
	}
	if same > 0 {
		fmt.Fprintf(w, "%-40s %4d\n", "no defects (nobody can see them)", same)
	}
	return bad
}
