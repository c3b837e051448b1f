package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runner builds and runs the tests, with a defect and without.
type runner struct {
	root, tmp string
	limit     time.Duration
	named     bool

	combined map[string]*combined // by batch

	mu    sync.Mutex
	bases map[string]*base // by package and tags
	n     int
}

// base is a package's tests without any defect.
type base struct {
	mu     sync.Mutex
	binary string
	err    error
	passes map[string]error // by test
}

type verdict string

const (
	caught   verdict = "caught"
	hung     verdict = "caught (hangs)"
	survived verdict = "SURVIVED"
	accepted verdict = "survived (known)"
	none     verdict = "no defect"
	broken   verdict = "ERROR"
)

type result struct {
	defect  defect
	verdict verdict
	test    string // that caught it
	took    time.Duration
	detail  string
}

func newRunner(root string, limit time.Duration, named bool) (*runner, error) {
	tmp, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return nil, err
	}
	return &runner{root: root, tmp: tmp, limit: limit, named: named, bases: map[string]*base{}, combined: map[string]*combined{}}, nil
}

func (r *runner) close() { os.RemoveAll(r.tmp) }

// try runs one defect.
func (r *runner) try(ctx context.Context, d defect) result {
	start := time.Now()
	res := result{defect: d}
	res.verdict, res.test, res.detail = r.judge(ctx, d)
	if ctx.Err() != nil {
		res.verdict, res.detail = broken, "interrupted"
	}
	res.took = time.Since(start)
	return res
}

func (r *runner) judge(ctx context.Context, d defect) (v verdict, test, detail string) {
	if d.same != "" {
		return none, "", d.same
	}
	b, err := r.binaryOf(ctx, d)
	if err != nil {
		return broken, "", err.Error()
	}
	defer b.drop()

	runs := []string{""} // the whole package
	if len(d.tests) > 0 {
		runs = []string{"^(" + strings.Join(d.tests, "|") + ")$", ""}
		if r.named {
			runs = runs[:1]
		}
	}
	for _, pattern := range runs {
		limit := r.limit
		if pattern != "" {
			limit = min(limit, namedLimit)
		}
		out, err := r.run(ctx, d.testPkg(), b, pattern, limit)
		v, test := read(out, err)
		if v == survived {
			continue
		}
		if err := r.passes(ctx, d, test); err != nil {
			return broken, test, err.Error()
		}
		if d.survives != "" {
			return broken, test, "it is marked as one that survives: take the mark away"
		}
		return v, test, ""
	}
	if d.survives != "" {
		return accepted, "", d.survives
	}
	return survived, "", ""
}

// built is a test binary with a defect in it, or without one.
type built struct {
	binary, overlay string
	number          int    // the defect among several; 0: none is chosen
	drop            func() // takes it away
}

// binaryOf gives the test binary with the defect in it: one that is shared, or
// one of its own.
func (r *runner) binaryOf(ctx context.Context, d defect) (built, error) {
	if c := r.combined[d.batch()]; c != nil && c.number[d.id()] > 0 {
		return built{c.binary, c.overlay, c.number[d.id()], func() {}}, nil
	}
	files, err := d.apply(r.root)
	if err != nil {
		return built{}, err
	}
	dir, err := r.folder()
	if err != nil {
		return built{}, err
	}
	b := built{binary: filepath.Join(dir, "mutant.test"), drop: func() { os.RemoveAll(dir) }}
	if b.overlay, err = write(dir, files); err == nil {
		err = r.build(ctx, d.testPkg(), d.tags, b.overlay, b.binary)
	}
	if err != nil {
		b.drop()
	}
	return b, err
}

// namedLimit bounds the named tests, which are quick ones.
const namedLimit = time.Minute

// folder makes a folder for one defect.
func (r *runner) folder() (string, error) {
	r.mu.Lock()
	r.n++
	dir := filepath.Join(r.tmp, strconv.Itoa(r.n))
	r.mu.Unlock()
	return dir, os.Mkdir(dir, 0o700)
}

// write puts the changed files beside an overlay that names them, and returns the
// overlay's path.
func write(dir string, files map[string]string) (string, error) {
	replace := map[string]string{}
	for path, text := range files {
		to := filepath.Join(dir, strconv.Itoa(len(replace))+"-"+filepath.Base(path))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}

// build compiles a package's tests. The package may be in a nested module.
func (r *runner) build(ctx context.Context, pkg, tags, overlay, binary string) error {
	args := []string{"test", "-c", "-vet=off", "-o", binary}
	if tags != "" {
		args = append(args, "-tags="+tags)
	}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = filepath.Join(r.root, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("does not compile: %w\n%s", err, out)
	}
	return nil
}

// run runs a test binary in its package's folder. Tests that build programs of
// this repository build them with the defect too.
func (r *runner) run(ctx context.Context, pkg string, b built, pattern string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+20*time.Second) // one that does not even end itself
	defer cancel()
	args := []string{"-test.v", "-test.failfast", "-test.timeout=" + limit.String(), "-test.run=" + pattern}
	if help, _ := exec.CommandContext(ctx, b.binary, "-help").CombinedOutput(); bytes.Contains(help, []byte("-rapid.nofailfile")) {
		args = append(args, "-rapid.nofailfile") // it would be replayed by everybody
	}
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Dir = filepath.Join(r.root, pkg)
	cmd.Env = append(os.Environ(), chosen+"="+strconv.Itoa(b.number))
	if b.overlay != "" {
		cmd.Env = append(cmd.Env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+b.overlay))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second // for children that hold the output
	ownGroup(cmd)
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return out.String(), err
}

var (
	failed  = regexp.MustCompile(`(?m)^--- FAIL: (\S+) `)
	started = regexp.MustCompile(`(?m)^=== RUN +([^/\s]+)`)
	running = regexp.MustCompile(`running tests:\n\s+([^/\s]+)`)
)

// read judges what a run of tests printed, and names the test that noticed.
func read(out string, err error) (verdict, string) {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return survived, ""
	}
	last := ""
	if all := started.FindAllStringSubmatch(out, -1); len(all) > 0 {
		last = all[len(all)-1][1]
	}
	if m := running.FindStringSubmatch(out); m != nil && strings.Contains(out, "panic: test timed out") {
		return hung, m[1]
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return hung, last
	}
	if m := failed.FindStringSubmatch(out); m != nil {
		return caught, m[1]
	}
	return caught, last // it ended the process
}

// passes says whether the test passes when there is no defect: in the same
// binary, if it is a shared one.
func (r *runner) passes(ctx context.Context, d defect, test string) error {
	id := d.testPkg() + " " + d.tags
	shared := r.combined[d.batch()]
	if shared != nil && shared.number[d.id()] > 0 {
		id = d.batch()
	} else {
		shared = nil
	}
	r.mu.Lock()
	b := r.bases[id]
	if b == nil {
		b = &base{passes: map[string]error{}}
		r.bases[id] = b
		r.n++
		b.binary = filepath.Join(r.tmp, strconv.Itoa(r.n)+".test")
	}
	r.mu.Unlock()

	b.mu.Lock()
	defer b.mu.Unlock()
	without := built{binary: b.binary}
	if shared != nil {
		without = built{binary: shared.binary, overlay: shared.overlay}
	} else if _, err := os.Stat(b.binary); b.err == nil && err != nil {
		b.err = r.build(ctx, d.testPkg(), d.tags, "", b.binary)
	}
	if b.err != nil {
		return b.err
	}
	if err, ok := b.passes[test]; ok {
		return err
	}
	out, err := r.run(ctx, d.testPkg(), without, "^"+regexp.QuoteMeta(test)+"$", r.limit)
	if err != nil {
		err = fmt.Errorf("%s fails without any defect: %w\n%s", test, err, tail(out))
	}
	b.passes[test] = err
	return err
}

func tail(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
