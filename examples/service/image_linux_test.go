package main

import (
	"context"
	"crypto/rand"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// needImage set to 1 fails where the image cannot be tried: for CI.
const needImage = "WASTABILITY_NEED_IMAGE"

// look is a program that needs what HTTPS and a clock of some country need.
const look = `package main

import (
	"crypto/x509"
	"os"
	"time"
)

func main() {
	pool, err := x509.SystemCertPool()
	if err != nil || pool.Equal(x509.NewCertPool()) {
		println("no certificates")
		os.Exit(1)
	}
	if _, err := time.LoadLocation("Asia/Kolkata"); err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
`

// image is a folder with what the Dockerfile's last stage has in it, and who
// runs there.
type image struct {
	t        *testing.T
	root     string
	uid, gid uint32
	env      []string // its own
}

// built does what the Dockerfile says, with the Go and the certificates of this
// machine.
func built(t *testing.T) *image {
	text := string(read(t, "Dockerfile"))
	stages := strings.Split(text, "\nFROM ")
	last := stages[len(stages)-1]
	user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(last)
	require.NotNil(t, user)
	number := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		require.NoError(t, err)
		return uint32(n)
	}
	i := &image{t: t, root: t.TempDir(), uid: number(user[1]), gid: number(user[2])}
	require.NoError(t, os.Chmod(i.root, 0o755))

	command := regexp.MustCompile(`(?m)^RUN (.*) -o (\S+) (\./examples/service)$`).FindStringSubmatch(text)
	require.NotNil(t, command, "the command that builds")
	source := filepath.Join(t.TempDir(), "look.go")
	require.NoError(t, os.WriteFile(source, []byte(look), 0o600))
	program := filepath.Join(t.TempDir(), "program")
	for what, to := range map[string]string{command[3]: program, source: filepath.Join(i.root, "look")} {
		build := exec.Command("/bin/sh", "-c", command[1]+" -o "+to+" "+what)
		build.Dir = "../.."
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	for _, c := range regexp.MustCompile(`(?m)^COPY --from=build (\S+) (\S+)$`).FindAllStringSubmatch(last, -1) {
		from, to := c[1], filepath.Join(i.root, c[2])
		if strings.HasSuffix(c[2], "/") {
			to = filepath.Join(to, filepath.Base(from))
		}
		if from == command[2] {
			from = program
		} else if inGo, ok := strings.CutPrefix(from, "/usr/local/go/"); ok {
			goroot, err := exec.Command("go", "env", "GOROOT").Output()
			require.NoError(t, err)
			from = filepath.Join(strings.TrimSpace(string(goroot)), inGo)
		}
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.WriteFile(to, data, 0o755))
	}
	for _, e := range regexp.MustCompile(`(?m)^ENV (\S+=\S+)$`).FindAllStringSubmatch(last, -1) {
		i.env = append(i.env, e[1])
	}
	return i
}

// command runs in the image, as its user.
func (i *image) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = "/", i.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: i.root, Credential: &syscall.Credential{Uid: i.uid, Gid: i.gid}, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestImageNeedsNothingAround: the Dockerfile's own command makes a program that
// needs no other file. It serves an account with its last stage as all that
// there is, as the user without rights, and is found ready by the probe.
func TestImageNeedsNothingAround(t *testing.T) {
	if !stabilitytest.Full() {
		t.Skip("it builds everything anew: " + stabilitytest.FullEnv + "=1 plays it")
	}
	if os.Geteuid() != 0 {
		require.NotEqual(t, "1", os.Getenv(needImage), "only root may try the image")
		t.Skip("only root can make a folder the root of a process")
	}
	server := postgrestest.Need(t)
	i := built(t)
	file, err := elf.Open(filepath.Join(i.root, "wa-bot"))
	require.NoError(t, err)
	defer file.Close()
	for _, p := range file.Progs {
		require.NotContains(t, []elf.ProgType{elf.PT_INTERP, elf.PT_DYNAMIC}, p.Type, "a static program")
	}
	out, err := i.command("/look").CombinedOutput()
	require.NoError(t, err, "%s", out)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	world, err := demo.New(ctx)
	require.NoError(t, err)
	defer world.Close()
	replicas, err := demo.NewReplicas(world, io.Discard)
	require.NoError(t, err)
	port, err := stabilitytest.FreePort()
	require.NoError(t, err)
	p, err := replicas.Launch("image", i.command("/wa-bot", "-simulate"),
		append(i.env[:len(i.env):len(i.env)], "STORE=postgres:"+rand.Text(), "DATABASE_URL="+server.DSN(), "ADMIN_TOKEN="+rand.Text(), "PORT="+port)...)
	require.NoError(t, err)
	defer p.Kill()
	require.NoError(t, p.Until(ctx, replicas.Online))
	probe := i.command("/wa-bot", "-probe", "/ready")
	probe.Env = append(probe.Env, "PORT="+port)
	out, err = probe.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, replicas.Chat(ctx, 1))
	require.NoError(t, replicas.Settle(ctx).Err())
	require.NoError(t, p.Terminate())
}
