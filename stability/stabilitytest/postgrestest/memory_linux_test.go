package postgrestest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Main(m).Run()) }

// key is that of the shared memory of a server that runs.
func key(t *testing.T, s *Server) int32 {
	long, err := strconv.ParseUint(strings.Fields(noteOf(s.data())[6])[0], 10, 64)
	require.NoError(t, err)
	require.True(t, stands(int32(long)))
	return int32(long)
}

func stands(key int32) bool {
	_, ok := segmentOf(key)
	return ok
}

func TestNoServerLeavesSharedMemory(t *testing.T) {
	for name, end := range map[string]func(*Server) error{
		"closed while it runs": func(*Server) error { return nil },
		"stopped":              (*Server).Stop,
		"killed":               (*Server).Kill,
		"killed twice": func(s *Server) error {
			if err := s.Kill(); err != nil {
				return err
			}
			if err := s.Resume(t.Context()); err != nil {
				return err
			}
			return s.Kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NeedOwn(t)
			maps, err := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/maps")
			require.NoError(t, err)
			require.NotContains(t, string(maps), "/dev/shm/PostgreSQL", "it would outlast a kill")
			k := key(t, s)
			require.NoError(t, end(s))
			require.NoError(t, s.Close())
			require.NoError(t, s.Close(), "it may be closed again")
			require.False(t, stands(k))
			require.NoDirExists(t, s.dir)
		})
	}
}

// A process that was killed closes none of its servers. The next one that starts
// a server does.
func TestSweepFreesTheSharedMemoryOfAKilledServer(t *testing.T) {
	s := NeedOwn(t)
	root := t.TempDir()
	left := filepath.Join(root, prefix+"left")
	k := key(t, s)
	require.NoError(t, os.MkdirAll(filepath.Join(left, dataFolder), 0o700))
	note, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(left, dataFolder, "postmaster.pid"), note, 0o600))

	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(left, old, old))
	sweep(root)
	require.DirExists(t, left, "it names what is in use")
	require.True(t, stands(k), "it is in use")
	require.NoError(t, s.Kill())
	require.True(t, stands(k))
	sweep(root)
	require.NoDirExists(t, left)
	require.False(t, stands(k))
	require.NoError(t, s.Close())
}
