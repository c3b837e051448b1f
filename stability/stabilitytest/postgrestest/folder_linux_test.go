package postgrestest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFoldersOfKilledProcessesAreRemoved(t *testing.T) {
	root := t.TempDir()
	folder := func(age time.Duration) string {
		dir := filepath.Join(root, prefix+age.String())
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
		at := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(dir, at, at))
		return dir
	}
	left, begun := folder(2*time.Minute), folder(time.Second)
	others := filepath.Join(root, "another-program's")
	require.NoError(t, os.Rename(folder(time.Hour), others))

	mine, held, err := folderIn(root)
	require.NoError(t, err)
	require.NoDirExists(t, left)
	require.DirExists(t, begun, "another process may be about to hold it")
	require.DirExists(t, others)

	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(mine, old, old))
	sweep(root)
	require.DirExists(t, mine, "it is held")
	require.NoError(t, held.Close())
	sweep(root)
	require.NoDirExists(t, mine)
}

func TestServerIsInMemoryOnlyWhereThatHasRoom(t *testing.T) {
	roomy := t.TempDir()
	t.Setenv("TMPDIR", "")
	var free syscall.Statfs_t
	require.NoError(t, syscall.Statfs(roomy, &free))
	if free.Bavail*uint64(free.Bsize) >= room {
		require.Equal(t, roomy, root(roomy))
	}
	require.Empty(t, root(filepath.Join(t.TempDir(), "absent")))
	require.Empty(t, root("/proc"), "nothing is free there")
	t.Setenv("TMPDIR", t.TempDir())
	require.Empty(t, root(inMemory), "the user wants it elsewhere")
}
