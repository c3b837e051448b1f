package adminhttp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The names are a contract: dashboards are built on them.
func TestStatusNowHasEveryFieldAndNullWhereThereIsNoValue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		standby := p.answer(p.get("/api/longrun/status-now"), 200)
		p.run().pair()
		connected := p.answer(p.get("/api/longrun/status-now"), 200)
		for _, doc := range []map[string]any{standby, connected} {
			require.ElementsMatch(t, []string{"success", "timestamp", "summary", "wa", "state", "config", "heartbeats", "probes"}, keys(doc))
			require.Subset(t, keys(doc["wa"]), []string{
				"waMode", "waStatus", "connectedAt", "lastDisconnectAt", "lastDisconnectReason", "retryCount", "nextRetryAt",
				"authStore", "authStateExists", "authKeyCount", "lastAuthWriteAt", "lockHolder", "lockLeaseUntil", "leaseEpoch",
				"lastEventAt", "lastMessageAt", "timeSinceLastEventMs", "isStale", "compat",
			})
			require.Nil(t, doc["wa"].(map[string]any)["compat"], "all is well")
		}
		for _, part := range []string{"wa", "config", "heartbeats", "probes"} {
			require.ElementsMatch(t, keys(standby[part]), keys(connected[part]), "the same fields in every state")
		}
		wa := standby["wa"].(map[string]any)
		require.Equal(t, "passive_lock_not_acquired", wa["waMode"])
		for _, name := range []string{"retryCount", "nextRetryAt", "authStateExists", "authKeyCount", "lastAuthWriteAt", "connectedAt", "leaseEpoch", "lockLeaseUntil", "lastEventAt", "timeSinceLastEventMs", "isStale"} {
			require.Nil(t, wa[name], name)
		}
		require.Nil(t, standby["state"])
		wa = connected["wa"].(map[string]any)
		require.Equal(t, "active", wa["waMode"])
		require.Equal(t, "CONNECTED", wa["waStatus"])
		require.Equal(t, "memory", wa["authStore"])
		require.Equal(t, true, wa["authStateExists"])
		require.Equal(t, false, wa["isStale"])
		require.Equal(t, "wa-1", wa["lockHolder"])
		require.EqualValues(t, 1, wa["leaseEpoch"])
		require.EqualValues(t, 0, wa["retryCount"])
		st := p.m.Status()
		require.EqualValues(t, st.LockLeaseUntil.UnixMilli(), wa["lockLeaseUntil"])
		require.Greater(t, wa["authKeyCount"], 0.0)
		require.Equal(t, st.ConnectedAt.UTC().Format("2006-01-02T15:04:05.000Z"), wa["connectedAt"])
		require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`, connected["timestamp"])
		require.EqualValues(t, 90_000, connected["config"].(map[string]any)["leaseMs"])
		require.NotNil(t, connected["heartbeats"].(map[string]any)["lastRenewalAt"])
	})
}

func TestCompatNamesWhatIsMissing(t *testing.T) {
	since := time.Date(2026, 8, 21, 12, 0, 0, 0, time.UTC)
	got, err := json.Marshal(adminhttp.Compatibility(&stability.Compat{
		Whatsmeow: "v1", Library: "v2", Missing: []stability.Gap{{Part: "tap", Effect: "blind", Since: since}},
	}))
	require.NoError(t, err)
	require.JSONEq(t, `{"whatsmeow":"v1","library":"v2","missing":[{"part":"tap","effect":"blind","since":"2026-08-21T12:00:00.000Z"}]}`, string(got))
}

func keys(v any) (out []string) {
	for k := range v.(map[string]any) {
		out = append(out, k)
	}
	return out
}

func TestPhoneNumbersAreMaskedUnlessAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		body := p.get("/api/longrun/status-now").Body.String()
		require.NotContains(t, body, "491520000001")
		require.Contains(t, body, `"account":"**********01`)
		h, err := adminhttp.New(p.m, adminhttp.WithToken(token), adminhttp.WithPhoneNumbers())
		require.NoError(t, err)
		p.h = h
		require.Contains(t, p.get("/api/longrun/status-now").Body.String(), `"account":"491520000001`)
	})
}

func TestHealthIsTheProcessAndReadyIsTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		open := func(path string) *httptest.ResponseRecorder { return p.get(path, adminhttp.TokenHeader, "") }
		p.answer(open("/health"), 200)
		p.answer(open("/ready"), 503)
		p.answer(open("/ready?standby=ok"), 200)
		p.answer(open("/ready?standby=yes"), 503)
		p.run()
		first := <-p.codes
		p.answer(open("/health"), 200)
		require.Contains(t, p.answer(open("/ready?standby=ok"), 503)["message"], "No phone has been linked yet")
		p.codes <- first
		p.pair()
		p.answer(open("/ready"), 200)
		p.sim.Fault(wasim.Failure(503)).OnNextLogin()
		p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonServiceUnavailable })
		not := p.answer(open("/ready"), 503)
		require.Equal(t, "service_unavailable", not["reason"])
		require.Contains(t, not["message"], "The next attempt is made at")
		p.answer(open("/health"), 200)
		p.stop()
		p.answer(open("/health"), 503)
		p.answer(open("/ready?standby=ok"), 503)
		p.answer(p.get("/api/longrun/status-now"), 200)
	})
}

func TestTheQRCodeIsJSONOrAnImageAndItsAbsenceIsExplained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		require.Contains(t, p.answer(p.get("/api/whatsapp/qr"), 404)["message"], "stands by")
		p.run()
		q := <-p.codes
		doc := p.answer(p.get("/api/whatsapp/qr"), 200)
		require.Equal(t, q.Code, doc["code"])
		require.Equal(t, q.ExpiresAt.UTC().Format("2006-01-02T15:04:05.000Z"), doc["expiresAt"])
		require.EqualValues(t, time.Until(q.ExpiresAt).Milliseconds(), doc["expiresInMs"])
		p.answer(p.get("/api/whatsapp/qr", "Accept", "application/json, image/png;q=0.1"), 200)
		w := p.get("/api/whatsapp/qr", "Accept", "image/avif,image/png")
		require.Equal(t, "image/png", w.Header().Get("Content-Type"))
		require.Equal(t, doc["expiresAt"], w.Header().Get("X-Expires-At"))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		img, err := png.Decode(bytes.NewReader(w.Body.Bytes()))
		require.NoError(t, err)
		require.Greater(t, img.Bounds().Dx(), 200)
		require.NoError(t, p.account.Phone().Scan(q.Code))
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		require.Contains(t, p.answer(p.get("/api/whatsapp/qr"), 404)["message"], "paired and connected")
	})
}

func TestWhenNobodyScansTheAnswerSaysHowToGetANewCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t, stability.WithPairingRounds(1)).run()
		p.await(func(st stability.Status) bool { return st.Parked })
		require.Contains(t, p.answer(p.get("/api/whatsapp/qr"), 404)["message"], "Ask for one (Show a code)")
		for len(p.codes) > 0 {
			<-p.codes
		}
		p.answer(p.req("POST", "/api/whatsapp/reconnect", ""), 202)
		<-p.codes
		p.answer(p.get("/api/whatsapp/qr"), 200)
	})
}

func TestPairingByPhoneOverHTTP(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		require.Equal(t, "not_active", p.answer(p.pairPhone(`{"phone":"+49 152 0000001"}`), 409)["error"])
		p.run()
		<-p.codes
		doc := p.answer(p.pairPhone(`{"phone":"+49 152 0000001"}`), 200)
		require.GreaterOrEqual(t, doc["expiresInMs"], float64(2*time.Minute/time.Millisecond))
		require.NotNil(t, doc["expiresAt"])
		require.NoError(t, p.account.Phone().EnterCode(doc["code"].(string)))
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		require.Equal(t, "already_paired", p.answer(p.pairPhone(`{"phone":"+49 152 0000001"}`), 409)["error"])
		p.answer(p.req("POST", "/api/whatsapp/logout", ""), 200)
		require.Empty(t, p.account.Devices())
		require.Equal(t, "not_paired", p.answer(p.req("POST", "/api/whatsapp/logout", ""), 409)["error"])
	})
}

func TestPairingThatCannotSucceedEndsInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		p.sim.Fault(wasim.Refused()).Always().Now()
		p.run()
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason != "" })
		start := time.Now()
		w := p.pairPhone(`{"phone":"+49 152 0000001"}`)
		require.Equal(t, "not_in_time", p.answer(w, 503)["error"])
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Equal(t, 30*time.Second, time.Since(start))
	})
}

func TestReconnectRespectsABan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.sim.Fault(wasim.TemporaryBan(101, time.Hour)).OnNextLogin()
		p.answer(p.req("POST", "/api/whatsapp/reconnect", ""), 202)
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonTemporaryBan })
		logins := p.account.Devices()[0].Stats().Logins
		require.Equal(t, "banned_for_now", p.answer(p.req("POST", "/api/whatsapp/reconnect", ""), 409)["error"])
		time.Sleep(30 * time.Minute)
		require.Equal(t, logins, p.account.Devices()[0].Stats().Logins)
		doc := p.answer(p.get("/api/longrun/incidents"), 200)
		require.EqualValues(t, 1, doc["active"])
		inc := doc["incidents"].([]any)[0].(map[string]any)
		require.Equal(t, "wa_temporary_ban", inc["type"])
		require.NotEmpty(t, inc["runbook"])
		require.Nil(t, inc["resolvedAt"])
		require.NotNil(t, inc["lastCheckedAt"])
	})
}

// TestGetDoesNoIO reads everything while every call of the backend, and every
// moment that passes, would be an error.
func TestGetDoesNoIO(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		look := func() {
			t.Helper()
			synctest.Wait() // what runs in the background has done its part
			p.calm.Store(true)
			dials, start := p.sim.Dials(), time.Now()
			for _, path := range []string{"/", "/health", "/ready", "/api/longrun/status-now", "/api/longrun/incidents", "/api/whatsapp/qr"} {
				p.get(path)
				p.req(http.MethodHead, path, "")
				p.get(path, "Accept", "image/png")
			}
			require.Zero(t, time.Since(start))
			require.Equal(t, dials, p.sim.Dials())
			p.calm.Store(false)
		}
		look()
		ok, err := p.m.TryActivate(t.Context()) // the lock, and no device yet
		require.NoError(t, err)
		require.True(t, ok)
		look()
		p.run()
		first := <-p.codes
		look()
		p.codes <- first
		p.pair()
		look()
		p.account.Phone().RemoveDevice(p.account.Devices()[0])
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusNeedsPairing })
		look()
		p.stop()
		look()
	})
}

func TestThePageLoadsNothingFromElsewhereAndWorksUnderAPrefix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		w := p.get("/", adminhttp.TokenHeader, "")
		body := w.Body.String()
		require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
		for _, bad := range []string{"http://", "https://", "src=\"", "innerHTML", "eval(", "style=\"", "onclick=\""} {
			require.NotContains(t, body, bad)
		}
		require.Equal(t, 1, strings.Count(body, "<script>"))
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
		policy := w.Header().Get("Content-Security-Policy")
		for tag, of := range map[string]string{"script": "script-src", "style": "style-src"} {
			_, rest, _ := strings.Cut(body, "<"+tag+">")
			text, _, ok := strings.Cut(rest, "</"+tag+">")
			require.True(t, ok)
			sum := sha256.Sum256([]byte(text))
			require.Contains(t, policy, of+" 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
		}

		mux := http.NewServeMux()
		mux.Handle("/admin/", http.StripPrefix("/admin", p.h))
		mux.Handle("/bare", http.StripPrefix("/bare", p.h))
		for path, code := range map[string]int{"/admin/": 200, "/admin/health": 200, "/bare": 307, "/bare?incident=x": 307} {
			rec := httptest.NewRecorder()
			mux.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			require.Equal(t, code, rec.Code, path)
			if code == 307 {
				require.Equal(t, strings.Replace(path, "/bare", "./bare/", 1), rec.Header().Get("Location"), "relative links need the slash")
			}
		}
	})
}

func BenchmarkStatusNow(b *testing.B) {
	m, err := stability.New(stability.WithBackend(quietBackend()), stability.WithLogger(silent()))
	require.NoError(b, err)
	defer m.Close(context.Background())
	if ok, err := m.TryActivate(context.Background()); !ok || err != nil {
		b.Fatal(err)
	}
	_, err = m.AuthState(context.Background())
	require.NoError(b, err)
	h, err := adminhttp.New(m, adminhttp.WithToken(token))
	require.NoError(b, err)
	r := httptest.NewRequest("GET", "/api/longrun/status-now", nil)
	r.Header.Set(adminhttp.TokenHeader, token)
	b.Run("Status", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Status()
		}
	})
	b.Run("HTTP", func(b *testing.B) {
		b.ReportAllocs()
		w := &discard{header: http.Header{}}
		for b.Loop() {
			h.ServeHTTP(w, r)
		}
		b.ReportMetric(float64(w.n)/float64(b.N), "bytes")
	})
}

type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }

func TestBehindARunThatFailedNothingIsReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		p.answer(p.get("/ready?standby=ok"), 200)
		broken := errors.New("no plugins found")
		require.ErrorIs(t, p.m.Run(t.Context(), func(context.Context, *whatsmeow.Client) error { return broken }), broken)
		doc := p.answer(p.get("/ready?standby=ok"), 503)
		require.Contains(t, doc["message"], "Run has ended")
		require.NotContains(t, fmt.Sprint(doc), "plugins", "it is open to everybody")
		wa := p.answer(p.get("/api/longrun/status-now"), 200)["wa"].(map[string]any)
		require.Contains(t, wa["runError"], "no plugins found")
		require.Contains(t, wa["reasonText"], "no plugins found")
		require.Contains(t, wa["whatToDo"], "start the program again")
	})
}
