package firestoresim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// ErrNoEmulator says that there is no official emulator to test against:
// match it with errors.Is. The error's text says what to install or set.
var ErrNoEmulator = errors.New("firestoresim: no Firestore emulator")

const (
	// HostEnv names a running emulator, host:port, as Google's own tools do.
	HostEnv = "FIRESTORE_EMULATOR_HOST"
	// JarEnv is the path of cloud-firestore-emulator.jar, looked at first.
	JarEnv = "WASTABILITY_FIRESTORE_EMULATOR_JAR"
	// NeedEnv set to 1 makes NeedEmulator fail where it would skip.
	NeedEnv = "WASTABILITY_NEED_EMULATOR"
)

const (
	jarInSDK = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
	// debianSDK is where the package google-cloud-cli-firestore-emulator
	// installs.
	debianSDK    = "/usr/lib/google-cloud-sdk"
	startTimeout = 60 * time.Second

	archiveTimeout = time.Minute // writing it takes seconds on an idle machine
)

// Emulator is the official Firestore emulator: a process that StartEmulator
// started, or one that was running. Its methods may be called concurrently.
type Emulator struct {
	addr string
	http *http.Client
	proc *emulatorProcess // nil if it is not ours to stop
	arch archive
	stop func() error
}

// StartEmulator connects to the emulator that FIRESTORE_EMULATOR_HOST names, or starts
// one on a free port of 127.0.0.1, which takes some seconds. It waits until the emulator
// has taken a write, at most a minute. The context limits the start only; Close ends the
// process. On Linux the process also ends when this one dies, however it dies. The first
// one on a machine leaves a file of 45 MB in the user's cache directory, with which the
// next ones start in half of the time.
//
// The jar is looked for at $WASTABILITY_FIRESTORE_EMULATOR_JAR, in the SDK of
// the Debian package, and in the SDK that the gcloud command belongs to. Without
// it, or without java in the PATH, the error is ErrNoEmulator.
func StartEmulator(ctx context.Context) (*Emulator, error) {
	// Connections are not kept: no goroutine stays behind a request.
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if host := os.Getenv(HostEnv); host != "" {
		e := &Emulator{addr: strings.TrimPrefix(host, "http://"), http: hc, stop: func() error { return nil }}
		if err := e.await(ctx, nil); err != nil {
			return nil, fmt.Errorf("firestoresim: %s=%s does not answer: start that emulator or unset the variable: %w", HostEnv, host, err)
		}
		return e, nil
	}
	java, jar, err := findEmulator()
	if err != nil {
		return nil, err
	}
	var last error
	for range 5 { // the port may be taken between our look and java's
		e, retry, err := startEmulator(ctx, java, jar, cachedArchive(java, jar), hc)
		if err == nil {
			return e, nil
		}
		if last = err; !retry || ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func startEmulator(ctx context.Context, java, jar string, arch archive, hc *http.Client) (_ *Emulator, retry bool, err error) {
	port, err := stabilitytest.FreePort()
	if err != nil {
		return nil, false, fmt.Errorf("firestoresim: starting the emulator: %w", err)
	}
	// It lives for seconds: the first compiler alone and the simple collector
	// halve the processor time that it takes.
	args := append([]string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Duser.language=en"}, arch.args()...)
	proc, err := startProcess(java, append(args, "-cp", jar,
		"com.google.cloud.datastore.emulator.firestore.CloudFirestore", "--host=127.0.0.1", "--port="+port)...)
	if err != nil {
		return nil, false, fmt.Errorf("firestoresim: starting the emulator: %w", err)
	}
	e := &Emulator{addr: net.JoinHostPort("127.0.0.1", port), http: hc, proc: proc, arch: arch}
	e.stop = sync.OnceValue(e.shutdown)
	if err := e.await(ctx, proc.exited); err != nil {
		exited := proc.hasExited()
		proc.kill()
		arch.keep(false)
		return nil, exited, fmt.Errorf("firestoresim: the emulator does not answer: %w\n%s", err, proc.output())
	}
	if err := e.warm(ctx); err != nil {
		proc.kill()
		arch.keep(false)
		return nil, false, fmt.Errorf("firestoresim: the emulator does not take a write: %w\n%s", err, proc.output())
	}
	return e, false, nil
}

// warm writes and reads once: the first time takes seconds, longer than a
// caller's timeout may be.
func (e *Emulator) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := e.Client(ctx, "demo-warm")
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err = client.Doc("warm/up").Set(ctx, map[string]any{"at": firestore.ServerTimestamp}); err == nil {
		_, err = client.Doc("warm/up").Get(ctx)
	}
	return err
}

// await waits until the emulator answers, or its process has exited.
func (e *Emulator) await(ctx context.Context, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.do(ctx, http.MethodGet, "/")
		if err == nil {
			select {
			case <-exited: // somebody else answered on this port
				return errors.New("its process exited")
			default:
				return nil
			}
		}
		select {
		case <-exited:
			return errors.New("its process exited")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (e *Emulator) do(ctx context.Context, method, path string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer owner")
	res, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(body))
	}
	return nil
}

// Addr is the emulator's host:port.
func (e *Emulator) Addr() string { return e.addr }

// Client is a new client of a project, without credentials; the caller closes
// it. A project exists as soon as it is named; its id must be well-formed, for
// example demo-x. It needs no environment variable and changes none for longer
// than this call takes (see the package's page).
func (e *Emulator) Client(ctx context.Context, project string) (*firestore.Client, error) {
	conn, err := e.Dial()
	if err != nil {
		return nil, err
	}
	return newClient(ctx, project, "", conn)
}

// Dial is a new gRPC connection to the emulator, for what the official client
// does not send.
func (e *Emulator) Dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+e.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(ownerCredentials{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("firestoresim: connecting to the emulator: %w", err)
	}
	return conn, nil
}

// Reset deletes all documents of a project's default database.
func (e *Emulator) Reset(ctx context.Context, project string) error {
	err := e.do(ctx, http.MethodDelete, "/emulator/v1/projects/"+url.PathEscape(project)+"/databases/(default)/documents")
	if err != nil {
		return fmt.Errorf("firestoresim: resetting project %s: %w", project, err)
	}
	return nil
}

// Close ends the emulator's process, if it was started here. It may be called
// more than once.
func (e *Emulator) Close() error { return e.stop() }

func (e *Emulator) shutdown() error {
	if e.arch.made != "" { // an end without a kill writes it
		ctx, cancel := context.WithTimeout(context.Background(), archiveTimeout)
		defer cancel()
		if err := e.do(ctx, http.MethodPost, "/shutdown"); err == nil {
			select {
			case <-e.proc.exited:
				e.arch.keep(true)
				return nil
			case <-ctx.Done():
			}
		}
	}
	e.proc.kill() // it has nothing to write
	e.arch.keep(false)
	return nil
}

// ownerCredentials pass the emulator's security rules.
type ownerCredentials struct{}

func (ownerCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer owner"}, nil
}
func (ownerCredentials) RequireTransportSecurity() bool { return false }

var clientEnv sync.Mutex

// newClient makes a client on a connection, which the client closes. Where
// FIRESTORE_EMULATOR_HOST is set, firestore.NewClient would dial that too and
// never close it; so it does not see the variable.
func newClient(ctx context.Context, project, database string, conn *grpc.ClientConn) (*firestore.Client, error) {
	clientEnv.Lock()
	defer clientEnv.Unlock()
	if host, ok := os.LookupEnv(HostEnv); ok {
		os.Unsetenv(HostEnv)
		defer os.Setenv(HostEnv, host)
	}
	if database == "" {
		database = firestore.DefaultDatabaseID
	}
	c, err := firestore.NewClientWithDatabase(ctx, project, database, option.WithGRPCConn(conn), option.WithTelemetryDisabled())
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("firestoresim: making a client of project %q: %w", project, err)
	}
	return c, nil
}

func findEmulator() (java, jar string, err error) {
	var tried []string
	try := func(path string) bool {
		if jar != "" || path == "" {
			return jar != ""
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			jar = path
			return true
		}
		tried = append(tried, path)
		return false
	}
	if env := os.Getenv(JarEnv); env != "" && !try(env) {
		return "", "", fmt.Errorf("%w: %s=%s is no file: correct or unset it", ErrNoEmulator, JarEnv, env)
	}
	try(filepath.Join(debianSDK, jarInSDK))
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if real, err := filepath.EvalSymlinks(gcloud); err == nil {
			try(filepath.Join(filepath.Dir(filepath.Dir(real)), jarInSDK))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		try(filepath.Join(home, "google-cloud-sdk", jarInSDK))
	}
	if jar == "" {
		return "", "", fmt.Errorf("%w: set %s to a running one, or %s to cloud-firestore-emulator.jar, or install it "+
			"(gcloud components install cloud-firestore-emulator; Debian: google-cloud-cli-firestore-emulator); looked at %s",
			ErrNoEmulator, HostEnv, JarEnv, strings.Join(tried, ", "))
	}
	java, err = exec.LookPath("java")
	if err != nil {
		return "", "", fmt.Errorf("%w: %s needs java: install a Java runtime, or set %s to a running emulator: %w",
			ErrNoEmulator, jar, HostEnv, err)
	}
	return java, jar, nil
}

// emulatorProcess is a child with a process group of its own.
type emulatorProcess struct {
	cmd    *exec.Cmd
	out    tail
	exited chan struct{} // closed when it has been waited for
}

// startProcess starts the child on a thread that lives as long as the child:
// Linux sends the parent-death signal when the starting thread ends, not when
// the process does.
func startProcess(name string, args ...string) (*emulatorProcess, error) {
	p := &emulatorProcess{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second
	ownGroup(p.cmd)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *emulatorProcess) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *emulatorProcess) kill() {
	if !p.hasExited() {
		killGroup(p.cmd)
	}
	<-p.exited
}

func (p *emulatorProcess) output() string { return p.out.String() }

// tail keeps the last words of a process, for an error's text.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 4096; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
