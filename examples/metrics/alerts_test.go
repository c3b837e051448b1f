package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/wastability/wastability/guard"
)

var update = flag.Bool("update", false, "write the rules and the dashboard")

const rulesFile = "../../deploy/prometheus/alerts.yml"

// alert is a rule. What to do is the text of an incident of the library, or,
// for what no instance can see by itself, a text of its own.
type alert struct {
	name, severity string
	expr           string
	wait           time.Duration
	is             string
	incident       guard.Type
	do, runbook    string
}

// by are the labels that make an account: see the head of the rules.
const by = " by (job, wastability_account) "

func incident(types ...guard.Type) string {
	var words []string
	for _, t := range types {
		words = append(words, string(t))
	}
	return `max` + by + `(wastability_incidents_active{wastability_incident=~"` + strings.Join(words, "|") + `"}) > 0`
}

const off = `max` + by + `(wastability_connection_connected) == 0`

// alerts are the rules.
var alerts = []alert{
	{
		name: "WastabilityDown", severity: "critical", wait: 10 * time.Minute,
		expr: off + "\nunless" + `
max` + by + `(wastability_connection_state{wastability_state="needs_pairing"}) > 0`,
		is: "No instance has been connected for ten minutes.",
		do: "If another alert of this account names the cause, do what that one says. Else open the account's admin page: it says why, and what to do.",
		runbook: `- Without the admin page: check network, DNS, proxy and firewall of this account's hosts, and whether other accounts are connected.
- If only this account is off, open WhatsApp on its phone and look for a notice.
- The program keeps trying by itself wherever trying can help. Messages that arrive meanwhile wait at WhatsApp.`,
	},
	{
		name: "WastabilityMissing", severity: "critical", wait: 10 * time.Minute,
		expr: `absent(wastability_accounts)`,
		is:   "No instance of any account tells anything.",
		do:   "Look whether the program runs, and whether Prometheus can reach it.",
		runbook: `- Look at the target's page in Prometheus: a refused connection is a program that does not run.
- Look at the platform's log of the program: how it ended, and whether it is started again.
- Messages that arrive meanwhile wait at WhatsApp.`,
	},
	{
		name: "WastabilityFlapping", severity: "warning",
		expr: `sum` + by + `(increase(wastability_connection_logins_total[15m])) > 5` + "\nor\n" +
			incident(guard.TypeReconnectLoop, guard.TypeRestartLoop, guard.TypeLockFlapping),
		is: "The connection comes and goes, again and again.",
		do: "Look in the log for the reason of each line \"disconnected\": below is what to do for it. Nothing is lost meanwhile.",
		runbook: `- connection_replaced: another copy uses the session. Find it and stop it: a program started twice, an old host, a restored backup.
- restart_required, again and again: update whatsmeow. Check whether other accounts are treated the same way.
- lock_lost, holder_lost, handed_over: the lock moves. Check whether an instance crashes, and the network between instances and backend.
- closed_by_program, requested, redelivery: the program itself ends its connections, or refuses messages again and again.
- Other reasons: check the network between this host and WhatsApp. Where attempts fail too often the process ends with code 1, unless it is set to heal in process; check that the platform restarts it.`,
	},
	{
		name: "WastabilityMute", severity: "critical", wait: time.Minute,
		expr: `max` + by + `(wastability_connection_health{wastability_health="mute"}) > 0` + "\nor\n" + incident(guard.TypeSendsRefused),
		is:   "It is connected, and WhatsApp refuses what it sends, or does not answer.", incident: guard.TypeSendsRefused,
	},
	{
		name: "WastabilityDeaf", severity: "critical", wait: 5 * time.Minute,
		expr: `max` + by + `(wastability_connection_health{wastability_health=~"degraded|stale"}) > 0`,
		is:   "It is connected, and does not get on with what it receives.", incident: guard.TypeDegraded,
	},
	{
		name: "WastabilityMessagesWaiting", severity: "critical", wait: time.Minute,
		expr: `max` + by + `(wastability_messages_waiting_age_seconds) > 1800`,
		is:   "A received message has waited for half an hour to be handled.", incident: guard.TypeMessagesWaiting,
	},
	{
		name: "WastabilityNeedsPairing", severity: "critical", wait: 2 * time.Minute,
		// A banned account must not be paired before the ban is lifted.
		expr: `max` + by + `(wastability_connection_state{wastability_state="needs_pairing"}) > 0` + "\nunless\n" + incident(guard.TypeAccountBanned),
		is:   "No device is linked: somebody must pair.", incident: guard.TypeLoggedOut,
	},
	{
		name: "WastabilityClientOutdated", severity: "critical",
		expr: `max` + by + `(max_over_time(wastability_incidents_active{wastability_incident="wa_client_outdated"}[10m])) > 0` + "\nand\n" + off,
		is:   "WhatsApp refuses this version of whatsmeow.", incident: guard.TypeClientOutdated,
	},
	{
		name: "WastabilityNoStandby", severity: "warning", wait: 15 * time.Minute,
		expr: `sum` + by + `(wastability_connection_state{wastability_state=~"standby|released"}) == 0` + "\nand\n" +
			`avg_over_time((sum` + by + `(wastability_connection_state{wastability_state=~"standby|released"}) > bool 0)[6h:5m]) > 0.5`,
		is: "The account had an instance standing by, and has none now.",
		do: "Look why the other instance does not run; nothing is interrupted yet.",
		runbook: `- The account is served by one instance. If that ends, nobody takes over.
- Look at the platform: a crash loop, a full node, a deploy that stopped half-way.
- If one instance is meant from now on, this ends by itself within some hours.`,
	},
	{
		name: "WastabilityHolderUnfit", severity: "critical",
		expr: `max` + by + `(max_over_time(wastability_incidents_active{wastability_incident="wa_holder_unfit"}[10m])) > 0` + "\nand\n" + off,
		is:   "Each instance gave the lock up, because it could not connect.", incident: guard.TypeHolderUnfit,
	},
	{
		name: "WastabilityStoreUnavailable", severity: "critical", wait: time.Minute,
		expr: `max` + by + `(wastability_store_unavailable_age_seconds) > 30`,
		is:   "The backend that keeps session and lock does not answer.", incident: guard.TypeStoreUnavailable,
	},
	{
		name: "WastabilityLeaseEnding", severity: "warning",
		expr: `min` + by + `(min_over_time(wastability_lock_trust_remaining_seconds[2m])) < 0.35 * max` + by + `(wastability_lock_lease_seconds)`,
		is:   "The holder has not renewed the lock lately, and must soon let the connection go.",
		do:   "Look why the lock is not renewed: the backend, its network, or a process that was paused.",
		runbook: `- A healthy holder renews the lock long before this.
- Look at wastability_lock_renewals_total and at the backend's latency on the dashboard.
- If the lease runs out the connection is cut, and the first instance that reaches the backend connects. Nothing is lost.`,
	},
	other("WastabilityRestartsDoNotHelp", "critical", guard.TypeRestartBudget),
	other("WastabilityBanned", "critical", guard.TypeAccountBanned),
	other("WastabilityBannedForNow", "warning", guard.TypeTemporaryBan),
	other("WastabilityAnotherCopy", "warning", guard.TypeConnectionConflict),
	other("WastabilitySameInstanceID", "warning", guard.TypeInstanceIDNotUnique),
	other("WastabilityDataDamaged", "warning", guard.TypeDataDamaged),
	other("WastabilityMessagesSetAside", "warning", guard.TypeMessagesSetAside),
}

// other is an alert that says what an incident says, whenever that is open.
func other(name, severity string, kind guard.Type) alert {
	return alert{name: name, severity: severity, expr: incident(kind), is: kind.Title() + ".", incident: kind}
}

const rulesHead = `# Alert rules for the metrics of stability/metrics, as OpenTelemetry's Prometheus
# exporter names them (examples/metrics). What each says to do is the text of the
# library's own incident.
#
# The instances of one account are those with the same job and the same
# wastability_account. Where other labels tell accounts apart, such as a
# namespace, add them to each "by".
#
# A test writes this file: go test ./... -run Rules -update, in examples/metrics.
`

type rules struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name  string `yaml:"name"`
	Rules []rule `yaml:"rules"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// whose names the account, where there is one.
const whose = "{{ with $labels.wastability_account }}{{ . }}: {{ end }}"

// written are the rules as the file holds them.
func written(t *testing.T) []byte {
	t.Helper()
	g := ruleGroup{Name: "wastability"}
	for _, a := range alerts {
		do, text := a.do, a.runbook
		if a.incident != "" {
			do, text = a.incident.Runbook()
		}
		r := rule{
			Alert: a.name, Expr: a.expr, Labels: map[string]string{"severity": a.severity},
			Annotations: map[string]string{"summary": whose + a.is, "description": do, "runbook": strings.TrimSpace(text)},
		}
		if a.wait > 0 {
			r.For = strings.TrimSuffix(a.wait.String(), "0s")
		}
		g.Rules = append(g.Rules, r)
	}
	var b bytes.Buffer
	b.WriteString(rulesHead)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	require.NoError(t, enc.Encode(rules{[]ruleGroup{g}}))
	return b.Bytes()
}

func same(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, want, 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "%s: write it anew with -update", file)
}

func TestRulesSayWhatTheIncidentsSay(t *testing.T) {
	same(t, rulesFile, written(t))
	for _, a := range alerts {
		require.NotEmpty(t, a.is+a.do, a.name)
		require.NotEqual(t, a.incident == "", a.do == "", "%s: the incident's text, or its own", a.name)
	}
	for _, kind := range guard.Types() {
		require.True(t, slices.ContainsFunc(alerts, func(a alert) bool {
			return a.incident == kind || strings.Contains(a.expr, string(kind)) || a.name == "WastabilityDown" && kind == guard.TypeDisconnectStuck
		}), "no alert tells of %s", kind)
	}
}

var metricName = regexp.MustCompile(`\bwastability_[a-z_]+\b`)

// exported are the names and labels of all metrics, made from the documented
// table as the exporter makes them.
func exported(t *testing.T) (names map[string]bool, labels map[string]bool) {
	t.Helper()
	names, labels = map[string]bool{}, map[string]bool{}
	doc, err := os.ReadFile("../../stability/metrics/doc.go")
	require.NoError(t, err)
	for _, row := range regexp.MustCompile(`(?m)^//\t(wastability\.\S+)\s+(sum|counter|largest|least)\s+(\S+)(.*)$`).FindAllStringSubmatch(string(doc), -1) {
		name := strings.ReplaceAll(row[1], ".", "_")
		if row[3] == "s" {
			name += "_seconds"
		}
		if row[2] == "counter" {
			name += "_total"
		}
		names[name] = true
		for _, l := range strings.Fields(row[4]) {
			labels["wastability_"+l] = true
		}
	}
	labels["wastability_account"] = true
	return names, labels
}

// known requires that an expression uses nothing that the exporter does not
// show.
func known(t *testing.T, expr string) {
	t.Helper()
	names, labels := exported(t)
	for _, word := range metricName.FindAllString(expr, -1) {
		require.True(t, names[word] || labels[word], "%s: no such metric and no such label", word)
	}
}

func TestRulesUseNamesThatTheExporterShows(t *testing.T) {
	for _, a := range alerts {
		known(t, a.expr)
	}
	// The names that were made from the table are those of the exporter.
	names, _ := exported(t)
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		a := w.process("a").ready()
		shown := map[string]bool{"wastability_store_unavailable_age_seconds": true} // in trouble only
		for series := range a.gathered() {
			if name, _, _ := strings.Cut(series, "{"); name != "target_info" {
				shown[name] = true
			}
		}
		require.Equal(t, names, shown)
		a.stop()
		w.close()
	})
}

// tool finds a program of Debian's package prometheus.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("WASTABILITY_NEED_PROMETHEUS") != "" {
			require.NoError(t, err, "install Debian's package prometheus")
		}
		t.Skip("not found: " + name + "; install Debian's package prometheus")
	}
	return path
}

func TestRulesAreWhatPromtoolAccepts(t *testing.T) {
	out, err := exec.Command(tool(t, "promtool"), "check", "rules", "--lint-fatal", rulesFile).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), fmt.Sprintf("%d rules found", len(alerts)))
}
