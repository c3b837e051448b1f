package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Compiling a package's tests takes longer than running one of them. So all
// defects of a package that are inside functions go into one test binary: each
// function stands in it as it is and with each of its defects, and an
// environment variable chooses. A defect that cannot be combined is compiled alone.

const chosen = "WASTABILITY_DEFECT" // number of the defect in a combined binary

// combined is a test binary with several defects in it.
type combined struct {
	binary, overlay string
	number          map[string]int // by id
}

// batch is what can share a binary.
func (d defect) batch() string { return d.pkg + "|" + d.testPkg() + "|" + d.tags }

// combine builds the shared binaries. Where one does not compile, its defects are
// compiled alone, and the one that does not says so.
func (r *runner) combine(ctx context.Context, defects []defect) error {
	batches := map[string][]defect{}
	for _, d := range defects {
		if d.same == "" {
			batches[d.batch()] = append(batches[d.batch()], d)
		}
	}
	for key, list := range batches {
		if len(list) < 2 {
			continue
		}
		files, number, err := together(r.root, list)
		if err != nil {
			return err
		}
		if len(number) < 2 {
			continue
		}
		dir, err := r.folder()
		if err != nil {
			return err
		}
		overlay, err := write(dir, files)
		if err != nil {
			return err
		}
		c := &combined{filepath.Join(dir, "combined.test"), overlay, number}
		if err := r.build(ctx, list[0].testPkg(), list[0].tags, overlay, c.binary); err != nil {
			fmt.Fprintf(os.Stderr, "mutate: %s: its defects are compiled one by one: %v\n", list[0].pkg, err)
			continue
		}
		r.combined[key] = c
	}
	return nil
}

// together returns the files of a package with all of the defects in them that
// are inside functions, and the numbers of these.
func together(root string, defects []defect) (files map[string]string, number map[string]int, err error) {
	number = map[string]int{}
	forms := map[string]map[string][]form{} // by file and declaration
	for _, d := range defects {
		found, ok := d.forms(root)
		if !ok {
			continue
		}
		number[d.id()] = len(number) + 1
		for path, decls := range found {
			if forms[path] == nil {
				forms[path] = map[string][]form{}
			}
			for decl, text := range decls {
				forms[path][decl] = append(forms[path][decl], form{number[d.id()], text})
			}
		}
	}
	files = map[string]string{}
	for path, decls := range forms {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		if files[path], err = dispatched(string(text), decls); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	for path, text := range files {
		file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.PackageClauseOnly)
		if err != nil {
			return nil, nil, err
		}
		files[filepath.Join(filepath.Dir(path), "zz_chosen_defect.go")] = fmt.Sprintf(
			"package %s\n\nimport (\n\t\"os\"\n\t\"strconv\"\n)\n\nvar chosenDefect = func() int {\n\tn, _ := strconv.Atoi(os.Getenv(%q))\n\treturn n\n}()\n",
			file.Name.Name, chosen)
		break
	}
	return files, number, nil
}

// form is a function with a defect.
type form struct {
	number int
	decl   *function
}

// function is one of a file and its text.
type function struct {
	fn   *ast.FuncDecl
	text string // of the file
	pos  func(token.Pos) int
}

func (s *function) slice(from, to token.Pos) string { return s.text[s.pos(from):s.pos(to)] }

// suffix ends the name of a form; 0 is the one without a defect.
func suffix(number int) string { return fmt.Sprint("Defect", number) }

// renamed is the function under another name.
func (s *function) renamed(suffix string) string {
	return s.slice(s.fn.Pos(), s.fn.Name.End()) + suffix + s.slice(s.fn.Name.End(), s.fn.End())
}

func functions(text string) (map[string]*function, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	out := map[string]*function{}
	for _, decl := range file.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok {
			out[names(fn)[0]] = &function{fn, text, func(p token.Pos) int { return fset.Position(p).Offset }}
		}
	}
	return out, nil
}

// forms are the functions that the defect changes, by file and name; false when
// it changes something else, or a function that takes no second form.
func (d defect) forms(root string) (map[string]map[string]*function, bool) {
	files, err := d.apply(root)
	if err != nil {
		return nil, false
	}
	out := map[string]map[string]*function{}
	for path, text := range files {
		fns, err := functions(text)
		if err != nil {
			return nil, false
		}
		out[path] = map[string]*function{}
		for _, c := range d.changes {
			if filepath.Join(root, d.pkg, c.file) != path {
				continue
			}
			s := fns[c.decl]
			if s == nil || s.fn.Type.TypeParams != nil || s.fn.Recv == nil && slices.Contains([]string{"init", "main", "_"}, s.fn.Name.Name) {
				return nil, false
			}
			out[path][c.decl] = s
		}
	}
	return out, true
}

// dispatched is a file in which each of the functions chooses among its forms.
func dispatched(text string, decls map[string][]form) (string, error) {
	fns, err := functions(text)
	if err != nil {
		return "", err
	}
	var order []*function
	for name := range decls {
		if fns[name] == nil {
			return "", errors.New("no function " + name)
		}
		order = append(order, fns[name])
	}
	slices.SortFunc(order, func(a, b *function) int { return int(b.fn.Pos() - a.fn.Pos()) }) // from the end
	for _, s := range order {
		b := &strings.Builder{}
		b.WriteString(dispatcher(s, decls[names(s.fn)[0]]))
		b.WriteString("\n\n" + s.renamed(suffix(0)))
		for _, f := range decls[names(s.fn)[0]] {
			b.WriteString("\n\n" + f.decl.renamed(suffix(f.number)))
		}
		text = text[:s.pos(s.fn.Pos())] + b.String() + text[s.pos(s.fn.End()):]
	}
	return text, nil
}

// dispatcher is a function of s's name and type that calls the chosen form.
func dispatcher(s *function, forms []form) string {
	var head, args []string
	for _, p := range s.fn.Type.Params.List {
		for range max(1, len(p.Names)) {
			name := fmt.Sprint("p", len(head), "__")
			head = append(head, name+" "+s.slice(p.Type.Pos(), p.Type.End()))
			if _, many := p.Type.(*ast.Ellipsis); many {
				name += "..."
			}
			args = append(args, name)
		}
	}
	var results []string
	if s.fn.Type.Results != nil {
		for _, p := range s.fn.Type.Results.List {
			for range max(1, len(p.Names)) {
				results = append(results, s.slice(p.Type.Pos(), p.Type.End()))
			}
		}
	}
	recv, on := "", ""
	if s.fn.Recv != nil {
		t := s.fn.Recv.List[0].Type
		recv, on = "(r__ "+s.slice(t.Pos(), t.End())+") ", "r__."
	}
	call := func(number int) string {
		c := fmt.Sprintf("%s%s%s(%s)", on, s.fn.Name.Name, suffix(number), strings.Join(args, ", "))
		if len(results) > 0 {
			return "return " + c
		}
		return c
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "func %s%s(%s) (%s) {\n\tswitch chosenDefect {\n", recv, s.fn.Name.Name, strings.Join(head, ", "), strings.Join(results, ", "))
	for _, f := range forms {
		fmt.Fprintf(b, "\tcase %d:\n\t\t%s\n", f.number, call(f.number))
	}
	fmt.Fprintf(b, "\tdefault:\n\t\t%s\n\t}\n}", call(0))
	return b.String()
}
