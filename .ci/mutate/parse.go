package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// defect is one entry of a list. A list is a text file:
//
//	package lock
//
//	[released-late]
//	A new instance waits for the whole lease after a clean stop.
//	loses: session
//	test: TestReleaseFrees
//	@@ release.go term.release
//	 if held {
//	-	return t.store.Release(ctx)
//	+	return nil
//	 }
//
// The first line names the package of all that follows, by its folder. An entry
// begins with its name in brackets. The lines up to the first key say what a user
// would lose. The keys, each of which may be left out:
//
//	loses     message or session, if the sentence says that one of these is lost
//	test      the test that should notice; it runs first. Several: TestA TestB
//	in        the folder of the package whose tests these are, if it is another one
//	tags      build tags to test with
//	same      why nobody can see a difference: the defect is none, and is not run
//	survives  why no test notices: it counts as survived, but is not an error
//
// "@@ file declaration" begins a change in that function, method (T.name), type,
// variable or constant; "import" is the import declaration. Its lines are those of
// a patch: " " stays, "-" goes, "+" comes. The lines that stay and go must be found
// exactly once in the declaration; white space at their ends is ignored. A line
// that begins with # is a comment.
type defect struct {
	pkg, name, sentence string
	loses               string
	tests               []string
	in                  string
	tags                string
	same, survives      string
	changes             []change
}

type change struct {
	file, decl string
	old, new   []string
}

func (d defect) id() string { return d.pkg + "/" + d.name }

// testPkg is the folder of the package whose tests should notice.
func (d defect) testPkg() string {
	if d.in != "" {
		return d.in
	}
	return d.pkg
}

var (
	heading = regexp.MustCompile(`^\[([a-z0-9-]+)\]$`)
	key     = regexp.MustCompile(`^(loses|test|in|tags|same|survives): *(.+)$`)
)

// load reads all lists of a folder.
func load(dir string) ([]defect, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no lists in %s (%v)", dir, err)
	}
	var list []defect
	ids := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		some, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		for _, d := range some {
			if other := ids[d.id()]; other != "" {
				return nil, fmt.Errorf("%s: %s is in %s too", filepath.Base(f), d.id(), other)
			}
			ids[d.id()] = filepath.Base(f)
		}
		list = append(list, some...)
	}
	return list, nil
}

// parse reads one list.
func parse(text string) ([]defect, error) {
	var list []defect
	var pkg string
	for i, line := range strings.Split(text, "\n") {
		bad := func(what string) error { return fmt.Errorf("line %d: %s: %q", i+1, what, line) }
		if strings.HasPrefix(line, "#") {
			continue
		}
		if pkg == "" {
			if strings.TrimSpace(line) == "" {
				continue
			}
			var ok bool
			if pkg, ok = strings.CutPrefix(line, "package "); !ok {
				return nil, bad("a list begins with its package")
			}
			continue
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			list = append(list, defect{pkg: pkg, name: m[1]})
			continue
		}
		if len(list) == 0 {
			if strings.TrimSpace(line) == "" {
				continue
			}
			return nil, bad("an entry begins with its name in brackets")
		}
		if err := list[len(list)-1].add(line); err != nil {
			return nil, bad(err.Error())
		}
	}
	for _, d := range list {
		if err := d.complete(); err != nil {
			return nil, fmt.Errorf("[%s]: %w", d.name, err)
		}
	}
	return list, nil
}

// add takes one line of the entry in.
func (d *defect) add(line string) error {
	if where, ok := strings.CutPrefix(line, "@@ "); ok {
		file, decl, ok := strings.Cut(where, " ")
		if !ok {
			return errors.New("a change begins with its file and declaration")
		}
		d.changes = append(d.changes, change{file: file, decl: strings.TrimSpace(decl)})
		return nil
	}
	if n := len(d.changes); n > 0 {
		return d.changes[n-1].add(line)
	}
	if m := key.FindStringSubmatch(line); m != nil {
		switch value := strings.TrimSpace(m[2]); m[1] {
		case "loses":
			d.loses = value
		case "test":
			d.tests = strings.Fields(value)
		case "in":
			d.in = value
		case "tags":
			d.tags = value
		case "same":
			d.same = value
		case "survives":
			d.survives = value
		}
		return nil
	}
	d.sentence = strings.TrimSpace(d.sentence + " " + strings.TrimSpace(line))
	return nil
}

// add takes one line of a patch in. An empty line is one that stays, or the space
// between two entries.
func (c *change) add(line string) error {
	mark, rest := " ", ""
	if line != "" {
		mark, rest = line[:1], line[1:]
	}
	rest = strings.TrimSpace(rest)
	switch mark {
	case " ", "\t":
		c.old, c.new = append(c.old, rest), append(c.new, rest)
	case "-":
		c.old = append(c.old, rest)
	case "+":
		c.new = append(c.new, rest)
	default:
		return errors.New(`a line of a change begins with " ", "-" or "+"`)
	}
	return nil
}

// complete says what is missing, and takes the empty lines at the end of a change
// away.
func (d *defect) complete() error {
	if d.sentence == "" {
		return errors.New("no sentence says what a user would lose")
	}
	if d.loses != "" && d.loses != "message" && d.loses != "session" {
		return fmt.Errorf("loses: %q is neither message nor session", d.loses)
	}
	if len(d.changes) == 0 {
		return errors.New("it changes nothing")
	}
	for i := range d.changes {
		c := &d.changes[i]
		for len(c.old) > 0 && len(c.new) > 0 && c.old[len(c.old)-1] == "" && c.new[len(c.new)-1] == "" {
			c.old, c.new = c.old[:len(c.old)-1], c.new[:len(c.new)-1]
		}
		if len(c.old) == 0 {
			return fmt.Errorf("nothing of %s %s is named", c.file, c.decl)
		}
		if strings.Join(c.old, "\n") == strings.Join(c.new, "\n") {
			return fmt.Errorf("the change in %s %s changes nothing", c.file, c.decl)
		}
	}
	return nil
}
