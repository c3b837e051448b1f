package postgrestest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
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

// ownMemory puts the memory that processes share into files among the data: other
// pieces outlast a server that is killed.
var ownMemory = []string{"-c", "dynamic_shared_memory_type=mmap"}

// atOnce tells a server to end without writing down what it has in memory, and to
// free the one piece of shared memory that is no file.
const atOnce = syscall.SIGQUIT

func endNow(c *exec.Cmd) {
	if c.Process.Signal(atOnce) != nil {
		killAll(c)
	}
}

// freeMemory removes the piece of shared memory that a killed server left. The
// machine has room for 4,096. It reports whether there is none any more.
func freeMemory(data string) bool {
	const which = 6 // the line that names it
	lines := noteOf(data)
	if len(lines) <= which {
		return true
	}
	var key, id uint64 // a key is printed as a long one, sign and all
	if n, _ := fmt.Sscan(lines[which], &key, &id); n != 2 {
		return true
	}
	is, ok := segmentOf(int32(key))
	switch {
	case !ok || is.id != id:
		return true
	case is.attached > 0:
		return false
	}
	if _, err := unix.SysvShmCtl(int(id), unix.IPC_RMID, nil); err == nil {
		return true
	}
	// Root may remove it only as its owner where it lacks the capability.
	remove := exec.Command("ipcrm", "-m", strconv.FormatUint(id, 10))
	remove.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: is.owner, Gid: is.group}}
	return remove.Run() == nil
}

type segment struct {
	id           uint64
	attached     int // processes
	owner, group uint32
}

// segmentOf finds a piece of shared memory in the kernel's list, which everybody may
// read.
func segmentOf(key int32) (segment, bool) {
	text, _ := os.ReadFile("/proc/sysvipc/shm")
	for line := range strings.Lines(string(text)) {
		var k int32
		var mode, size, creator, last string
		var is segment
		if n, _ := fmt.Sscan(line, &k, &is.id, &mode, &size, &creator, &last, &is.attached, &is.owner, &is.group); n == 9 && k == key {
			return is, true
		}
	}
	return segment{}, false
}
