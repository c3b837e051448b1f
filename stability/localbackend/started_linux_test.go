package localbackend

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program that this process starts has its files too, until it runs.
func TestProgramThatIsBeingStartedHoldsNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wa.db")
	require.NoError(t, create(path, 0))
	for _, exclusive := range []bool{false, true} {
		f, _, err := tryOpenLocked(path, exclusive)
		require.NoError(t, err)
		theirs, err := syscall.Dup(int(f.Fd()))
		require.NoError(t, err)
		_, _, err = tryOpenLocked(path, true)
		require.ErrorIs(t, err, errHeld)
		require.NoError(t, letGo(f))
		mine, _, err := tryOpenLocked(path, true)
		require.NoError(t, err)
		require.NoError(t, letGo(mine))
		require.NoError(t, syscall.Close(theirs))
	}
}
