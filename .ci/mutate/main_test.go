package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const list = `# A comment.
package lock

[first]
A new instance waits
for the whole lease.
loses: session
test: TestA TestB
in: stability
tags: slow
@@ release.go term.release
 if held {
-	return t.release()
+	return nil
 }

[second]
Nothing that a user sees.
same: The value is not read.
@@ a.go import
-"fmt"
@@ b.go limit
-const limit = 5
+const limit = 6
`

func TestParseReadsEveryPart(t *testing.T) {
	got, err := parse(list)
	require.NoError(t, err)
	require.Equal(t, []defect{{
		pkg: "lock", name: "first", sentence: "A new instance waits for the whole lease.",
		loses: "session", tests: []string{"TestA", "TestB"}, in: "stability", tags: "slow",
		changes: []change{{
			file: "release.go", decl: "term.release",
			old: []string{"if held {", "return t.release()", "}"}, new: []string{"if held {", "return nil", "}"},
		}},
	}, {
		pkg: "lock", name: "second", sentence: "Nothing that a user sees.", same: "The value is not read.",
		changes: []change{
			{file: "a.go", decl: "import", old: []string{`"fmt"`}},
			{file: "b.go", decl: "limit", old: []string{"const limit = 5"}, new: []string{"const limit = 6"}},
		},
	}}, got)
	require.Equal(t, "stability", got[0].testPkg())
	require.Equal(t, "lock", got[1].testPkg())
}

func TestParseRefusesWhatIsIncomplete(t *testing.T) {
	const change = "@@ a.go f\n-x\n+y\n"
	for text, want := range map[string]string{
		"[a]\nLost.\n" + change:                           "begins with its package",
		"package p\nLost.\n":                              "name in brackets",
		"package p\n[a]\n" + change:                       "what a user would lose",
		"package p\n[a]\nLost.\n":                         "changes nothing",
		"package p\n[a]\nLost.\n@@ a.go\n-x\n":            "its file and declaration",
		"package p\n[a]\nLost.\n@@ a.go f\n+y\n":          "nothing of a.go f is named",
		"package p\n[a]\nLost.\n@@ a.go f\n x\n":          "changes nothing",
		"package p\n[a]\nLost.\n@@ a.go f\n-x\nx\n":       `begins with " "`,
		"package p\n[a]\nLost.\nloses: hair\n" + change:   "neither message nor session",
		"package p\n[a]\nLost.\n@@ a.go f\n-x\n+ x\n\n\n": "changes nothing",
	} {
		_, err := parse(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestLoadRefusesTheSameNameTwice(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.txt", "b.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("package p\n[a]\nLost.\n@@ a.go f\n-x\n+y\n"), 0o600))
	}
	_, err := load(dir)
	require.ErrorContains(t, err, "p/a is in a.txt too")
	_, err = load(t.TempDir())
	require.ErrorContains(t, err, "no lists")
}

const source = `package p

import "fmt"

const limit = 5

var (
	one = 1
	two = 2
)

type T[K any] struct{ n int }

func (t *T[K]) Add(n int) int {
	if n > 0 {
		return 1
	}
	fmt.Println(n)
	return 1
}

func Add(n int) int {
	return 1
}
`

func TestChangeIsAnchoredByDeclaration(t *testing.T) {
	for decl, c := range map[string]change{
		"limit":  {old: []string{"const limit = 5"}, new: []string{"const limit = 6"}},
		"two":    {old: []string{"two = 2"}, new: []string{"two = 3"}},
		"T":      {old: []string{"type T[K any] struct{ n int }"}, new: []string{"type T[K any] struct{ n, m int }"}},
		"import": {old: []string{`import "fmt"`}, new: []string{`import _ "fmt"`}},
		"Add":    {old: []string{"return 1"}, new: []string{"return 2"}},
		"T.Add":  {old: []string{"fmt.Println(n)", "return 1"}, new: []string{"return 2"}},
	} {
		c.file, c.decl = "p.go", decl
		got, err := c.apply(source)
		require.NoError(t, err, decl)
		require.Contains(t, got, strings.Join(c.new, "\n"))
		require.Equal(t, strings.Count(source, "\n")+len(c.new)-len(c.old), strings.Count(got, "\n"))
	}
}

func TestChangeThatNoLongerFitsIsAnError(t *testing.T) {
	for want, c := range map[string]change{
		"has this text twice": {decl: "T.Add", old: []string{"return 1"}},
		"no such text":        {decl: "Add", old: []string{"fmt.Println(n)"}},
		"declared 0 times":    {decl: "T.Sub", old: []string{"return 1"}},
	} {
		_, err := c.apply(source)
		require.ErrorContains(t, err, want)
	}
}

// The lists themselves: each entry fits the code, and the test it names exists.
func TestEveryDefectFitsTheCode(t *testing.T) {
	root, err := repository()
	require.NoError(t, err)
	defects, err := load("defects")
	require.NoError(t, err)
	require.NoError(t, fits(root, defects))
}

func TestFitsNamesWhatIsMissing(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "p.go"), []byte(source), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "p_test.go"), []byte("package p\n\nfunc TestA(t *testing.T) {}\n"), 0o600))
	good := defect{pkg: ".", name: "good", tests: []string{"TestA"}, changes: []change{{file: "p.go", decl: "Add", old: []string{"return 1"}}}}
	require.NoError(t, fits(root, []defect{good}))

	gone, unnamed := good, good
	gone.name, gone.tests = "gone", []string{"TestB"}
	unnamed.name, unnamed.changes = "unnamed", []change{{file: "p.go", decl: "Sub", old: []string{"return 1"}}}
	err := fits(root, []defect{good, gone, unnamed})
	require.ErrorContains(t, err, "./gone: . has no test TestB")
	require.ErrorContains(t, err, "./unnamed: p.go")
}

func TestSampleIsTheSameAllDay(t *testing.T) {
	var defects []defect
	for i := range 40 {
		defects = append(defects, defect{pkg: "p", name: string(rune('a' + i))})
	}
	defects[3].same, defects[4].survives = "why", "why"
	monday := sample(defects, "2026-11-23", 20)
	require.Len(t, monday, 20)
	require.Equal(t, monday, sample(defects, "2026-11-23", 20))
	require.NotEqual(t, monday, sample(defects, "2026-11-24", 20))
	require.Len(t, sample(defects, "2026-11-23", 100), 38)
	require.NotContains(t, sample(defects, "2026-11-23", 100), defects[3])
	require.Len(t, matching(defects, []string{"p/a", "p/b"}), 2)
}

func TestReadNamesTheTestThatNoticed(t *testing.T) {
	exit := errors.New("exit status 1")
	for name, c := range map[string]struct {
		out  string
		err  error
		v    verdict
		test string
	}{
		"passed":           {"=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n", nil, survived, ""},
		"failed":           {"=== RUN   TestA\n=== RUN   TestA/x\n    --- FAIL: TestA/x (0.0s)\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\n", exit, caught, "TestA"},
		"ended":            {"=== RUN   TestA\n=== RUN   TestB/x\nfatal error: all goroutines are asleep\n", exit, caught, "TestB"},
		"hung":             {"=== RUN   TestA\npanic: test timed out after 1s\n\trunning tests:\n\t\tTestB/x (1s)\n\nFAIL", exit, hung, "TestB"},
		"not ended by us":  {"=== RUN   TestA\n", errors.Join(exit, context.DeadlineExceeded), hung, "TestA"},
		"ended before any": {"", exit, caught, ""},
	} {
		v, test := read(c.out, c.err)
		require.Equal(t, c.v, v, name)
		require.Equal(t, c.test, test, name)
	}
}

func TestFiguresCountWhatWasCaught(t *testing.T) {
	lost := defect{pkg: "lock", name: "lost", loses: "message"}
	plain := defect{pkg: "guard", name: "plain"}
	var b strings.Builder
	bad := report(&b, []result{
		{defect: lost, verdict: caught}, {defect: lost, verdict: hung}, {defect: plain, verdict: caught},
		{defect: plain, verdict: survived}, {defect: plain, verdict: accepted}, {defect: plain, verdict: none},
	})
	require.Equal(t, 1, bad)
	require.Regexp(t, `(?m)^lock +2 of +2 caught \(100\.0 %\)$`, b.String())
	require.Regexp(t, `(?m)^guard +1 of +3 caught \( 33\.3 %\), 2 survived$`, b.String())
	require.Regexp(t, `(?m)^all +3 of +5 caught`, b.String())
	require.Regexp(t, `(?m)^  that lose a message or a session +2 of +2`, b.String())
	require.Equal(t, 1, report(&b, []result{{defect: plain, verdict: broken}}))
}

// One small module of its own goes through all of it: each verdict is reached by
// real builds and real runs.
func TestVerdictsOfRealRuns(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.test\n\ngo 1.24\n",
		"p.go": `package p

func Add(a, b int) int {
	if a == 0 {
		return b
	}
	return a + b
}
`,
		"p_test.go": `package p

import "testing"

func TestOne(t *testing.T) {
	if Add(1, 1) == 0 {
		t.Fatal()
	}
}

func TestSum(t *testing.T) {
	if Add(1, 2) != 3 {
		t.Fatal()
	}
}

func TestBad(t *testing.T) { t.Fatal("always") }
`,
		"tagged_test.go": `//go:build extra

package p

import "testing"

func TestZero(t *testing.T) {
	if Add(0, 7) != 7 {
		t.Fatal()
	}
}
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	sum := func(to string) []change {
		return []change{{file: "p.go", decl: "Add", old: []string{"return a + b"}, new: []string{to}}}
	}
	zero := []change{{file: "p.go", decl: "Add", old: []string{"return b"}, new: []string{"return 1"}}}
	for name, c := range map[string]struct {
		d       defect
		named   bool
		verdict verdict
		test    string
		detail  string
	}{
		"by the named test":        {d: defect{tests: []string{"TestSum"}, changes: sum("return a - b")}, verdict: caught, test: "TestSum"},
		"not by the named test":    {d: defect{tests: []string{"TestOne"}, changes: sum("return 5")}, named: true, verdict: survived},
		"known not to be":          {d: defect{tests: []string{"TestOne"}, survives: "why", changes: sum("return 5")}, named: true, verdict: accepted, detail: "why"},
		"known, but noticed":       {d: defect{tests: []string{"TestSum"}, survives: "why", changes: sum("return 5")}, verdict: broken, test: "TestSum", detail: "take the mark away"},
		"a test that never passes": {d: defect{tests: []string{"TestBad"}, changes: sum("return 5")}, verdict: broken, test: "TestBad", detail: "fails without any defect"},
		"one that hangs":           {d: defect{tests: []string{"TestSum"}, changes: sum("for { a++ }")}, verdict: hung, test: "TestSum"},
		"one that ends it all":     {d: defect{tests: []string{"TestSum"}, changes: sum("func() { go func() { panic(1) }(); select {} }(); return 0")}, verdict: caught, test: "TestSum"},
		"one that is no Go":        {d: defect{changes: sum("return c")}, verdict: broken, detail: "does not compile"},
		"one without a difference": {d: defect{same: "why", changes: sum("return b + a")}, verdict: none, detail: "why"},
		"one behind a build tag":   {d: defect{tests: []string{"TestZero"}, tags: "extra", changes: zero}, verdict: caught, test: "TestZero"},
		"one that no longer fits":  {d: defect{changes: []change{{file: "p.go", decl: "Sub", old: []string{"x"}}}}, verdict: broken, detail: "declared 0 times"},
	} {
		t.Run(name, func(t *testing.T) {
			limit := time.Minute
			if c.verdict == hung {
				limit = time.Second
			}
			r, err := newRunner(root, limit, c.named)
			require.NoError(t, err)
			defer r.close()
			c.d.pkg = "."
			res := r.try(t.Context(), c.d)
			require.Equal(t, c.verdict, res.verdict, res.detail)
			require.Equal(t, c.test, res.test)
			require.Contains(t, res.detail, c.detail)
		})
	}
}

// A defect of one package may be noticed by another's tests, and in a module
// inside the module.
func TestTestsOfAnotherModuleSeeTheDefect(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.test\n\ngo 1.24\n",
		"p.go":             "package p\n\nfunc One() int {\n\treturn 1\n}\n",
		"inner/go.mod":     "module example.test/inner\n\ngo 1.24\n\nrequire example.test v0.0.0\n\nreplace example.test => ../\n",
		"inner/in_test.go": "package inner\n\nimport (\n\t\"testing\"\n\n\tp \"example.test\"\n)\n\nfunc TestOne(t *testing.T) {\n\tif p.One() != 1 {\n\t\tt.Fatal()\n\t}\n}\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	r, err := newRunner(root, time.Minute, false)
	require.NoError(t, err)
	defer r.close()
	res := r.all(t.Context(), []defect{{pkg: ".", name: "a", in: "inner", changes: []change{{file: "p.go", decl: "One", old: []string{"return 1"}, new: []string{"return 2"}}}}}, 2)
	require.Equal(t, caught, res[0].verdict, res[0].detail)
	require.Equal(t, "TestOne", res[0].test)
}

// Several defects in one binary are each what they are alone: functions of every
// form, and with a test that passes while none is chosen.
func TestCombinedDefectsAreEachAlone(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.test\n\ngo 1.24\n",
		"p.go": `package p

type T[V any] struct{ v V }

// Set has a receiver of a generic type, and no result.
func (t *T[V]) Set(v V) {
	t.v = v
}

func Sum(_ string, n ...int) (sum, count int) {
	for _, i := range n {
		sum += i
	}
	return sum, len(n)
}

func Fact(n int) int {
	if n == 0 {
		return 1
	}
	return n * Fact(n-1)
}

func Same[V any](v V) V {
	return v
}

const Size = 7
`,
		"p_test.go": `package p

import "testing"

func TestSet(t *testing.T) {
	x := &T[int]{}
	if x.Set(3); x.v != 3 {
		t.Fatal()
	}
}

func TestSum(t *testing.T) {
	if sum, count := Sum("", 1, 2); sum != 3 || count != 2 {
		t.Fatal()
	}
}

func TestFact(t *testing.T) {
	if Fact(3) != 6 {
		t.Fatal()
	}
}

func TestSameSize(t *testing.T) {
	if Same(2) != 2 || Size != 7 {
		t.Fatal()
	}
}
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	one := func(name, decl, old, new string) defect {
		return defect{pkg: ".", name: name, changes: []change{{file: "p.go", decl: decl, old: []string{old}, new: []string{new}}}}
	}
	defects := []defect{
		one("set", "T.Set", "t.v = v", "_ = v"),
		one("sum", "Sum", "sum += i", "sum = i"),
		one("count", "Sum", "return sum, len(n)", "return sum, 1"),
		one("fact", "Fact", "return 1", "return 2"),
		one("same", "Same", "return v", "return *new(V)"),
		one("size", "Size", "const Size = 7", "const Size = 8"),
		one("none", "Fact", "if n == 0 {", "if n <= 0 {"),
	}
	want := map[string]string{"set": "TestSet", "sum": "TestSum", "count": "TestSum", "fact": "TestFact", "same": "TestSameSize", "size": "TestSameSize", "none": ""}
	r, err := newRunner(root, time.Minute, false)
	require.NoError(t, err)
	defer r.close()
	require.NoError(t, r.combine(t.Context(), defects))
	require.Len(t, r.combined, 1)
	require.Len(t, r.combined[defects[0].batch()].number, 5, "what is generic or a constant stands alone")
	for _, res := range r.all(t.Context(), defects, 2) {
		require.Equal(t, want[res.defect.name], res.test, res.defect.name)
		require.Equal(t, res.test != "", res.verdict == caught, res.defect.name)
	}

	// One that does not compile is told, and the others are judged all the same.
	bad := one("bad", "Fact", "return 1", "return x")
	r, err = newRunner(root, time.Minute, false)
	require.NoError(t, err)
	defer r.close()
	require.NoError(t, r.combine(t.Context(), append(defects[:3:3], bad)))
	require.Empty(t, r.combined)
	res := r.all(t.Context(), []defect{defects[1], bad}, 2)
	require.Equal(t, caught, res[0].verdict)
	require.Equal(t, broken, res[1].verdict)
}
