package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const dashboardFile = "../../deploy/grafana/wastability.json"

// panel is one picture of the dashboard.
type panel struct {
	title, kind, unit string
	width, height     int
	queries           []query
	about             string
}

type query struct{ expr, legend string }

// on is a metric of the chosen accounts.
func on(name string, more ...string) string {
	return name + `{` + strings.Join(append([]string{`job=~"$job"`, `wastability_account=~"$account"`}, more...), `, `) + `}`
}

const per = " by (wastability_account) "

func most(name string, more ...string) string { return "max" + per + "(" + on(name, more...) + ")" }

func rate(label, name string, more ...string) string {
	return "sum by (" + label + ") (rate(" + on(name, more...) + "[$__rate_interval]))"
}

func average(label, time, count string) string {
	return rate(label, time) + " / (" + rate(label, count) + " > 0)"
}

var panels = []panel{
	{"Connected", "stat", "none", 4, 4, []query{{most("wastability_connection_connected"), "{{wastability_account}}"}},
		"1 while one of the account's instances is connected."},
	{"State", "stat", "none", 4, 4, []query{{"max by (wastability_state) (" + on("wastability_connection_state", `wastability_state!~"standby|closed"`) + ") > 0", "{{wastability_state}}"}},
		"What the instances do that do not stand by."},
	{"Standby", "stat", "none", 4, 4, []query{{"sum" + per + "(" + on("wastability_connection_state", `wastability_state=~"standby|released"`) + ")", "{{wastability_account}}"}},
		"Instances that would take over."},
	{"Open incidents", "stat", "none", 4, 4, []query{{"sum(max by (wastability_account, wastability_incident) (" + on("wastability_incidents_active") + "))", ""}}, ""},
	{"Messages waiting", "stat", "none", 4, 4, []query{{most("wastability_messages_waiting"), "{{wastability_account}}"}},
		"Received, and not taken by the program's handlers."},
	{"Trust left", "stat", "s", 4, 4, []query{{"min" + per + "(" + on("wastability_lock_trust_remaining_seconds") + ")", "{{wastability_account}}"}},
		"How long the holder may go on without another renewal of the lock."},

	{"What the instances do", "timeseries", "none", 12, 8, []query{{"sum by (wastability_state) (" + on("wastability_connection_state") + ")", "{{wastability_state}}"}, {"sum(" + on("wastability_store_available") + ")", "the backend answers"}},
		"Instances in each state."},
	{"Health of the connection", "timeseries", "none", 12, 8, []query{{"max by (wastability_health) (" + on("wastability_connection_health") + ")", "{{wastability_health}}"}}, ""},
	{"In this state for", "timeseries", "s", 8, 7, []query{{most("wastability_connection_state_age_seconds"), "{{wastability_account}}"}}, ""},
	{"Disconnects by reason", "timeseries", "cpm", 8, 7, []query{{"60 * " + rate("wastability_reason", "wastability_connection_disconnects_total") + " > 0", "{{wastability_reason}}"}},
		"Ends of connections and of attempts, a minute."},
	{"Attempts and logins", "timeseries", "cpm", 8, 7, []query{
		{"60 * " + rate("wastability_account", "wastability_connection_attempts_total"), "attempts"},
		{"60 * " + rate("wastability_account", "wastability_connection_logins_total"), "logins"},
	}, "A minute."},

	{"Received messages", "timeseries", "cps", 8, 7, []query{{rate("wastability_account", "wastability_messages_handled_total"), "handled"}}, "A second."},
	{"Messages that wait", "timeseries", "none", 8, 7, []query{
		{most("wastability_messages_waiting"), "waiting"}, {most("wastability_messages_set_aside"), "set aside"}, {most("wastability_handlers_waiting"), "before the handlers"},
	}, ""},
	{"Age of the oldest", "timeseries", "s", 8, 7, []query{
		{most("wastability_messages_waiting_age_seconds"), "waiting"}, {most("wastability_messages_set_aside_age_seconds"), "set aside"}, {most("wastability_handlers_running_age_seconds"), "handler running"},
	}, ""},
	{"Sends by answer", "timeseries", "cps", 8, 7, []query{{rate("wastability_result, wastability_code", "wastability_sends_total") + " > 0", "{{wastability_result}} {{wastability_code}}"}}, "A second."},
	{"Sends without an answer", "timeseries", "none", 8, 7, []query{
		{most("wastability_sends_waiting"), "waiting"}, {most("wastability_sends_unanswered"), "not answered in time"},
	}, ""},
	{"WhatsApp answers after", "timeseries", "s", 8, 7, []query{
		{rate("wastability_account", "wastability_sends_answer_duration_seconds_total") + " / (" + rate("wastability_account", "wastability_sends_total") + " > 0)", "a message"},
		{average("wastability_account", "wastability_connection_ping_duration_seconds_total", "wastability_connection_pings_total"), "a ping"},
	}, "Mean round trip."},

	{"Calls to the backend", "timeseries", "cps", 8, 7, []query{{rate("wastability_operation, wastability_result", "wastability_store_operations_total") + " > 0", "{{wastability_operation}} {{wastability_result}}"}}, "A second."},
	{"The backend answers after", "timeseries", "s", 8, 7, []query{
		{average("wastability_operation", "wastability_store_operation_duration_seconds_total", "wastability_store_operations_total"), "{{wastability_operation}}, mean"},
		{"max by (wastability_operation) (" + on("wastability_store_operation_slowest_seconds") + ")", "{{wastability_operation}}, slowest"},
	}, ""},
	{"Backend out of reach", "timeseries", "s", 8, 7, []query{
		{most("wastability_store_unavailable_age_seconds") + " or 0 * " + most("wastability_accounts"), "{{wastability_account}}"},
	}, "For how long it has not answered."},
	{"Lock", "timeseries", "s", 12, 7, []query{
		{"min" + per + "(" + on("wastability_lock_trust_remaining_seconds") + ")", "trust left"}, {most("wastability_lock_lease_seconds"), "lease"},
	}, ""},
	{"Terms and renewals", "timeseries", "none", 12, 7, []query{
		{most("wastability_lock_term"), "term"}, {"60 * " + rate("wastability_result", "wastability_lock_renewals_total"), "renewals a minute: {{wastability_result}}"},
		{"sum(increase(" + on("wastability_lock_terms_total") + "[1h]))", "terms in an hour"}, {"sum(" + on("wastability_lock_held") + ")", "holders"},
	}, ""},
	{"Incidents", "timeseries", "none", 24, 7, []query{{"max by (wastability_incident) (" + on("wastability_incidents_active") + ") > 0 or 0 * sum by (wastability_incident) (" + on("wastability_incidents_active", `wastability_incident="other"`) + ")", "{{wastability_incident}}"}}, "Each kind while it is open."},
}

// dashboard is the file that Grafana imports.
func dashboard(t *testing.T) []byte {
	t.Helper()
	type m = map[string]any
	source := m{"type": "prometheus", "uid": "${datasource}"}
	variable := func(name, label, ask string) m {
		return m{
			"name": name, "label": label, "type": "query", "datasource": source, "query": ask, "definition": ask,
			"includeAll": true, "multi": true, "allValue": ".*", "refresh": 2, "current": m{"text": "All", "value": "$__all"},
		}
	}
	var all []m
	x, y, row := 0, 0, 0
	for i, p := range panels {
		if x+p.width > 24 {
			x, y, row = 0, y+row, 0
		}
		var targets []m
		for k, q := range p.queries {
			targets = append(targets, m{"refId": string(rune('A' + k)), "datasource": source, "expr": q.expr, "legendFormat": q.legend, "range": true})
		}
		all = append(all, m{
			"id": i + 1, "title": p.title, "description": p.about, "type": p.kind, "datasource": source, "targets": targets,
			"gridPos":     m{"x": x, "y": y, "w": p.width, "h": p.height},
			"fieldConfig": m{"defaults": m{"unit": p.unit, "min": 0}, "overrides": []m{}},
		})
		x, row = x+p.width, max(row, p.height)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	require.NoError(t, enc.Encode(m{
		"title": "wastability", "uid": "wastability", "schemaVersion": 38, "editable": true, "refresh": "30s", "tags": []string{"whatsapp"},
		"time":       m{"from": "now-6h", "to": "now"},
		"templating": m{"list": []m{{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}, variable("job", "Job", "label_values(wastability_accounts, job)"), variable("account", "Account", `label_values(wastability_accounts{job=~"$job"}, wastability_account)`)}},
		"panels":     all,
	}))
	return b.Bytes()
}

func TestDashboardUsesNamesThatTheExporterShows(t *testing.T) {
	same(t, dashboardFile, dashboard(t))
	names, _ := exported(t)
	for _, p := range panels {
		for _, q := range p.queries {
			known(t, q.expr)
			for _, used := range metricName.FindAllString(q.expr, -1) {
				delete(names, used)
			}
		}
	}
	require.Empty(t, names, "every metric is shown somewhere")
}

// TestEveryPanelShowsDataOfTheSimulation runs the example and a Prometheus, in
// real time.
func TestEveryPanelShowsDataOfTheSimulation(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a Prometheus for half a minute")
	}
	prometheus := tool(t, "prometheus")
	dir := t.TempDir()
	bot := filepath.Join(dir, "bot")
	out, err := exec.Command("go", "build", "-o", bot, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	exporterAt := listens(t, exec.Command(bot, "-simulate", "-listen", "localhost:0"), regexp.MustCompile(`metrics at http://(\S+)/metrics`))

	rules, err := filepath.Abs(rulesFile)
	require.NoError(t, err)
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- job_name: bot\n  static_configs: [{targets: [%q]}]\n", rules, exporterAt)
	file := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	at := "http://" + listens(t, exec.Command(prometheus, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0"),
		regexp.MustCompile(`Listening on" address=(127\.0\.0\.1:\d+)`))

	missing := map[string]string{}
	for _, p := range panels {
		for _, q := range p.queries {
			missing[p.title+": "+q.legend] = q.expr
		}
	}
	began := time.Now()
	for len(missing) > 0 {
		require.Less(t, time.Since(began), 2*time.Minute, "panels without data: %v", missing)
		time.Sleep(time.Second)
		for what, expr := range missing {
			if shows(t, at, expr, began) {
				delete(missing, what)
			}
		}
	}
	var loaded struct {
		Data struct {
			Groups []struct{ Rules []struct{ Health string } }
		}
	}
	require.True(t, ask(t, at+"/api/v1/rules", &loaded))
	require.Len(t, loaded.Data.Groups, 1)
	require.Len(t, loaded.Data.Groups[0].Rules, len(alerts))
	for _, r := range loaded.Data.Groups[0].Rules {
		require.Equal(t, "ok", r.Health)
	}
}

// shows reports whether a panel's query has data since then, with Grafana's
// variables filled in.
func shows(t *testing.T, at, expr string, since time.Time) bool {
	t.Helper()
	expr = strings.NewReplacer("$job", ".*", "$account", ".*", "$__rate_interval", "10s").Replace(expr)
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	ready := ask(t, at+"/api/v1/query_range?"+url.Values{
		"query": {expr}, "step": {"1"},
		"start": {fmt.Sprint(since.Add(-time.Minute).Unix())}, "end": {fmt.Sprint(time.Now().Unix())},
	}.Encode(), &answer)
	require.Empty(t, answer.Error, expr)
	return ready && len(answer.Data.Result) > 0
}

// ask reads an answer of Prometheus; false while it is starting.
func ask(t *testing.T, address string, into any) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	if res.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(into))
	return true
}

// listens starts a program, ends it with the test, and returns the address that
// it says it listens at.
func listens(t *testing.T, cmd *exec.Cmd, says *regexp.Regexp) string {
	t.Helper()
	said := &output{says: says, at: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, said.text.String())
		}
	})
	select {
	case at := <-said.at:
		return at
	case <-time.After(time.Minute):
		require.Fail(t, "it does not say where it listens", cmd.Path)
	}
	return ""
}

// output looks for an address in what a program says. Its Writes take turns:
// the same for both pipes, it is written by one goroutine.
type output struct {
	says *regexp.Regexp
	at   chan string
	text bytes.Buffer
	told bool
}

func (o *output) Write(p []byte) (int, error) {
	o.text.Write(p)
	if m := o.says.FindSubmatch(o.text.Bytes()); m != nil && !o.told {
		o.told = true
		o.at <- string(m[1])
	}
	return len(p), nil
}
