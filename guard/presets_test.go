package guard_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/stabilitytest"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

const (
	presetSecret = "s3cr3t"
	telegramKey  = "12345:s3cr3t-token"
)

// presets are the services, by name: how a Webhook for one is made, whose
// address is base, and what the service accepts.
var presets = map[string]struct {
	open   func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error)
	path   string
	accept func(body []byte) error
	code   int
}{
	"slack": {func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error) {
		return guard.NewSlack(base+"/services/T0/B0/"+presetSecret, opts...)
	}, "/services/T0/B0/" + presetSecret, acceptSlack, 200},
	"discord": {func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error) {
		return guard.NewDiscord(base+"/api/webhooks/1/"+presetSecret, opts...)
	}, "/api/webhooks/1/" + presetSecret, acceptDiscord, 204},
	"telegram": {func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error) {
		return guard.NewTelegram(telegramKey, "-100200300", append(opts, guard.WithWebhookServer(base+"/"))...)
	}, "/bot" + telegramKey + "/sendMessage", acceptTelegram, 200},
	"pagerduty": {func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error) {
		return guard.NewPagerDuty(presetSecret+"routingkey", append(opts, guard.WithWebhookServer(base))...)
	}, "/v2/enqueue", acceptPagerDuty, 202},
	"alertmanager": {func(base string, opts ...guard.WebhookOption) (*guard.Webhook, error) {
		return guard.NewAlertmanager(base, opts...)
	}, "/api/v2/alerts", acceptAlertmanager, 200},
}

// service is one of them, on a real socket. refuse are its first answers.
type service struct {
	mu     sync.Mutex
	refuse []func(http.ResponseWriter)
	at     []time.Time
	bodies [][]byte
	bad    []string
}

func (s *service) serve(t *testing.T, name string) string {
	preset := presets[name]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.at = append(s.at, time.Now())
		if len(s.refuse) > 0 {
			s.refuse[0](w)
			s.refuse = s.refuse[1:]
			return
		}
		if err == nil && (r.Method != http.MethodPost || r.URL.Path != preset.path || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json")) {
			err = fmt.Errorf("%s %s with %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
		}
		if err == nil {
			err = preset.accept(body)
		}
		if err != nil {
			s.bad = append(s.bad, err.Error())
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.bodies = append(s.bodies, body)
		w.WriteHeader(preset.code)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// incident is a trouble with everything in it.
func incident() guard.Incident {
	began := time.Date(2026, 8, 21, 22, 15, 0, 0, time.UTC)
	return guard.Incident{
		ID: guard.TypeDisconnectStuck.ActiveID(), Type: guard.TypeDisconnectStuck, Active: true, InstanceID: "wa-7f3a",
		DetectedAt: began, FirstDetectedAt: began.Add(-24 * time.Hour), LastCheckedAt: began,
		Evidence:     map[string]string{"reason": "network_unreachable", "retryCount": "12", "nextRetryAt": "2026-08-21T22:16:00Z"},
		Instructions: "Check the network between this host and WhatsApp.",
		Runbook:      "- The library keeps trying.\n- Check network, DNS, proxy and firewall of this host.",
	}
}

func told(inc guard.Incident) (open, over guard.Notification) {
	open = guard.Notification{Change: guard.ChangeOpened, Incident: inc, At: inc.DetectedAt}
	over = open
	over.Change, over.At = guard.ChangeResolved, inc.DetectedAt.Add(25*time.Minute)
	over.Incident.Active, over.Incident.ResolvedAt = false, over.At
	return open, over
}

// play tells a service of the changes, one after the other.
func play(t *testing.T, name string, s *service, opts []guard.WebhookOption, changes ...guard.Notification) {
	t.Helper()
	var log bytes.Buffer
	w, err := presets[name].open(s.serve(t, name), append([]guard.WebhookOption{
		guard.WithWebhookLogger(slog.New(slog.NewTextHandler(&log, nil))), guard.WithWebhookBackoff(time.Millisecond, 5*time.Second),
	}, opts...)...)
	require.NoError(t, err)
	for _, n := range changes {
		w.Notify(n)
		require.NoError(t, w.Flush(t.Context()))
	}
	require.NoError(t, w.Close())
	require.NotContains(t, log.String(), presetSecret, "no credential is logged")
	require.Empty(t, s.bad, "what the service refuses")
}

func TestPresetsSendTheDocumentedShapes(t *testing.T) {
	for name := range presets {
		t.Run(name, func(t *testing.T) {
			var s service
			open, over := told(incident())
			play(t, name, &s, []guard.WebhookOption{
				guard.WithWebhookAccount("support"),
				guard.WithWebhookLink(func(inc guard.Incident) string { return "https://admin.example.com/wa/?a=1&incident=" + inc.ID }),
			}, open, over)
			require.Len(t, s.bodies, 2)
			for i, change := range []string{"opened", "resolved"} {
				file := filepath.Join("testdata", name+"_"+change+".json")
				var got bytes.Buffer
				require.NoError(t, json.Indent(&got, s.bodies[i], "", "  "))
				got.WriteByte('\n')
				if *update {
					require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
				}
				want, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Equal(t, string(want), got.String(), "run go test -update if this is meant to be so")
			}
		})
	}
}

func TestPresetsEscapeAndCutHostileText(t *testing.T) {
	attack := "@everyone <!channel> <@U123> @admin /stop **b** _i_ ~s~ `c` ```\n# h [x](http://evil.example) <http://evil.example|ok> \u202egnp \x00\x1b[31m\xff "
	for name := range presets {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 20, 4000} {
				var s service
				inc := incident()
				text := strings.Repeat(attack, size)
				inc.ID, inc.Type = text, guard.Type(text)
				inc.InstanceID, inc.Instructions, inc.Runbook = text, text, text
				inc.Evidence = map[string]string{"detail": text, text: text}
				open, over := told(inc)
				play(t, name, &s, []guard.WebhookOption{
					guard.WithWebhookAccount(text),
					guard.WithWebhookLink(func(guard.Incident) string { return "https://e.example/<!channel>|`@everyone`" }),
				}, open, over)
				require.Len(t, s.bodies, 2)
				for _, body := range s.bodies {
					var v any
					require.NoError(t, json.Unmarshal(body, &v))
					each(v, func(text string) {
						require.NotContains(t, text, "\u202e", "nothing turns the direction of writing")
						require.NotContains(t, text, "\x1b")
						if strings.Contains(text, "(!channel)") {
							return // Slack's header, which is plain text
						}
						switch name {
						case "slack":
							require.NotContains(t, text, "<!channel")
							require.NotContains(t, text, "<@U123")
							require.NotContains(t, text, "<http://evil")
							require.NotContains(t, text, "*b*")
							require.Contains(t, []int{0, 2}, strings.Count(text, "```"), "code ends where it should")
						case "discord":
							require.NotContains(t, text, "@everyone")
							require.Contains(t, []int{0, 2}, strings.Count(text, "```"), "code ends where it should")
							if parts := strings.Split(text, "```"); len(parts) == 3 {
								text = parts[0] + parts[2]
							}
							require.NotContains(t, text, "[x](")
						case "telegram":
							require.NotContains(t, text, "@everyone")
							require.NotContains(t, text, " /stop")
						}
					})
				}
			}
		})
	}
}

func TestPresetsWaitAsLongAsTheServiceAsks(t *testing.T) {
	header := func(value string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}
	body := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, text)
		}
	}
	for name, c := range map[string]struct {
		refuse func(http.ResponseWriter)
		least  time.Duration
	}{
		"slack":        {header("1"), time.Second},
		"discord":      {body(`{"message": "You are being rate limited.", "retry_after": 0.35, "global": false}`), 350 * time.Millisecond},
		"telegram":     {body(`{"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 1", "parameters": {"retry_after": 1}}`), time.Second},
		"pagerduty":    {header("0.2"), 200 * time.Millisecond},
		"alertmanager": {header("NaN"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := service{refuse: []func(http.ResponseWriter){c.refuse, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }}}
			open, over := told(incident())
			play(t, name, &s, nil, open, over)
			require.Len(t, s.bodies, 2, "told twice: the opening and the end")
			require.Len(t, s.at, 4, "two of four attempts were refused")
			require.GreaterOrEqual(t, s.at[1].Sub(s.at[0]), c.least)
		})
	}
}

func TestPagerDutyResolvesTheKeyItTriggered(t *testing.T) {
	type event struct {
		Action string `json:"event_action"`
		Key    string `json:"dedup_key"`
	}
	seen := map[string]bool{}
	for _, account := range []string{"", "support", "sales", strings.Repeat("x", 400) + "1", strings.Repeat("x", 400) + "2"} {
		var s service
		open, over := told(incident())
		over.Incident.InstanceID = "wa-other" // another instance may see the end
		play(t, "pagerduty", &s, []guard.WebhookOption{guard.WithWebhookAccount(account)}, open, open, over)
		var events []event
		for _, b := range s.bodies {
			var e event
			require.NoError(t, json.Unmarshal(b, &e))
			events = append(events, e)
		}
		key := events[0].Key
		require.Equal(t, []event{{"trigger", key}, {"trigger", key}, {"resolve", key}}, events)
		require.False(t, seen[key], "each account has keys of its own")
		seen[key] = true
	}
}

func TestAlertmanagerResolvesTheAlertItOpened(t *testing.T) {
	type alert struct {
		Labels           map[string]string
		StartsAt, EndsAt time.Time
	}
	var s service
	open, over := told(incident())
	over.Incident.InstanceID = "wa-other"
	brief := over
	brief.At = open.At.Add(time.Second)
	play(t, "alertmanager", &s, []guard.WebhookOption{guard.WithWebhookAccount("support")}, open, over, open, brief)
	var got []alert
	for _, b := range s.bodies {
		var list []alert
		require.NoError(t, json.Unmarshal(b, &list))
		got = append(got, list...)
	}
	require.Len(t, got, 4)
	for _, a := range got {
		require.Equal(t, got[0].Labels, a.Labels, "an alert is known by its labels")
		require.False(t, a.EndsAt.Before(a.StartsAt))
	}
	require.Greater(t, got[0].EndsAt.Sub(open.At), 300*24*time.Hour, "it does not end by itself")
	require.True(t, got[1].EndsAt.Before(over.At), "a clock that is a little ahead does not keep it open")
	require.True(t, got[3].EndsAt.Equal(got[3].StartsAt))
}

// One of Debian's, as operators run it.
func TestRealAlertmanagerOpensAndResolves(t *testing.T) {
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil && os.Getenv("WASTABILITY_NEED_ALERTMANAGER") == "" {
		t.Skip("needs prometheus-alertmanager")
	}
	require.NoError(t, err)
	port, err := stabilitytest.FreePort()
	require.NoError(t, err)
	address := "127.0.0.1:" + port
	config := filepath.Join(t.TempDir(), "alertmanager.yml")
	require.NoError(t, os.WriteFile(config, []byte("route: {receiver: none}\nreceivers: [{name: none}]\n"), 0o600))
	cmd := exec.Command(program, "--config.file="+config, "--storage.path="+t.TempDir(), "--web.listen-address="+address, "--cluster.listen-address=")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	active := func() int {
		resp, err := http.Get("http://" + address + "/api/v2/alerts")
		if err != nil {
			return -1
		}
		defer resp.Body.Close()
		var list []struct{ Labels map[string]string }
		if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&list) != nil {
			return -1
		}
		for _, a := range list {
			require.Equal(t, map[string]string{"alertname": "wa_disconnect_stuck", "severity": "critical", "service": "wastability", "account": "support"}, a.Labels)
		}
		return len(list)
	}
	require.Eventually(t, func() bool { return active() == 0 }, 30*time.Second, 20*time.Millisecond, "it starts")
	w, err := guard.NewAlertmanager("http://"+address, guard.WithWebhookAccount("support"))
	require.NoError(t, err)
	defer w.Close()
	inc := incident()
	inc.DetectedAt = time.Now()
	open, over := told(inc)
	over.At = open.At.Add(time.Second)
	for range 2 {
		w.Notify(open)
		require.NoError(t, w.Flush(t.Context()))
		require.Eventually(t, func() bool { return active() == 1 }, 10*time.Second, 10*time.Millisecond)
		w.Notify(over)
		require.NoError(t, w.Flush(t.Context()))
		require.Eventually(t, func() bool { return active() == 0 }, 10*time.Second, 10*time.Millisecond)
	}
}

func TestPresetsRefuseWhatCannotWork(t *testing.T) {
	for want, open := range map[string]func() (*guard.Webhook, error){
		"@BotFather":    func() (*guard.Webhook, error) { return guard.NewTelegram(presetSecret, "1") },
		"no chat":       func() (*guard.Webhook, error) { return guard.NewTelegram(telegramKey, "") },
		"routing key":   func() (*guard.Webhook, error) { return guard.NewPagerDuty("") },
		"absolute http": func() (*guard.Webhook, error) { return guard.NewAlertmanager("alertmanager:9093") },
		"whole URL": func() (*guard.Webhook, error) {
			return guard.NewSlack("https://a.example", guard.WithWebhookServer("https://b.example"))
		},
		"WithWebhookLink": func() (*guard.Webhook, error) {
			return guard.NewDiscord("https://a.example", guard.WithWebhookLink(nil))
		},
	} {
		_, err := open()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), presetSecret)
	}
}

// each calls f for every string in v, keys included.
func each(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, e := range v {
			each(e, f)
		}
	case map[string]any:
		for k, e := range v {
			f(k)
			each(e, f)
		}
	}
}

// length is a text's in UTF-16 units.
func length(s string) int { return len(utf16.Encode([]rune(s))) }
