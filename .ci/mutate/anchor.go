package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// fits says which defects no longer fit the code, or name a test that is not
// there.
func fits(root string, defects []defect) error {
	var errs []error
	tests := map[string][]string{}
	for _, d := range defects {
		if _, err := d.apply(root); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.id(), err))
		}
		pkg := d.testPkg()
		if tests[pkg] == nil {
			names, err := testsOf(filepath.Join(root, pkg))
			if err != nil {
				return err
			}
			tests[pkg] = names
		}
		for _, name := range d.tests {
			if !slices.Contains(tests[pkg], name) {
				errs = append(errs, fmt.Errorf("%s: %s has no test %s", d.id(), pkg, name))
			}
		}
	}
	return errors.Join(errs...)
}

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Example|Fuzz|Benchmark)\w*)\(`)

// testsOf lists the tests of the package in a folder, whatever their build tags.
func testsOf(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s has no tests (%v)", dir, err)
	}
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names, nil
}

// apply returns the files with the defect in them, by their full path.
func (d defect) apply(root string) (map[string]string, error) {
	files := map[string]string{}
	for _, c := range d.changes {
		path := filepath.Join(root, d.pkg, c.file)
		text, ok := files[path]
		if !ok {
			read, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			text = string(read)
		}
		text, err := c.apply(text)
		if err != nil {
			return nil, err
		}
		files[path] = text
	}
	return files, nil
}

// apply returns the file's text with the change made.
func (c change) apply(text string) (string, error) {
	from, to, err := find(text, c.decl)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.file, err)
	}
	lines := strings.SplitAfter(text, "\n")
	at := -1
	for i := from; i+len(c.old) <= to; i++ {
		if !equal(lines[i:i+len(c.old)], c.old) {
			continue
		}
		if at >= 0 {
			return "", fmt.Errorf("%s: %s has this text twice: %s", c.file, c.decl, strings.Join(c.old, " ⏎ "))
		}
		at = i
	}
	if at < 0 {
		return "", fmt.Errorf("%s: %s has no such text: %s", c.file, c.decl, strings.Join(c.old, " ⏎ "))
	}
	var b strings.Builder
	for _, l := range lines[:at] {
		b.WriteString(l)
	}
	for _, l := range c.new {
		b.WriteString(l + "\n")
	}
	for _, l := range lines[at+len(c.old):] {
		b.WriteString(l)
	}
	return b.String(), nil
}

func equal(lines, old []string) bool {
	for i := range lines {
		if strings.TrimSpace(lines[i]) != old[i] {
			return false
		}
	}
	return true
}

// find returns the lines of a declaration, from the first to behind the last.
func find(text, name string) (from, to int, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", text, parser.SkipObjectResolution)
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for _, decl := range file.Decls {
		if !slices.Contains(names(decl), name) {
			continue
		}
		found++
		from, to = fset.Position(decl.Pos()).Line-1, fset.Position(decl.End()).Line
	}
	if found != 1 {
		return 0, 0, fmt.Errorf("%q is declared %d times", name, found)
	}
	return from, to, nil
}

// names are those that a declaration declares.
func names(decl ast.Decl) (list []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		return []string{receiver(d.Recv.List[0].Type) + "." + d.Name.Name}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ImportSpec:
				return []string{"import"}
			case *ast.TypeSpec:
				list = append(list, s.Name.Name)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					list = append(list, n.Name)
				}
			}
		}
	}
	return list
}

// receiver is the name of a method's type.
func receiver(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}
