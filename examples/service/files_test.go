package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/memorybackend"
)

const folder = "../../deploy/"

// platform is what one of the files says: how replicas are started, when they
// count as ready, and how they are ended.
type platform struct {
	name      string
	store     string // local, postgres or firestore
	replicas  int
	ready     string        // the path that is asked
	byProbe   bool          // by this program, with -probe
	live      string        // the path of the liveness probe, if there is one
	grace     time.Duration // between SIGTERM and the kill
	shutdown  string        // SHUTDOWN_TIMEOUT
	stopFirst bool          // the old one ends before the new one starts
	overlap   time.Duration // the new one is ready for so long before the old one is ended
	env       []string      // the names that are set
}

// file is a parsed YAML or JSON document.
type file struct {
	t testing.TB
	v any
}

// at goes down by names of fields and numbers of elements.
func (f file) at(path ...any) file {
	f.t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := f.v.(map[string]any)
			require.True(f.t, ok && m[p] != nil, "no %s in %v of %v", p, f.v, path)
			f.v = m[p]
		case int:
			l, ok := f.v.([]any)
			require.True(f.t, ok && len(l) > p, "no element %d of %v", p, path)
			f.v = l[p]
		}
	}
	return f
}

func (f file) text() string { return fmt.Sprint(f.v) }

func (f file) number() int {
	n, err := strconv.ParseFloat(f.text(), 64)
	require.NoError(f.t, err)
	return int(n)
}

func (f file) seconds() time.Duration { return time.Duration(f.number()) * time.Second }

// names are the values of name in a list, as in env.
func (f file) names() (names []string) {
	for i := range f.v.([]any) {
		names = append(names, f.at(i, "name").text())
	}
	return names
}

func read(t testing.TB, name string) []byte {
	text, err := os.ReadFile(folder + name)
	require.NoError(t, err)
	return text
}

// documents parses a YAML file.
func documents(t testing.TB, name string) (docs []file) {
	d := yaml.NewDecoder(strings.NewReader(string(read(t, name))))
	for {
		var v any
		err := d.Decode(&v)
		if err == io.EOF {
			return docs
		}
		require.NoError(t, err)
		docs = append(docs, file{t, v})
	}
}

func kubernetes(t testing.TB) platform {
	spec := documents(t, "kubernetes.yaml")[0].at("spec")
	pod := spec.at("template", "spec")
	bot := pod.at("containers", 0)
	return platform{
		name: "kubernetes", store: "postgres", replicas: spec.at("replicas").number(),
		ready: bot.at("readinessProbe", "httpGet", "path").text(), live: bot.at("livenessProbe", "httpGet", "path").text(),
		grace: pod.at("terminationGracePeriodSeconds").seconds(), overlap: spec.at("minReadySeconds").seconds(),
		env: bot.at("env").names(),
	}
}

func railway(t testing.TB) platform {
	var v any
	require.NoError(t, json.Unmarshal(read(t, "railway.json"), &v))
	d := file{t, v}.at("deploy")
	return platform{
		name: "railway", store: "postgres", replicas: d.at("numReplicas").number(), ready: d.at("healthcheckPath").text(),
		grace: d.at("drainingSeconds").seconds(), overlap: d.at("overlapSeconds").seconds(),
	}
}

func cloudRun(t testing.TB) platform {
	template := documents(t, "cloudrun.yaml")[0].at("spec", "template")
	bot := template.at("spec", "containers", 0)
	p := platform{
		name: "cloudrun", store: "firestore", replicas: template.at("metadata", "annotations", "autoscaling.knative.dev/minScale").number(),
		ready: bot.at("startupProbe", "httpGet", "path").text(), live: bot.at("livenessProbe", "httpGet", "path").text(),
		grace: 10 * time.Second, // Cloud Run's own, for every service
		env:   bot.at("env").names(),
	}
	for i, name := range p.env {
		if name == "SHUTDOWN_TIMEOUT" {
			p.shutdown = bot.at("env", i, "value").text()
		}
	}
	return p
}

func compose(t testing.TB) platform {
	doc := documents(t, "compose.yaml")[0]
	p := platform{name: "compose", store: "postgres", stopFirst: true, byProbe: true}
	for name := range doc.at("services").v.(map[string]any) {
		if strings.HasPrefix(name, "bot-") {
			p.replicas++
		}
	}
	bot := doc.at("services", "bot-a")
	test := bot.at("healthcheck", "test")
	require.Equal(t, []any{"CMD", "/wa-bot", "-probe"}, test.v.([]any)[:3])
	p.ready = test.at(3).text()
	var err error
	p.grace, err = time.ParseDuration(bot.at("stop_grace_period").text())
	require.NoError(t, err)
	for name := range bot.at("environment").v.(map[string]any) {
		p.env = append(p.env, name)
	}
	return p
}

func systemd(t testing.TB) platform {
	unit := map[string]string{}
	for line := range strings.Lines(string(read(t, "systemd/wa-bot@.service"))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && line[0] != '#' {
			unit[key] = value
		}
	}
	seconds, err := strconv.Atoi(unit["TimeoutStopSec"])
	require.NoError(t, err)
	require.Equal(t, "SIGTERM", unit["KillSignal"])
	require.Equal(t, "always", unit["Restart"], "a broken loop ends the process")
	require.Contains(t, unit["Environment"], "STORE=local:")
	_, ready, ok := strings.Cut(unit["ExecStartPost"], unit["ExecStart"]+" -probe ")
	require.True(t, ok)
	return platform{name: "systemd", store: "local", replicas: 1, ready: ready, byProbe: true, grace: time.Duration(seconds) * time.Second,
		env: []string{"PORT", "STORE"}}
}

func platforms(t testing.TB) []platform {
	return []platform{systemd(t), compose(t), kubernetes(t), railway(t), cloudRun(t)}
}

func TestGracePeriodsCoverTheHandOver(t *testing.T) {
	for _, p := range platforms(t) {
		var opts []stability.Option
		if p.shutdown != "" {
			d, err := time.ParseDuration(p.shutdown)
			require.NoError(t, err)
			opts = append(opts, stability.WithShutdownTimeout(d))
		}
		m := manager(t, opts...)
		require.Greater(t, p.grace, m.Status().Settings.HandOver(), p.name)
	}
}

func TestProbesAskWhatTheAdminPageAnswers(t *testing.T) {
	admin, err := adminhttp.New(manager(t), adminhttp.WithToken("0123456789abcdef"))
	require.NoError(t, err)
	ask := func(path string) int {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	require.Equal(t, http.StatusUnauthorized, ask("/api/longrun/status-now"), "what a probe must not ask")
	for _, p := range platforms(t) {
		for _, path := range []string{p.ready, p.live} {
			if path != "" {
				require.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, ask(path), "%s: %s", p.name, path)
			}
		}
		if p.live != "" {
			require.Equal(t, http.StatusOK, ask(p.live), "%s: a replica without a connection is not killed", p.name)
		}
	}
}

func TestDeployFilesSetWhatTheProgramReads(t *testing.T) {
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	for _, p := range platforms(t) {
		for _, name := range p.env {
			require.Contains(t, string(program), `os.Getenv("`+name+`")`, p.name)
		}
	}
}

func TestKubernetesNeverHasLessThanTwoReady(t *testing.T) {
	docs := documents(t, "kubernetes.yaml")
	spec := docs[0].at("spec")
	require.Equal(t, 2, spec.at("replicas").number())
	update := spec.at("strategy", "rollingUpdate")
	require.Zero(t, update.at("maxUnavailable").number())
	require.Positive(t, update.at("maxSurge").number())
	labels := spec.at("template", "metadata", "labels").v
	require.Equal(t, labels, spec.at("selector", "matchLabels").v)
	require.Equal(t, "PodDisruptionBudget", docs[1].at("kind").text())
	require.Equal(t, labels, docs[1].at("spec", "selector", "matchLabels").v)
	require.Equal(t, 1, docs[1].at("spec", "maxUnavailable").number())
	require.Equal(t, labels, docs[2].at("spec", "selector").v)
	require.Equal(t, true, spec.at("template", "spec", "securityContext", "runAsNonRoot").v)
	port := spec.at("template", "spec", "containers", 0, "ports", 0)
	require.Equal(t, 8080, port.at("containerPort").number())
	require.Equal(t, "http", port.at("name").text())
}

func TestCloudRunKeepsOneInstanceWithItsCPU(t *testing.T) {
	notes := documents(t, "cloudrun.yaml")[0].at("spec", "template", "metadata", "annotations")
	require.Equal(t, "false", notes.at("run.googleapis.com/cpu-throttling").text())
	require.GreaterOrEqual(t, notes.at("autoscaling.knative.dev/minScale").number(), 1)
	require.GreaterOrEqual(t, notes.at("autoscaling.knative.dev/maxScale").number(), 2)
	require.Len(t, documents(t, "cloudrun.yaml")[0].at("spec", "template", "spec", "containers").v, 1)
}

func TestImageHasOneProgramAndIsNotRoot(t *testing.T) {
	text := string(read(t, "Dockerfile"))
	_, last, ok := strings.Cut(text[strings.Index(text, "FROM ")+5:], "\nFROM ")
	require.True(t, ok, "two stages")
	require.True(t, strings.HasPrefix(last, "scratch\n"), last)
	require.Regexp(t, `\nUSER [1-9][0-9]*:[1-9][0-9]*\n`, last)
	require.Contains(t, last, "STOPSIGNAL SIGTERM")
	require.Contains(t, last, `ENTRYPOINT ["/wa-bot"]`)
	module, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	require.Contains(t, text, "FROM golang:"+string(version[1])+" ")
}

func TestSystemdAcceptsTheUnit(t *testing.T) {
	t.Parallel()
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	unit := strings.ReplaceAll(string(read(t, "systemd/wa-bot@.service")), "/usr/local/bin/wa-bot", "/bin/true")
	path := filepath.Join(t.TempDir(), "wa-bot@8081.service")
	require.NoError(t, os.WriteFile(path, []byte(unit), 0o600))
	out, err := exec.Command(verify, "verify", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "wa-bot@", "it has nothing to say about the unit")
}

func manager(t testing.TB, opts ...stability.Option) *stability.Manager {
	m, err := stability.New(append(opts, stability.WithBackend(memorybackend.New().Backend()))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(t.Context())) })
	return m
}
