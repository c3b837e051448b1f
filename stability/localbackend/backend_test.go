package localbackend

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/backendtest"
)

func TestBackendConforms(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) func(*testing.T) stability.Backend {
		path := newPath(t)
		return func(t *testing.T) stability.Backend { return openAt(t, path) }
	})
}

// A damaged file can be removed, and so can the files that a killed process left.
func TestDestroyNeedsNoSoundFile(t *testing.T) {
	path := newPath(t)
	b := openAt(t, path)
	require.NoError(t, os.WriteFile(path, []byte("no file of ours"), 0o600))
	require.NoError(t, os.WriteFile(path+newSuffix+"123", nil, 0o600))
	require.NoError(t, os.WriteFile(path+".backup", nil, 0o600))
	require.NoError(t, b.Destroy(t.Context()))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, filepath.Base(path)+".backup", left[0].Name())

	require.NoError(t, os.RemoveAll(filepath.Dir(path)))
	require.NoError(t, b.Destroy(t.Context()), "not even a directory")
}
