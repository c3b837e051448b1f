package stability_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

var updateLogs = flag.Bool("update", false, "write docs/LOGS.md anew")

const (
	logsPage   = "../docs/LOGS.md"
	logsMarker = "<!-- written by the test: go test -run TestEveryLogLineIsDocumented ./stability -update -->\n"
)

// Calls whose message is a parameter: what they write stands at their callers,
// or on the page in words (guard/slogsink.go).
var passOn = []string{
	"guard/slogsink.go", "guard/webhook.go", "stability/loop.go", "stability/mutex.go", "stability/internal/term/core.go",
}

// logLine is one call that writes to the log.
type logLine struct {
	pkg, level, text string
	attrs            []string
}

func (l logLine) String() string {
	attrs := "none"
	if len(l.attrs) > 0 {
		attrs = "`" + strings.Join(l.attrs, "` `") + "`"
	}
	return fmt.Sprintf("| %s | `%s` | %s |", l.level, strings.ReplaceAll(l.text, "|", `\|`), attrs)
}

// constant is the string that e is, of literals and their sums.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, okA := constant(e.X)
		b, okB := constant(e.Y)
		return a + b, okA && okB && e.Op == token.ADD
	}
	return "", false
}

// readCall reports a call that writes a line, and whether its text is known.
func readCall(call *ast.CallExpr) (line logLine, known, is bool) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return line, false, false
	}
	args := call.Args
	switch name := sel.Sel.Name; name {
	case "Debug", "Info", "Warn", "Error":
		if len(args) == 0 {
			return line, false, false // error.Error, a database's Info
		}
		line.level = strings.ToLower(name)
		if x, ok := sel.X.(*ast.SelectorExpr); !ok || x.Sel.Name != "log" && x.Sel.Name != "logger" && x.Sel.Name != "Logger" && x.Sel.Name != "l" {
			if _, text := constant(args[0]); !text {
				return line, false, false // Store.Info(ctx)
			}
		}
	case "Log", "LogAttrs", "log", "logLocked":
		if name[0] == 'L' && len(args) > 0 { // with a context
			args = args[1:]
		}
		if len(args) < 2 {
			return line, false, false
		}
		line.level = "varies"
		level, ok := args[0].(*ast.SelectorExpr)
		if name == "log" && !ok {
			return line, false, false // a method of localbackend's own
		}
		if ok {
			line.level = strings.ToLower(strings.TrimPrefix(level.Sel.Name, "Level"))
		}
		args = args[1:]
	default:
		return line, false, false
	}
	line.text, known = constant(args[0])
	for i := 1; i < len(args); i += 2 {
		name, ok := constant(args[i])
		known = known && ok
		line.attrs = append(line.attrs, name)
	}
	return line, known, true
}

// libraryLines reads the library's code.
func libraryLines(t *testing.T) (lines []logLine) {
	files := token.NewFileSet()
	for _, root := range []string{"lock", "authstore", "reconnect", "keepalive", "autoheal", "guard", "stability"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, d fs.DirEntry, err error) error {
			base := d.Name()
			switch {
			case err != nil:
				return err
			case d.IsDir():
				_, nested := os.Stat(filepath.Join(path, "go.mod"))
				if strings.HasSuffix(base, "test") || base == "testdata" || nested == nil {
					return fs.SkipDir
				}
				return nil
			case !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(filepath.ToSlash(path), "../")
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				line, known, is := readCall(call)
				switch {
				case is && known:
					line.pkg = name[:strings.LastIndex(name, "/")]
					lines = append(lines, line)
				case is && !slices.Contains(passOn, name):
					t.Errorf("%s: a line of the log whose message or attributes are not constant", files.Position(n.Pos()))
				}
				return true
			})
			return nil
		})
		require.NoError(t, err)
	}
	return lines
}

func TestEveryLogLineIsDocumented(t *testing.T) {
	var want strings.Builder
	lines := libraryLines(t)
	slices.SortFunc(lines, func(a, b logLine) int {
		return strings.Compare(a.pkg+"\x00"+a.String(), b.pkg+"\x00"+b.String())
	})
	pkg := ""
	for _, l := range slices.CompactFunc(lines, func(a, b logLine) bool { return a.pkg == b.pkg && a.String() == b.String() }) {
		if l.pkg != pkg {
			pkg = l.pkg
			fmt.Fprintf(&want, "\n### %s\n\n| level | line | attributes |\n|---|---|---|\n", pkg)
		}
		want.WriteString(l.String() + "\n")
	}
	page, err := os.ReadFile(logsPage)
	require.NoError(t, err)
	head, got, ok := strings.Cut(string(page), logsMarker)
	require.True(t, ok, "the page has its marker")
	if *updateLogs {
		require.NoError(t, os.WriteFile(logsPage, []byte(head+logsMarker+want.String()), 0o644))
		return
	}
	require.Equal(t, want.String(), got, "run it with -update")
}

// An operator reads of each warning and error what to do, and of no line that is
// not written any more.
func TestEveryWarningSaysWhatToDo(t *testing.T) {
	page, err := os.ReadFile(logsPage)
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(page), "## What to do about warnings and errors\n")
	require.True(t, ok)
	table, _, ok := strings.Cut(rest, "\n## ")
	require.True(t, ok)
	var told, written []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(.+)` \\| (.+) \\|$").FindAllStringSubmatch(table, -1) {
		told = append(told, m[1])
		require.Regexp(t, `^[A-Z].*[.)]$`, m[2], m[1])
	}
	for _, l := range libraryLines(t) {
		if (l.level == "warn" || l.level == "error") && !slices.Contains(written, l.text) {
			written = append(written, l.text)
		}
	}
	require.ElementsMatch(t, written, told)
}

// transitionLines is the page's table: the line of each event, and its level.
func transitionLines(t *testing.T) map[stability.EventKind][2]string {
	page, err := os.ReadFile(logsPage)
	require.NoError(t, err)
	table := map[stability.EventKind][2]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| `(.+)` \\|$").FindAllStringSubmatch(string(page), -1) {
		table[stability.EventKind(m[1])] = [2]string{m[2], m[3]}
	}
	return table
}

func TestEveryTransitionHasALogLine(t *testing.T) {
	table := transitionLines(t)
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	require.NoError(t, err)
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || !strings.HasPrefix(v.Names[0].Name, "Event") {
			return true
		}
		if kind, ok := constant(v.Values[0]); ok {
			kinds++
			require.Contains(t, table, stability.EventKind(kind))
		}
		return true
	})
	require.Equal(t, kinds, len(table), "the page names no other")
	lines := libraryLines(t)
	for kind, line := range table {
		require.True(t, slices.ContainsFunc(lines, func(l logLine) bool { return l.level == line[0] && l.text == line[1] }), "%s: no such line: %v", kind, line)
	}
}

func TestEachTransitionWritesItsLineOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var log logLines
		a := w.named("a", stability.WithLogger(log.logger())).run().pair()
		connected := len(a.history(stability.EventConnected))
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		a.reached(connected+1, stability.EventConnected)
		a.wire.fail(only("renew"))
		a.reached(1, stability.EventStoreDown)
		a.wire.heal()
		a.reached(1, stability.EventStoreUp)
		a.stop()
		a.reached(1, stability.EventClosed)
		told := 0
		for kind, line := range transitionLines(t) {
			n := len(a.history(kind))
			require.Equal(t, n, log.count(line[1]), "%s: %s", kind, line[1])
			told += n
		}
		require.Greater(t, told, 10)
	})
}
