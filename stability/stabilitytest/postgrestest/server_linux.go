package postgrestest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unprivileged is the user whom the server runs as: initdb refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: it does not run as root, and there is no user postgres", ErrNoPostgres)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// own gives the folder to that user.
func (s *Server) own() error {
	c, err := unprivileged()
	if err != nil || c == nil {
		return err
	}
	if err := os.Chown(s.dir, int(c.Uid), int(c.Gid)); err != nil {
		return fmt.Errorf("postgrestest: %w", err)
	}
	return nil
}

// as makes the command run as that user, in a process group of its own, and
// lets the kernel end it when we die.
func (s *Server) as(c *exec.Cmd) {
	cred, _ := unprivileged()
	c.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: atOnce}
}

// killAll kills the postmaster and its processes, which are in sessions of their
// own, and waits until they are gone: they hold the data's shared memory.
func killAll(c *exec.Cmd) {
	pid := strconv.Itoa(c.Process.Pid)
	text, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	_ = c.Process.Kill()
	var children []int
	for _, f := range strings.Fields(string(text)) {
		if n, err := strconv.Atoi(f); err == nil {
			children = append(children, n)
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		children = slices.DeleteFunc(children, ended)
		if len(children) == 0 {
			return
		}
	}
}

// ended says whether a process is over. Who adopted it may be slow to take note,
// but it holds nothing any more.
func ended(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return syscall.Kill(pid, 0) != nil
	}
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ") // a name may hold anything
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// freeMemory removes the shared memory that a killed server left. The machine has
// room for 4,096 pieces.
func (s *Server) freeMemory() { freeMemory(s.data()) }

func freeMemory(data string) {
	const which = 6 // the line that names it
	text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if len(lines) <= which {
		return
	}
	var key, id int
	if n, _ := fmt.Sscan(lines[which], &key, &id); n != 2 {
		return
	}
	var is unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &is); err == nil && is.Perm.Key == int32(key) && is.Nattch == 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
}
