package main

import (
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// An account goes into an archive, out of it into a sealed place, and to another
// key; each shows its progress, and nothing is missing at the end.
func TestArchiveAndResealKeepEverythingAndShowProgress(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	key := func(name string) [32]byte {
		var k [32]byte
		_, err := rand.Read(k[:])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file(name), k[:], 0o600))
		return k
	}
	key("archive.key")
	first, second := key("first.key"), key("second.key")
	call := func(args ...string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), args, &out, io.Discard)
		return out.String(), err
	}
	told := func(shows string, args ...string) {
		t.Helper()
		out, err := call(args...)
		require.NoError(t, err)
		require.Regexp(t, shows, out)
	}
	entries := func(name string, opts ...authstore.Option) map[authstore.Kind]int {
		t.Helper()
		a, err := openLocal(t.Context(), file(name))
		require.NoError(t, err)
		defer func() { require.NoError(t, a.close()) }()
		r, err := authstore.Import(t.Context(), authstore.FromKV(name, a.backend.Auth, a.fence, opts...), authstore.New(a.backend.Auth, opts...), a.fence, authstore.DryRun(), authstore.ReplaceDevice())
		require.NoError(t, err)
		return r.Entries
	}
	seal := func(k [32]byte) authstore.Option { return authstore.WithAEAD(authstore.NewAESGCM(k)) }

	w := newWorld(t)
	w.onSQLiteFile(file("wa.db"))
	told(`(?m)^verify +table`, "-from", "sqlite:"+file("wa.db"), "-to", "local:"+file("one.db"), "-stopped")
	have := entries("one.db")
	_, err := call("-from", "local:"+file("one.db"), "-to", "archive:"+file("backup.bin"))
	require.ErrorContains(t, err, "head -c 32")
	told(`(?m)^export +table \d+ of \d+ .* [1-9]\d* bytes written`, "-from", "local:"+file("one.db"), "-to", "archive:"+file("backup.bin"), "-key", file("archive.key"))
	require.Equal(t, have, entries("one.db"), "it stays where it is")
	left, err := filepath.Glob(file("backup.bin*"))
	require.NoError(t, err)
	require.Equal(t, []string{file("backup.bin")}, left)

	_, err = call("-from", "archive:"+file("backup.bin"), "-to", "local:"+file("no.db"), "-key", file("first.key"))
	require.Error(t, err)
	told(`(?m)^verify +table`, "-from", "archive:"+file("backup.bin"), "-to", "local:"+file("two.db"), "-key", file("archive.key"), "-seal", file("first.key"))
	sealed := entries("two.db", seal(first))
	for kind, n := range have {
		if kind != "session" && kind != "senderkey" { // begun anew
			require.GreaterOrEqual(t, sealed[kind], n, kind)
		}
	}
	all := regexp.MustCompile(`(?m)^reseal  (\d+) of (\d+) rows`)
	out, err := call("-reseal", "-to", "local:"+file("two.db"), "-seal", file("second.key"), "-unseal", file("first.key"))
	require.NoError(t, err)
	lines := all.FindAllStringSubmatch(out, -1)
	require.NotEmpty(t, lines, out)
	require.Equal(t, lines[len(lines)-1][1], lines[len(lines)-1][2])
	require.Equal(t, sealed, entries("two.db", seal(second)))
	out, err = call("-reseal", "-to", "local:"+file("one.db"), "-seal", file("second.key"))
	require.NoError(t, err)
	require.Regexp(t, all, out)
	require.Equal(t, have, entries("one.db", seal(second)), "it was plain")
}
