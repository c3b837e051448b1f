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

func TestNewWithoutATokenIsAnErrorThatSaysWhatToDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newPlace(t).m
		for want, opts := range map[string][]adminhttp.Option{
			"no token: pass WithToken":   nil,
			"WithToken: the token has 0": {adminhttp.WithToken("")},
			"fewer than 16":              {adminhttp.WithToken("123456789012345")},
			"control characters":         {adminhttp.WithToken("0123456789abcdef\n")},
			"a nil Option":               {nil},
			"WithPairTimeout(-1ns)":      {adminhttp.WithToken(token), adminhttp.WithPairTimeout(-1)},
		} {
			h, err := adminhttp.New(m, opts...)
			require.ErrorContains(t, err, want)
			require.Nil(t, h)
			require.NotContains(t, err.Error(), "123456789")
		}
		_, err := adminhttp.New(nil, adminhttp.WithToken(token))
		require.ErrorContains(t, err, "the Manager is nil")
	})
}

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

func TestNothingButThePageHealthAndReadyIsServedWithoutTheToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		for _, path := range []string{"/api/longrun/status-now", "/api/longrun/incidents", "/api/whatsapp/qr", "/api/whatsapp/pair", "/api/whatsapp/logout", "/api/whatsapp/reconnect",
			"/api/whatsapp/quarantine", "/api/whatsapp/quarantine/restore-device", "/api/whatsapp/quarantine/purge-device", "/api/whatsapp/quarantine/purge-rows",
			"/api/whatsapp/messages", "/api/whatsapp/messages/redeliver", "/api/whatsapp/messages/purge",
			"/set-aside", "/do", "/events", "/sign-out", "/~x/",
			"/api", "/health/", "/ready/x", "//health", "/../health", "/index.html"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "X"} {
				for _, header := range []string{"", "wrong", token + "x", token[1:]} {
					w := p.req(method, path, "{}", adminhttp.TokenHeader, header)
					require.Contains(t, []int{401, 429}, w.Code, "%s %s", method, path)
				}
			}
		}
		require.Equal(t, reconnect.StatusConnected, p.m.Status().WA)
		for _, path := range []string{"/", "/health", "/ready"} {
			body := p.get(path, adminhttp.TokenHeader, "").Body.String()
			for _, secret := range []string{"wa-1", "4915", "memory"} {
				require.NotContains(t, body, secret, path)
			}
		}
	})
}

func TestWrongTokensAreSlowedDownAndTheRightOneIsNeverLockedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		try := func(remote, tok string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/api/longrun/status-now", nil)
			r.RemoteAddr = remote
			r.Header.Set(adminhttp.TokenHeader, tok)
			w := httptest.NewRecorder()
			p.h.ServeHTTP(w, r)
			return w
		}
		const eve, bob = "192.0.2.1:1234", "192.0.2.2:1234"
		for range 10 {
			require.Equal(t, 401, try(eve, "guess").Code)
		}
		w := try("192.0.2.1:999", "guess")
		require.Equal(t, 429, w.Code)
		require.Equal(t, "6", w.Header().Get("Retry-After"))
		require.Equal(t, 200, try(eve, token).Code, "the right one, from the same address")
		require.Equal(t, 401, try(bob, "typo").Code, "another address")
		time.Sleep(6 * time.Second)
		require.Equal(t, 401, try(eve, "guess").Code)
		require.Equal(t, 429, try(eve, "guess").Code)

		refused := 0
		for n := range 5000 { // from a whole network, and from IPv6
			for _, remote := range []string{fmt.Sprintf("10.1.%d.%d:1", n/256, n%256), fmt.Sprintf("[2001:db8:1:%x::1]:1", n), fmt.Sprintf("[2001:db8::%x]:1", n), "@", ""} {
				if try(remote, "guess").Code == 429 {
					refused++
				}
			}
		}
		require.Greater(t, refused, 24_800, "all together are slowed down too")
		require.Equal(t, 200, try("10.1.0.1:1", token).Code)
		require.LessOrEqual(t, p.h.Remembered(), 1024)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 401, try("10.200.0.1:1", "guess").Code)
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

func TestBadInputIsA4xxThatSaysWhatToSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run()
		<-p.codes
		const js = "application/json"
		for _, c := range []struct {
			method, path, kind, body string
			code                     int
			word                     string
		}{
			{"POST", "/api/whatsapp/pair", "", `{"phone":"+491520000001"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/pair", "text/plain", `{"phone":"+491520000001"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/pair", js, ``, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `[]`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":1}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":""}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"0152 0000001"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"+49 abc"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"１２３４５６７８"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"` + strings.Repeat("1", 5000) + `"}`, 413, "body_too_large"},
			{"POST", "/api/whatsapp/logout", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/reconnect", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/logout", "", "", 409, "not_paired"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", "", `{"confirm":"purge-rows"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, ``, 400, "bad_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{"confirm":true}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{"confirm":"purge-device"}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", "text/plain", `{"confirm":"purge-device"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `null`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"yes"}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"` + strings.Repeat("x", 5000) + `"}`, 413, "body_too_large"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"purge-device"}`, 409, "nothing_deleted"},
			{"POST", "/api/whatsapp/quarantine/restore-device", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/quarantine/restore-device", "", "", 409, "nothing_deleted"},
			{"GET", "/api/whatsapp/quarantine/purge-rows", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/quarantine/purge-device", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/quarantine/restore-device", "", "", 405, "method_not_allowed"},
			{"POST", "/api/whatsapp/quarantine", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/pair", "", "", 405, "method_not_allowed"},
			{"DELETE", "/api/longrun/status-now", "", "", 405, "method_not_allowed"},
			{"POST", "/health", "", "", 405, "method_not_allowed"},
			{"GET", "/nothing", "", "", 404, "not_found"},
			{"POST", "/api/longrun/status-now/", "", "", 404, "not_found"},
		} {
			w := p.req(c.method, c.path, c.body, "Content-Type", c.kind)
			require.Equal(t, c.word, p.answer(w, c.code)["error"], "%s %s %.40s", c.method, c.path, c.body)
			if c.code == 405 {
				require.NotEmpty(t, w.Header().Get("Allow"))
			}
		}
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

func TestEveryAnswerForbidsCachingFramingAndSniffing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		for _, path := range []string{"/", "/health", "/ready", "/api/longrun/status-now", "/api/whatsapp/qr", "/nothing"} {
			for _, tok := range []string{"", token} {
				h := p.get(path, adminhttp.TokenHeader, tok).Header()
				require.Equal(t, "no-store", h.Get("Cache-Control"))
				require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
				if path == "/" { // its forms tell where they come from, and no other site
					require.Equal(t, "same-origin", h.Get("Referrer-Policy"))
				} else {
					require.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
				}
				require.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
				require.Contains(t, h.Get("Content-Security-Policy"), "frame-ancestors 'none'")
				require.NotEmpty(t, h.Get("Content-Type"))
			}
		}
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

// FuzzAdmin sends anything at all, with and without the token.
func FuzzAdmin(f *testing.F) {
	f.Add("GET", "/api/longrun/status-now", token, "Accept", "image/png", []byte(nil))
	f.Add("POST", "/api/whatsapp/pair", token, "Content-Type", "application/json", []byte(`{"phone":"+491520000001"}`))
	f.Add("POST", "/api/whatsapp/pair", token, "Content-Type", "application/json; charset=\"", []byte(`{"phone":"\u0000"}`))
	f.Add("POST", "/api/whatsapp/logout", token, "Content-Length", "-1", bytes.Repeat([]byte("x"), 5000))
	f.Add("POST", "/api/whatsapp/reconnect", token, "", "", []byte("{}"))
	f.Add("GET", "/ready?standby=ok&%zz", "", "", "", []byte(nil))
	f.Add("GET", "//api/../health", "x", "X-Admin-Token", token, []byte(nil))
	f.Add("OPTIONS", "*", "", "Origin", "null", []byte(nil))
	f.Add("GET", "/api/whatsapp/quarantine", token, "Accept", "text/html", []byte(nil))
	f.Add("POST", "/api/whatsapp/quarantine/purge-rows", token, "Content-Type", "application/json", []byte(`{"confirm":"purge-rows"}`))
	f.Add("POST", "/api/whatsapp/quarantine/purge-device", token, "Content-Type", "application/json; a=b", []byte(`{"confirm":"purge-device","confirm":null}`))
	f.Add("POST", "/api/whatsapp/quarantine/restore-device", token, "Content-Type", "", []byte(`[[[`))
	standby, err := stability.New(stability.WithBackend(quietBackend()), stability.WithLogger(silent()))
	require.NoError(f, err)
	defer standby.Close(context.Background())
	var handlers []*adminhttp.Handler
	for _, m := range []*stability.Manager{standby, spoiled(f, 3)} {
		h, err := adminhttp.New(m, adminhttp.WithToken(token), adminhttp.WithPairTimeout(time.Millisecond))
		require.NoError(f, err)
		handlers = append(handlers, h)
	}
	f.Fuzz(func(t *testing.T, method, target, tok, name, value string, body []byte) {
		for _, h := range handlers {
			r := httptest.NewRequest("GET", "/", bytes.NewReader(body))
			r.Method, r.URL.Path = method, target
			if path, query, ok := strings.Cut(target, "?"); ok {
				r.URL.Path, r.URL.RawQuery = path, query
			}
			r.Header.Set(name, value)
			r.Header.Set(adminhttp.TokenHeader, tok)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			open := r.URL.Path == "/" || r.URL.Path == "" || r.URL.Path == "/health" || r.URL.Path == "/ready" || r.URL.Path == "/sign-in"
			if tok != token && !open {
				require.Contains(t, []int{401, 429}, w.Code)
			}
			if r.URL.Path != "/ready" && r.URL.Path != "/api/whatsapp/pair" { // which say so with 503
				require.Less(t, w.Code, 500)
			}
			if w.Header().Get("Content-Type") == "application/json; charset=utf-8" {
				require.True(t, json.Valid(w.Body.Bytes()))
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
