package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

const root = "../.."

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(root + "/README.md")
	require.NoError(t, err)
	return string(b)
}

// imported is what a snippet without a package clause may use.
var imported = map[string]string{
	"context":   "context",
	"whatsmeow": "go.mau.fi/whatsmeow",
	"stability": "github.com/wastability/wastability/stability",
	"adminhttp": "github.com/wastability/wastability/stability/adminhttp",
	"http":      "net/http",
	"os":        "os",

	"firestorebackend": "github.com/wastability/wastability/stability/firestorebackend",
	"postgresbackend":  "github.com/wastability/wastability/stability/postgresbackend",
}

func TestTheCodeInTheReadmeCompiles(t *testing.T) {
	t.Parallel()
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	require.Len(t, blocks, 5)
	dir := t.TempDir() // a module of its own, as a host's would be
	for i, block := range blocks {
		code := block[1]
		if !strings.HasPrefix(code, "package ") {
			if !strings.HasPrefix(code, "func ") { // statements, as they stand in a host's main
				body := code
				code = "func snippet(ctx context.Context) {\n" + body
				for _, m := range regexp.MustCompile(`(?m)^(.*) :=`).FindAllStringSubmatch(body, -1) {
					for _, v := range strings.Split(m[1], ", ") {
						code += "_ = " + v + "\n"
					}
				}
				code += "}\n"
			}
			head := "package snippet\n"
			for name, path := range imported {
				if regexp.MustCompile(`\b` + name + `\.`).MatchString(code) {
					head += fmt.Sprintf("import %q\n", path)
				}
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(code, "func "), "(")
			code = head + code + "\nvar _ = " + name + "\n"
		}
		write(t, code, dir, fmt.Sprintf("block%d", i), "main.go")
	}
	here, err := filepath.Abs(root)
	require.NoError(t, err)
	mod, err := os.ReadFile(root + "/go.mod")
	require.NoError(t, err)
	const module = "github.com/wastability/wastability"
	write(t, strings.Replace(string(mod), "module "+module, "module readme", 1)+
		fmt.Sprintf("\nrequire %s v0.0.0\n\nreplace %s => %s\n", module, module, here), dir, "go.mod")
	sum, err := os.ReadFile(root + "/go.sum")
	require.NoError(t, err)
	write(t, string(sum), dir, "go.sum")
	cmd := exec.Command("go", "vet", "-mod=mod", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go vet: %s", out)
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	file := filepath.Join(path...)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

func TestEveryOptionAndEveryReasonIsListed(t *testing.T) {
	text := readme(t)
	var options, listed []string
	files, err := filepath.Glob(root + "/stability/*.go")
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (With\w+)\(.*\) Option \{`).FindAllSubmatch(b, -1) {
			options = append(options, string(m[1]))
		}
		for _, m := range regexp.MustCompile(`(?m)^//   - (With\w+) \(`).FindAllSubmatch(b, -1) {
			listed = append(listed, string(m[1]))
		}
	}
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(With\\w+)` \\|").FindAllStringSubmatch(text, -1) {
		rows = append(rows, m[1])
	}
	slices.Sort(options)
	slices.Sort(listed)
	require.Equal(t, options, listed, "at stability.Option")
	require.NotEmpty(t, rows)
	require.Subset(t, options, rows)

	for _, r := range reconnect.Reasons() {
		require.Contains(t, text, "\n| `"+string(r)+"` |")
	}
}

func TestTheLinksInTheReadmeLeadSomewhere(t *testing.T) {
	for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(readme(t), -1) {
		if !strings.Contains(m[1], "://") {
			require.FileExists(t, filepath.Join(root, m[1]))
		}
	}
}
