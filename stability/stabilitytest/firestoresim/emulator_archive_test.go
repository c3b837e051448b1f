package firestoresim

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// The first emulator writes the archive when it is closed, and the second one
// starts from it. A file that is no archive is ignored.
func TestEmulatorStartsFromTheArchiveOfTheFirst(t *testing.T) {
	if !stabilitytest.Full() {
		t.Skip("three emulators: WASTABILITY_FULL=1 runs it")
	}
	java, jar, err := findEmulator()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(t.TempDir(), "cache")
	start := func() *Emulator {
		e, _, err := startEmulator(t.Context(), java, jar, archiveIn(dir, java, jar), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}})
		require.NoError(t, err)
		return e
	}
	reads := func(e *Emulator) string {
		maps, err := os.ReadFile("/proc/" + strconv.Itoa(e.proc.cmd.Process.Pid) + "/maps")
		if err != nil {
			t.Skip("what a process has in memory is known on Linux")
		}
		return string(maps)
	}
	first := start()
	require.NoError(t, first.Close())
	made, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, made, 1)
	require.Equal(t, ".jsa", filepath.Ext(made[0]))

	second := start()
	require.Contains(t, reads(second), made[0])
	require.NoError(t, second.Close())

	require.NoError(t, os.Remove(made[0]))
	require.NoError(t, os.WriteFile(made[0], []byte("something else"), 0o600))
	third := start()
	require.NotContains(t, reads(third), made[0])
	require.NoError(t, third.Close())
}
