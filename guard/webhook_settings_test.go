package guard_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

func TestWebhookOverARealServer(t *testing.T) {
	bodies := make(chan []byte, 1)
	elsewhere := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := guard.VerifyWebhook(hookSecret, r.Header, body, time.Minute); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		user, password, _ := r.BasicAuth()
		if user != "u" || password != "p" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		bodies <- body
	})
	mux.Handle("/moved", http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect))
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere <- struct{}{} })
	server := httptest.NewServer(mux)
	defer server.Close()
	base := strings.Replace(server.URL, "http://", "http://u:p@", 1)

	w, err := guard.NewWebhook(base+"/hook", guard.WithWebhookSecret(hookSecret))
	require.NoError(t, err)
	w.Notify(opened(guard.TypeLoggedOut))
	require.NoError(t, w.Close())
	require.Contains(t, string(<-bodies), `"wa_logged_out_requires_pairing_active"`)

	log := &safeBuffer{}
	w, err = guard.NewWebhook(base+"/moved", guard.WithWebhookSecret(hookSecret), guard.WithWebhookLogger(slog.New(slog.NewTextHandler(log, nil))))
	require.NoError(t, err)
	w.Notify(opened(guard.TypeLoggedOut))
	require.NoError(t, w.Close())
	require.Empty(t, elsewhere, "a redirect is not followed")
	require.Contains(t, log.String(), "307")
}

func TestVerifyWebhookTrustsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var header http.Header
		var body []byte
		w, err := guard.NewWebhook("https://example.com", guard.WithWebhookSecret(hookSecret), guard.WithWebhookTransport(roundTrip(func(r *http.Request) (*http.Response, error) {
			header = r.Header.Clone()
			body, _ = io.ReadAll(r.Body)
			return httptest.NewRecorder().Result(), nil
		})))
		require.NoError(t, err)
		w.Notify(opened(guard.TypeDegraded))
		require.NoError(t, w.Close())
		require.NoError(t, guard.VerifyWebhook(hookSecret, header, body, 0))

		bad := func(secret string, header http.Header, body []byte, maxAge time.Duration) {
			t.Helper()
			require.ErrorIs(t, guard.VerifyWebhook(secret, header, body, maxAge), guard.ErrWebhookSignature)
		}
		bad("another secret, long enough", header, body, 0)
		bad("", header, body, 0)
		bad(hookSecret, header, append([]byte(" "), body...), 0)
		bad(hookSecret, http.Header{}, body, 0)
		for _, stamp := range []string{"", "x", "-1", "99999999999999999999", "9223372036854775807"} {
			h := header.Clone()
			h.Set(guard.HeaderTimestamp, stamp)
			bad(hookSecret, h, body, 0)
		}
		time.Sleep(time.Minute)
		bad(hookSecret, header, body, 30*time.Second)
		require.NoError(t, guard.VerifyWebhook(hookSecret, header, body, 0))
		time.Sleep(time.Hour)
		bad(hookSecret, header, body, 0)
	})
}

func TestAWrongWebhookSettingIsAnErrorThatSaysWhatToDoAndNoSecret(t *testing.T) {
	for name, c := range map[string]struct {
		url  string
		opts []guard.WebhookOption
		want string
	}{
		"no URL":        {url: "", want: "absolute http or https"},
		"relative":      {url: "/hook", want: "absolute http or https"},
		"scheme":        {url: "ftp://example.com/s3cr3t", want: "absolute http or https"},
		"file":          {url: "file:///etc/s3cr3t", want: "absolute http or https"},
		"no host":       {url: "https:///s3cr3t", want: "absolute http or https"},
		"not a URL":     {url: "https://u:s3cr3t@exa mple.com", want: "does not parse"},
		"short secret":  {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookSecret("s3cr3t")}, want: "16 bytes"},
		"negative":      {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookTimeout(-1)}, want: "WithWebhookTimeout"},
		"backoff":       {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookBackoff(time.Hour, time.Second)}, want: "WithWebhookBackoff"},
		"nil logger":    {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookLogger(nil)}, want: "slog.Default()"},
		"nil transport": {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookTransport(nil)}, want: "WithWebhookTransport(nil)"},
		"nil option":    {url: "https://example.com", opts: []guard.WebhookOption{nil}, want: "nil WebhookOption"},
	} {
		_, err := guard.NewWebhook(c.url, c.opts...)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "s3cr3t", name)
	}
}

func TestSlogSinkWritesOneLinePerChangeWithoutFreeText(t *testing.T) {
	var buf bytes.Buffer
	s := guard.NewSlogSink(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := guard.Notification{Change: guard.ChangeOpened, At: at, Incident: guard.Incident{
		ID: "wa_temporary_ban_active", Type: guard.TypeTemporaryBan, Active: true, InstanceID: "wa-1", DetectedAt: at,
		Evidence: map[string]string{"reason": "temporary_ban", "code": "101", "detail": "about 491520000001"}, Instructions: "Wait.",
	}}
	s.Notify(n)
	n.Change, n.At = guard.ChangeResolved, at.Add(time.Hour)
	s.Notify(n)
	require.Equal(t, "level=WARN msg=\"incident opened\" incident=wa_temporary_ban_active type=wa_temporary_ban instance=wa-1 detectedAt=2026-01-02T03:04:05.000Z reason=temporary_ban code=101 instructions=Wait.\n"+
		"level=INFO msg=\"incident resolved\" incident=wa_temporary_ban_active type=wa_temporary_ban instance=wa-1 detectedAt=2026-01-02T03:04:05.000Z lasted=1h0m0s reason=temporary_ban code=101\n", buf.String())
	guard.NewSlogSink(nil).Notify(guard.Notification{})
}

func TestWebhookUsesAWrappedDefaultTransport(t *testing.T) {
	heard := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard <- r }))
	defer srv.Close()
	def := http.DefaultTransport
	defer func() { http.DefaultTransport = def }()
	own := &http.Transport{DisableKeepAlives: true}
	http.DefaultTransport = traced{own}

	w, err := guard.NewWebhook(srv.URL)
	require.NoError(t, err)
	w.Notify(guard.Notification{Change: guard.ChangeOpened, Incident: guard.Incident{ID: "x"}})
	require.Equal(t, "POST", (<-heard).Method)
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.Close())
}
