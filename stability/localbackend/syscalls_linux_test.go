//go:build amd64

package localbackend

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
)

const sysRenameat2 = 316

func init() { parts["syncs"] = partSyncs }

// partSyncs says what it has been told, a line in one write.
func partSyncs(b stability.Backend, out io.Writer) error {
	ctx := context.Background()
	rec, err := take(b)
	if err != nil {
		return err
	}
	say := func(what string) { _, _ = io.WriteString(out, what) }
	say("acquired")
	for i := range 40 { // the larger ones do not go through the log
		size := 1 + i*100
		if i%10 == 9 {
			size = logSize
		}
		err := b.Auth.Commit(ctx, rec.Epoch, authstore.Batch{Put: []authstore.Entry{session(fmt.Sprint(i), strings.Repeat("v", size))}})
		if err != nil {
			return err
		}
		say("committed")
	}
	if err := b.Lock.Release(ctx, rec); err != nil {
		return err
	}
	say("released")
	return nil
}

// event is one system call of a child, in the order in which they ended.
type event struct {
	call string // "write", "sync", "name" (a new name for a file), "say"
	file string // what the descriptor is
	said string
}

// traced runs a child and reports its writes and syncs as the kernel sees them.
func traced(t *testing.T, env ...string) (events []event) {
	runtime.LockOSThread() // ptrace is this thread's
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	out, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	defer out.Close()
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Skip("no ptrace here: ", err)
	}
	child := cmd.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(child, &status, 0, nil); err != nil || !status.Stopped() {
		t.Skip("no ptrace here: ", err)
	}
	const (
		traceSysGood = 0x1
		traceClone   = 0x8
		exitKill     = 0x100000
		wall         = 0x40000000
	)
	require.NoError(t, syscall.PtraceSetOptions(child, traceSysGood|traceClone|exitKill))
	require.NoError(t, syscall.PtraceSyscall(child, 0))
	inside := make(map[int]bool)
	for {
		pid, err := syscall.Wait4(-1, &status, wall, nil)
		require.NoError(t, err)
		if status.Exited() || status.Signaled() {
			if pid == child {
				require.Equal(t, 0, status.ExitStatus())
				break
			}
			continue
		}
		sig := 0
		switch s := status.StopSignal(); {
		case s == syscall.SIGTRAP|0x80: // a system call begins or ends
			inside[pid] = !inside[pid]
			var regs syscall.PtraceRegs
			if inside[pid] || syscall.PtraceGetRegs(pid, &regs) != nil || int64(regs.Rax) < 0 {
				break
			}
			file, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", child, int(regs.Rdi)))
			switch regs.Orig_rax {
			case syscall.SYS_WRITE, syscall.SYS_PWRITE64:
				e := event{call: "write", file: file}
				if file == out.Name() {
					text := make([]byte, regs.Rdx)
					_, _ = syscall.PtracePeekData(pid, uintptr(regs.Rsi), text)
					e = event{call: "say", said: strings.TrimSpace(string(text))}
				}
				events = append(events, e)
			case syscall.SYS_FDATASYNC, syscall.SYS_FSYNC:
				events = append(events, event{call: "sync", file: file})
			case syscall.SYS_LINK, syscall.SYS_LINKAT, syscall.SYS_RENAME, syscall.SYS_RENAMEAT, sysRenameat2:
				events = append(events, event{call: "name"})
			}
		case s == syscall.SIGTRAP, s == syscall.SIGSTOP: // a new thread
		default:
			sig = int(s)
		}
		_ = syscall.PtraceSyscall(pid, sig)
	}
	_ = cmd.Process.Release()
	return events
}

// What the kernel sees: before a commit is confirmed, each write to the file was
// followed by a sync of it; before the lock is granted, the new file's directory
// was synced too.
func TestEveryConfirmedCommitWasSynced(t *testing.T) {
	path := newPath(t)
	events := traced(t, childEnv+"=syncs", pathEnv+"="+path)
	unsynced, said, dirSynced := 0, map[string]int{}, false
	for _, e := range events {
		switch {
		case e.call == "write" && strings.HasPrefix(e.file, path):
			unsynced++
		case e.call == "sync" && strings.HasPrefix(e.file, path):
			unsynced = 0
		case e.call == "sync" && e.file == filepath.Dir(path):
			dirSynced = true
		case e.call == "name":
			dirSynced = false
		case e.call == "say":
			require.Zero(t, unsynced, "%s before it was synced", e.said)
			require.True(t, dirSynced, "the directory of a new file")
			said[e.said]++
		}
	}
	require.Equal(t, map[string]int{"acquired": 1, "committed": 40, "released": 1}, said)
}
