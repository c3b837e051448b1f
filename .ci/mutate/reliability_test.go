package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var namedTest = regexp.MustCompile("`([a-z]+)\\.((?:Test|Example)\\w+)`")

// RELIABILITY.md names a test for each promise, with the last element of its
// package's path. A test that was renamed or removed leaves a promise unproved.
func TestEveryTestNamedInReliabilityExists(t *testing.T) {
	root, err := repository()
	require.NoError(t, err)
	there := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			there[filepath.Base(filepath.Dir(path))+"."+string(m[1])] = true
		}
		return err
	}))
	text, err := os.ReadFile(filepath.Join(root, "RELIABILITY.md"))
	require.NoError(t, err)
	named := namedTest.FindAllSubmatch(text, -1)
	require.NotEmpty(t, named)
	for _, m := range named {
		name := string(m[1]) + "." + string(m[2])
		require.True(t, there[name] || name == "lock.TestX", "%s is named in RELIABILITY.md and is nowhere", name)
	}
	// A row is a promise, and has a test.
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "| ") && strings.Count(line, "|") == 5 && !strings.HasPrefix(line, "| promise ") {
			require.True(t, namedTest.MatchString(line), "no test: %s", line)
		}
	}
}
