package firestoresim

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // unless the command line says another: they wait most of the time
	goleak.VerifyTestMain(Main(m))
}

func TestEmulatorAnswersAndResets(t *testing.T) {
	t.Parallel()
	e := NeedEmulator(t)
	require.Same(t, e, NeedEmulator(t))
	c, err := e.Client(t.Context(), "demo-resets")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Doc("a/b").Set(t.Context(), map[string]any{"n": 1})
	require.NoError(t, err)
	snap, err := c.Doc("a/b").Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), snap.Data()["n"])

	require.NoError(t, e.Reset(t.Context(), "demo-resets"))
	all, err := c.GetAll(t.Context(), []*firestore.DocumentRef{c.Doc("a/b")})
	require.NoError(t, err)
	require.False(t, all[0].Exists())
}

func TestNoEmulatorSaysWhatToDo(t *testing.T) {
	t.Setenv(HostEnv, "")
	t.Setenv(JarEnv, t.TempDir()+"/absent.jar")
	_, err := StartEmulator(t.Context())
	require.ErrorIs(t, err, ErrNoEmulator)
	require.ErrorContains(t, err, JarEnv)

	jar := t.TempDir() + "/emulator.jar"
	require.NoError(t, os.WriteFile(jar, nil, 0o600))
	t.Setenv(JarEnv, jar)
	t.Setenv("PATH", t.TempDir())
	_, err = StartEmulator(t.Context())
	require.ErrorIs(t, err, ErrNoEmulator)
	require.ErrorContains(t, err, "java")
}

func TestEmulatorThatCannotStartIsAnError(t *testing.T) {
	if _, err := exec.LookPath("java"); err != nil {
		t.Skip("no java")
	}
	t.Setenv(HostEnv, "")
	jar := t.TempDir() + "/emulator.jar"
	require.NoError(t, os.WriteFile(jar, nil, 0o600))
	t.Setenv(JarEnv, jar)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := StartEmulator(ctx)
	require.ErrorContains(t, err, "exited")
	require.NotErrorIs(t, err, ErrNoEmulator)
}

// Making a client hides FIRESTORE_EMULATOR_HOST from the official client, and
// puts it back.
func TestClientKeepsTheEnvironment(t *testing.T) {
	t.Setenv(HostEnv, "127.0.0.1:1")
	e := &Emulator{addr: "127.0.0.1:2"}
	c, err := e.Client(t.Context(), "demo-env")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, "127.0.0.1:1", os.Getenv(HostEnv))
}

const childEnv = "FIRESTORESIM_TEST_CHILD"

// A test binary that is killed leaves no java behind.
func TestEmulatorDiesWithItsParent(t *testing.T) {
	t.Parallel()
	if os.Getenv(childEnv) == "1" {
		e, err := StartEmulator(t.Context())
		require.NoError(t, err)
		os.Stdout.WriteString("addr=" + e.Addr() + "\n")
		select {}
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("the parent-death signal is Linux's")
	}
	if os.Getenv(HostEnv) != "" {
		t.Skip("an emulator that was running is not ours to end")
	}
	NeedEmulator(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestEmulatorDiesWithItsParent$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var addr string
	buf := make([]byte, 4096)
	for text := ""; addr == ""; {
		n, err := out.Read(buf)
		text += string(buf[:n])
		if line, _, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(line, "addr=") {
			addr = strings.TrimPrefix(line, "addr=")
			break
		}
		require.NoError(t, err, text)
	}
	e := &Emulator{addr: addr, http: shared.e.http}
	require.NoError(t, e.do(t.Context(), "GET", "/"))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return e.do(t.Context(), "GET", "/") != nil }, time.Minute, 20*time.Millisecond)
}
