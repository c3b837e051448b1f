// Command races runs the tests of the packages it is given under the race
// detector, shuffled, and judges the result.
//
// whatsmeow itself has three data races: a send, or a look at the connection,
// reads FrameSocket's fields while the loss of the link clears them; a send that
// is given up closes the channel on which its answer arrives; and a login that is
// refused, or a device that is removed, right after a pairing deletes the device that the pairing
// and the login that follows still use. Go has no way to
// suppress a known report, and the testing package fails whichever test was
// running. So a test that failed only because a race was reported is run again,
// up to eight times; it must pass. So is one that failed only because a process
// that it had started ended with the exit code of the race detector. A report
// that is not that one race, and a failure for any other reason, is final.
//
// Go 1.26 itself crashes under the race detector when two goroutines of one
// testing/synctest bubble make timers that are due at once: both run them with the
// bubble's one race context (a SIGSEGV there, or a failed check of the detector).
// A package that ended so is run again, whole.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

var (
	access   = regexp.MustCompile(`(?m)^(?:Read|Write|Previous read|Previous write) at .*\n  (\S+)\(`)
	pkgLine  = regexp.MustCompile(`(?m)^(ok|FAIL)[ \t]+(\S+)[ \t]`)
	failed   = regexp.MustCompile(`(?m)^--- FAIL: (\S+) `)
	givenUp  = regexp.MustCompile(`(?s)^\nWrite at .*?\n  runtime\.closechan\(\)\n\s+\S+ \+\S+\n  go\.mau\.fi/whatsmeow\.\(\*Client\)\.cancelResponse\(\)\n.*?\nPrevious read at .*?\n  runtime\.chansend\(\)\n\s+\S+ \+\S+\n  go\.mau\.fi/whatsmeow\.\(\*Client\)\.receiveResponse\(\)\n`)
	frames   = regexp.MustCompile(`(?m)^  (\S+)\(\)$`)
	crashed  = regexp.MustCompile(`(?m)^ThreadSanitizer: CHECK failed: tsan_rtl|^SIGSEGV: segmentation violation\nPC=.*\n(?:\n?goroutine 0 .*\n)?\ngoroutine \d+ .*synctest bubble \d+\]:\nruntime\.systemstack_switch\(\)\n.*\nruntime\.\(\*timer\)\.modify\(`)
	known    = "go.mau.fi/whatsmeow/socket.("
	detected = "race detected during execution of test"
	exited   = "exit status 66" // of a process that met a race
)

// tries is how often a test may meet the known race.
const tries = 8

func main() {
	out, err := run(append([]string{"-shuffle=on", "-timeout=20m"}, os.Args[1:]...))
	if err == nil {
		return
	}
	for _, p := range packages(out) {
		if p.out = past(p); p.out == "" {
			continue
		}
		again := only(p.out)
		if len(again) == 0 {
			fail("%s: failed, and not by the known race", p.name)
		}
		for try := 1; ; try++ {
			fmt.Printf("races: %s: %s met the known race in whatsmeow; once more (%d)\n", p.name, strings.Join(again, ", "), try)
			out, err := run([]string{"-timeout=20m", "-run=^(" + strings.Join(again, "|") + ")$", p.name})
			if err == nil {
				break
			}
			if again = only(out); len(again) == 0 || try == tries {
				fail("%s: failed again", p.name)
			}
		}
	}
	fmt.Println("races: none but the known one in whatsmeow")
}

func run(args []string) (string, error) {
	cmd := exec.Command("go", append([]string{"test", "-race"}, args...)...)
	var b bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &b)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	return b.String(), err
}

// past runs a package again while Go crashes. It returns the output of the run
// that failed otherwise, or nothing if one passed.
func past(p result) string {
	for try := 1; crashed.MatchString(p.out) && try <= tries; try++ {
		fmt.Printf("races: %s met Go's crash of two timers at once; once more (%d)\n", p.name, try)
		out, err := run([]string{"-shuffle=on", "-timeout=20m", p.name})
		if err == nil {
			return ""
		}
		p.out = out
	}
	return p.out
}

type result struct{ name, out string }

// packages splits the output by package and keeps those that failed.
func packages(out string) (list []result) {
	from := 0
	for _, m := range pkgLine.FindAllStringSubmatchIndex(out, -1) {
		if out[m[2]:m[3]] == "FAIL" {
			list = append(list, result{out[m[4]:m[5]], out[from:m[1]]})
		}
		from = m[1]
	}
	if len(list) == 0 {
		fail("go test failed, and named no package")
	}
	return list
}

// only returns the tests that failed, if all that went wrong is the known race.
func only(out string) []string {
	for _, report := range strings.Split(out, "WARNING: DATA RACE")[1:] {
		ends := access.FindAllStringSubmatch(report, 2)
		if len(ends) != 2 {
			return nil
		}
		socket := strings.HasPrefix(ends[0][1], known) && strings.HasPrefix(ends[1][1], known)
		if !socket && !givenUp.MatchString(report) && !deleted(report) {
			return nil
		}
	}
	if strings.Count(out, "Error Trace:") > strings.Count(out, exited) {
		return nil
	}
	for _, bad := range []string{"panic:", "fatal error:", "the virtual clock stopped", "test timed out", "[build failed]", "[setup failed]"} {
		if strings.Contains(out, bad) {
			return nil
		}
	}
	if !strings.Contains(out, detected) && !strings.Contains(out, exited) {
		return nil
	}
	var tests []string
	for _, m := range failed.FindAllStringSubmatch(out, -1) {
		tests = append(tests, m[1])
	}
	slices.Sort(tests)
	return slices.Compact(tests)
}

// deleted reports whether a race is between whatsmeow's deletion of a device that
// the service has ended, and whatsmeow's own use of it.
func deleted(report string) bool {
	first, second, ok := strings.Cut(report, "\nPrevious ")
	if !ok {
		return false
	}
	second, _, _ = strings.Cut(second, "\nGoroutine ")
	deletes := func(end string) bool {
		f := frames.FindAllStringSubmatch(end, 2)
		return len(f) == 2 && f[0][1] == "go.mau.fi/whatsmeow/store.(*Device).Delete" &&
			(f[1][1] == "go.mau.fi/whatsmeow.(*Client).handleConnectFailure" || f[1][1] == "go.mau.fi/whatsmeow.(*Client).handleStreamError")
	}
	uses := func(end string) bool {
		for _, f := range frames.FindAllStringSubmatch(end, -1) {
			if strings.HasPrefix(f[1], "type:.eq.go.mau.fi/whatsmeow/") {
				continue
			}
			return strings.HasPrefix(f[1], "go.mau.fi/whatsmeow.(*Client).")
		}
		return false
	}
	return deletes(first) && uses(second) || deletes(second) && uses(first)
}

func fail(format string, args ...any) {
	fmt.Printf("races: "+format+"\n", args...)
	os.Exit(1)
}
